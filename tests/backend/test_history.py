"""Entries that wait in memory while they cannot be written."""

from __future__ import annotations

import pytest
from flask import Flask

from backend.history import HistoryEntry, PendingEntries
from tests.backend.running import Services


def entries(*ids: str) -> list[dict[str, str]]:
    return [{"id": each} for each in ids]


def test_entries_are_given_back_in_their_order() -> None:
    """First in, first out; taken means gone."""
    pending = PendingEntries()
    pending.add("p", entries("1", "2"))
    pending.add("p", entries("3"))

    assert pending.peek("p") == pending.take("p") == entries("1", "2", "3")
    assert pending.take("p") == []


def test_memory_is_bounded() -> None:
    """The oldest entries of a project, and the oldest projects, make room."""
    pending = PendingEntries(per_project=2, projects=2)
    pending.add("p", entries("1", "2", "3"))
    assert pending.peek("p") == entries("2", "3")

    pending.add("q", entries("1"))
    pending.add("r", entries("1"))
    assert (pending.peek("p"), pending.peek("q"), pending.peek("r")) == ([], entries("1"), entries("1"))


def test_entries_are_not_lost_to_a_bug(
    app: Flask, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing breaks in an unforeseen way, what waited goes on waiting."""
    history = app.extensions["backend"].history
    monkeypatch.setattr(history._filesystem, "post", lambda *_args, **_kwargs: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        history.append("p", HistoryEntry(user="u", message="m", answer="a", answered_by="local"))

    assert [entry["message"] for entry in history._pending.peek("p")] == ["m"]
