"""The record of what operators did."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest

from service_utils.operating import AuditLog, Operator
from service_utils.testing import FakeClock

EVE = Operator(name="eve", address="10.0.0.7")


@pytest.fixture(params=["memory", "file"])
def log(request: pytest.FixtureRequest, tmp_path: Path, fake_clock: FakeClock) -> AuditLog:
    """A log in memory, and one in a file."""
    path = tmp_path / "audit" / "log.jsonl" if request.param == "file" else None
    return AuditLog(path, clock=fake_clock)


def test_an_entry_says_who_what_when_and_why(log: AuditLog, fake_clock: FakeClock) -> None:
    """What is asked first after an incident is all there."""
    log.record(EVE, "circuit.reset", "chroma", why="deployed a fix", details={"state": "open"})
    assert log.entries() == [
        {
            "at": fake_clock.now().isoformat(),
            "who": "eve",
            "address": "10.0.0.7",
            "action": "circuit.reset",
            "target": "chroma",
            "why": "deployed a fix",
            "outcome": "done",
            "details": {"state": "open"},
        }
    ]


def test_the_latest_goes_first(log: AuditLog) -> None:
    """A limited look shows the last entries."""
    for number in range(5):
        log.record(EVE, "circuit.reset", str(number), why="x")
    assert [each["target"] for each in log.entries(2)] == ["4", "3"]


def test_it_is_logged_too(log: AuditLog, caplog: pytest.LogCaptureFixture) -> None:
    """Who ships logs elsewhere has the entries there."""
    with caplog.at_level(logging.INFO, "service_utils.audit"):
        log.record(EVE, "circuit.reset", "chroma\nforged line", why="x")
    (record,) = caplog.records
    assert record.getMessage() == "circuit.reset by eve from 10.0.0.7 on chroma forged line: done (x)"
    assert record.__dict__["audit_who"] == "eve"


def test_the_file_is_private_and_grows(tmp_path: Path) -> None:
    """Its owner alone reads it; a second process goes on where the first ended."""
    path = tmp_path / "log.jsonl"
    AuditLog(path).record(EVE, "a", "", why="x")
    AuditLog(path).record(EVE, "b", "", why="x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["action"] for line in path.read_text("utf-8").splitlines()] == ["a", "b"]


def test_a_line_cut_off_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    """The entry after it begins a line of its own."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"who": "somebo')
    log = AuditLog(path)
    log.record(EVE, "after", "", why="x")
    assert [each["action"] for each in log.entries()] == ["after"]


def test_a_file_that_cannot_be_written_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The act goes on; the entry is in the log of the process."""
    folder = tmp_path / "audit"
    log = AuditLog(folder / "log.jsonl")
    (folder / "log.jsonl").unlink()
    folder.rmdir()
    log.record(EVE, "circuit.reset", "chroma", why="fire")
    assert "cannot be written" in caplog.text
    assert "fire" in caplog.text


def test_a_file_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    """Not at the first act, in the night."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        AuditLog(tmp_path / "file" / "log.jsonl")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201, "\x1b[31mred", "a\u2028b"])
def test_a_name_is_some_words_on_one_line(name: str) -> None:
    """Whoever writes several lines could write somebody else's entry."""
    with pytest.raises(ValueError, match="operator="):
        Operator(name=name)


def test_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    """A log of years is not read as a whole."""
    path = tmp_path / "log.jsonl"
    entry = '{"action": "old", "pad": "' + "x" * 1000 + '"}\n'
    path.write_text(entry * 2000)
    log = AuditLog(path)
    log.record(EVE, "new", "", why="x")
    found = log.entries(100_000)
    assert found[0]["action"] == "new"
    assert 100 < len(found) < 2000
