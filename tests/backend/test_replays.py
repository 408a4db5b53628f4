"""Answers kept for requests that come again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from backend.replays import ReplayStore
from backend.services.common import Refusal


class Clock:
    """A time of day that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The store's clock."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> ReplayStore:
    """An empty store whose runs live for 40 s."""
    return ReplayStore(tmp_path / "replays.sqlite3", lease=40, now=clock)


def test_finished_run_is_replayed(store: ReplayStore) -> None:
    """The answer of the first run is that of all later ones."""
    assert store.begin("k", "f").reply is None
    store.finish("k", {"answer": "yes"})

    assert store.begin("k", "f").reply == {"answer": "yes"}


def test_run_under_way_refuses_others(store: ReplayStore) -> None:
    """Two requests with one key never run at once."""
    store.begin("k", "f")

    with pytest.raises(Refusal) as refused:
        store.begin("k", "f")
    assert refused.value.status == 409
    assert refused.value.headers == {"Retry-After": "5"}


def test_only_one_of_many_begins(store: ReplayStore) -> None:
    """However many threads start at once, one runs."""
    barrier, begun = threading.Barrier(8), []

    def begin() -> None:
        barrier.wait(10)
        try:
            begun.append(store.begin("k", "f"))
        except Refusal:
            return

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(begun) == 1


def test_other_body_is_refused(store: ReplayStore) -> None:
    """A key stands for one request, whether it is under way, finished or abandoned."""
    store.begin("k", "f")
    for settle in (lambda: None, lambda: store.abandon("k")):
        settle()
        with pytest.raises(Refusal) as refused:
            store.begin("k", "g")
        assert refused.value.status == 422


def test_abandoned_run_is_followed_by_a_new_one(store: ReplayStore) -> None:
    """A request that failed for certain may be made anew, with keys of its own."""
    assert store.begin("k", "f").run == 0
    store.abandon("k")

    assert store.begin("k", "f").run == 1


def test_run_of_a_dead_process_is_taken_up(store: ReplayStore, clock: Clock) -> None:
    """After its lease the next run has the same number, and so finds what the dead one has done."""
    store.begin("k", "f")
    clock.now += 41

    assert store.begin("k", "f").run == 0


def test_finished_answer_is_not_abandoned(store: ReplayStore) -> None:
    """Once there is an answer, it stays."""
    store.begin("k", "f")
    store.finish("k", {"answer": "yes"})
    store.abandon("k")

    assert store.begin("k", "f").reply == {"answer": "yes"}


def test_answers_are_kept_for_a_day(store: ReplayStore, clock: Clock) -> None:
    """Then the key may be used again."""
    store.begin("k", "f")
    store.finish("k", {"answer": "yes"})
    clock.now += 24 * 3600 + 1

    assert store.begin("k", "g").reply is None


def test_keys_are_apart(store: ReplayStore) -> None:
    """One key says nothing about another."""
    store.begin("k", "f")

    assert store.begin("l", "f").run == 0
