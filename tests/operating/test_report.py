"""The reliability report."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.operating import Change, ChangeKind, MemoryHistory
from service_utils.operating.report import open_seconds, report_of
from service_utils.testing import FakeClock


def change(at: float, before: str, after: str) -> Change:
    """A change of chroma's circuit."""
    return Change(
        at=at,
        kind=ChangeKind.CIRCUIT,
        name="chroma",
        service="Chroma",
        from_state=before,
        to_state=after,
        reason="",
    )


@pytest.mark.parametrize(
    ("changes", "state", "seconds"),
    [
        ([], "closed", 0.0),
        ([], "open", 0.0),  # since when is not known: it is not guessed
        ([(10, "closed", "open"), (30, "open", "closed")], "closed", 20.0),
        ([(10, "closed", "open")], "open", 90.0),
        ([(30, "open", "closed")], "closed", 30.0),  # it was open when the time began
        ([(10, "closed", "open"), (30, "open", "half_open"), (40, "half_open", "open")], "open", 80.0),
        ([(10, "closed", "forced_open"), (20, "forced_open", "closed")], "closed", 10.0),
    ],
)
def test_time_open(changes: list[tuple[float, str, str]], state: str, seconds: float) -> None:
    """Half open is no longer open: somebody is let through."""
    latest_first = [change(*each) for each in reversed(changes)]
    assert open_seconds(latest_first, 0.0, 100.0, state) == seconds


def status(**more: Any) -> dict[str, Any]:
    """A service's status."""
    requests = {"total": 10, "succeeded": 9, "failed": 1, "rejected": 0, "retried": 0}
    return {"service": "Chroma", "state": "closed", "requests": requests, **more}


def test_it_says_how_services_did(fake_clock: FakeClock) -> None:
    """Success rate, openings, time open, and which was open the longest."""
    now = fake_clock.now().timestamp()
    history = MemoryHistory()
    history.add([change(now - 60, "closed", "open"), change(now - 24, "open", "closed")], [])
    report = report_of({"chroma": status(), "git": status()}, history, fake_clock)
    chroma = report["services"]["chroma"]
    assert (chroma["success_rate"], chroma["openings"], chroma["open_seconds"]) == (0.9, 1, 36.0)
    assert chroma["availability"] == round(1 - 36 / 86400, 6)
    assert report["summary"] == {
        "services": 2,
        "open": [],
        "calls": 20,
        "success_rate": 0.9,
        "openings": 1,
        "longest_open": "chroma",
    }
    assert report["advice"] == []


def test_it_gives_advice(fake_clock: FakeClock) -> None:
    """What deserves a look is said in a sentence."""
    now = fake_clock.now().timestamp()
    history = MemoryHistory()
    for at in range(6):
        history.add(
            [change(now - 100 + at * 2, "closed", "open"), change(now - 99 + at * 2, "open", "closed")], []
        )
    many = {"total": 200, "succeeded": 200, "failed": 0, "rejected": 0, "retried": 50}
    report = report_of(
        {
            "chroma": status(requests=many),
            "git": status(state="disabled"),
            "billing": status(state="forced_open"),
        },
        history,
        fake_clock,
    )
    assert [sentence.split(":")[0] for sentence in report["advice"]] == ["chroma", "chroma", "git", "billing"]
    assert "opened 6 times" in report["advice"][0]
    assert "25%" in report["advice"][1]


def test_a_service_that_cannot_tell_is_reported_all_the_same(fake_clock: FakeClock) -> None:
    """A status that failed has no numbers."""
    report = report_of({"chroma": {"name": "chroma", "error": "KeyError"}}, MemoryHistory(), fake_clock)
    assert report["services"]["chroma"]["success_rate"] is None
