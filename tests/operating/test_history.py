"""What has happened lately, in memory and in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from service_utils.operating import Change, ChangeKind, History, MemoryHistory, Sample, SQLiteHistory


@pytest.fixture(params=["memory", "sqlite"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    """Both kinds."""
    return SQLiteHistory(tmp_path / "history.sqlite3") if request.param == "sqlite" else MemoryHistory()


def change(at: float, to_state: str = "open", name: str = "chroma") -> Change:
    """A change of a circuit."""
    return Change(
        at=at,
        kind=ChangeKind.CIRCUIT,
        name=name,
        service=name.title(),
        from_state="closed",
        to_state=to_state,
        reason="why",
    )


def sample(at: float, total: int = 1, name: str = "chroma", member: str = "host") -> Sample:
    """A sample of a service."""
    return Sample(at=at, name=name, member=member, total=total, failed=0, rejected=0, retried=0)


def test_the_latest_change_goes_first(history: History) -> None:
    """By time, whoever was quicker to keep his."""
    history.add([change(30.0, "half_open")], [])
    history.add([change(10.0, "open"), change(40.0, "closed")], [])
    assert [each.to_state for each in history.changes(10)] == ["closed", "half_open", "open"]
    assert history.changes(1) == [change(40.0, "closed")]
    assert history.changes(10, since=30.0) == [change(40.0, "closed"), change(30.0, "half_open")]


def test_of_one_moment_the_later_goes_first(history: History) -> None:
    """Two changes within one tick of the clock stay in their order."""
    history.add([change(10.0, "open"), change(10.0, "half_open")], [])
    assert [each.to_state for each in history.changes(10)] == ["half_open", "open"]


def test_samples_are_kept_for_a_while(history: History) -> None:
    """Twenty minutes, for a page that shows fifteen."""
    for at in range(0, 2000, 100):
        history.add([], [sample(float(at), at)])
    assert [each.at for each in history.samples(0.0)] == [float(at) for at in range(700, 2000, 100)]
    assert [each.total for each in history.samples(1850.0)] == [1900]


def test_no_more_than_two_thousand_changes_are_kept(history: History) -> None:
    """A circuit that flaps for weeks fills no disk."""
    for begin in range(0, 2500, 500):
        history.add([change(float(at)) for at in range(begin, begin + 500)], [])
    found = history.changes(10_000)
    assert len(found) == 2000
    assert found[-1].at == 500.0


def test_a_file_is_shared_and_survives(tmp_path: Path) -> None:
    """Another process, or the next one, sees what was kept."""
    SQLiteHistory(tmp_path / "h").add([change(1.0)], [sample(1.0)])
    other = SQLiteHistory(tmp_path / "h")
    assert (other.changes(5), other.samples(0.0)) == ([change(1.0)], [sample(1.0)])


def test_as_json() -> None:
    """Times are ISO 8601 in UTC."""
    assert change(0.0).as_dict() == {
        "at": "1970-01-01T00:00:00+00:00",
        "kind": "circuit",
        "name": "chroma",
        "service": "Chroma",
        "from": "closed",
        "to": "open",
        "reason": "why",
    }
