"""Members: what each process has counted is added up, and of those that have gone, once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from service_utils.calls import Outcome
from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.integrations.shared_memory.layout import (
    MEMBERS,
    SERVICES,
    SIZE,
    SLOT,
    SLOTS,
    Damaged,
    Header,
)
from service_utils.integrations.shared_memory.locks import let_go, lock_file, take
from service_utils.integrations.shared_memory.members import Members
from service_utils.integrations.shared_memory.segment import Files, Segment
from service_utils.policies.breaker import BreakerConfig, CircuitBreaker
from service_utils.policies.record import Asking
from service_utils.policies.store import StoreUnavailable
from service_utils.status import CallCounters, Word
from tests.integrations.shared_memory.conftest import MakeChild, MakeStore
from tests.integrations.shared_memory.processes import Child, until

NAME = "billing"
FOLDED_WITHIN = SOON = 5.0  # seconds, for a busy machine; members look for the dead once in one


class Counting:
    """One member, and what it counts of one service."""

    def __init__(self, store: SharedMemoryStore, name: str = NAME) -> None:
        self.store = store
        self.name = name
        self.counters = CallCounters(name, store)
        store.read(name)

    def count(self, succeeded: int, failed: int = 0) -> None:
        now = time.monotonic()
        for outcome in [Outcome.SUCCESS] * succeeded + [Outcome.FAILURE] * failed:
            self.counters.began()
            self.counters.finished(outcome, [0.01], None, now)

    @property
    def total(self) -> int:
        """What all have counted together."""
        host = self.store.host(self.name)
        assert host is not None
        return host.words[Word.TOTAL]

    @property
    def pids(self) -> list[int]:
        """Who lives."""
        host = self.store.host(self.name)
        assert host is not None
        return [worker.pid for worker in host.workers]


@contextmanager
def opened(path: Path) -> Iterator[Segment]:
    """The mapped file, as somebody sees it who is no member."""
    segment = Files(path).find()
    try:
        yield segment
    finally:
        segment.close()


@contextmanager
def alone(path: Path) -> Iterator[Segment]:
    """The mapped file, locked: what whoever comes or folds has to have."""
    with opened(path) as segment:
        assert lock_file(segment.descriptor, FOLDED_WITHIN)
        yield segment  # closing it gives the lock back


def folded(path: Path, name: str = NAME) -> int:
    """Calls of those that have gone."""
    with opened(path) as segment:
        index = [place.name() for place in segment.places].index(name.encode())
        rows, _ = Members(segment).rows(index)
        return rows[0][0][Word.TOTAL]


def always(condition: Callable[[], object], until_then: Callable[[], object]) -> bool:
    """Whether something is true each time one looks, until something else is."""
    right: list[bool] = []

    def look() -> object:
        right.append(bool(condition()))
        return until_then()

    return bool(until(look, FOLDED_WITHIN)) and all(right)


@pytest.fixture
def one(store: SharedMemoryStore) -> Counting:
    return Counting(store)


@pytest.fixture
def two(other: SharedMemoryStore) -> Counting:
    return Counting(other)


def test_members_add_up(one: Counting, two: Counting) -> None:
    """Each of them tells what both have counted, by outcome."""
    one.count(3, 1)
    two.count(5, 2)
    for each in (one, two):
        host = each.store.host(NAME)
        assert host is not None
        words = host.words
        assert (words[Word.TOTAL], words[Word.SUCCEEDED], words[Word.FAILED]) == (11, 8, 3)
        assert sum(host.buckets) == 11


def test_services_are_counted_apart(make_store: MakeStore) -> None:
    """Calls of one are not those of another."""
    stores = [make_store() for _ in range(2)]
    counting = [Counting(store, name) for store in stores for name in ("billing", "chroma")]
    for number, each in enumerate(counting):
        each.count(10**number)
    assert [each.total for each in counting] == [101, 1010, 101, 1010]


def test_what_was_counted_before_it_was_shared(make_store: MakeStore) -> None:
    """It is not lost: counters come along with what they have."""
    store = make_store()
    counters = CallCounters(NAME, store)
    counters.finished(Outcome.SUCCESS, [0.01], None, time.monotonic())
    one = Counting(store)
    one.count(2)
    assert one.total == 3


def test_two_clients_of_one_member(store: SharedMemoryStore, two: Counting) -> None:
    """They are one worker, and all of their calls count."""
    first, second = Counting(store), Counting(store)
    first.count(2)
    second.count(3)
    assert first.total == second.total == two.total == 5
    assert len(two.pids) == 2


def test_workers(one: Counting, make_child: MakeChild, path: Path) -> None:
    """Each is known by its process, since when it counts, what it has done and what it is doing."""
    child = make_child(counting_orders(path))
    child.ask("count", 4)
    one.count(2)
    one.counters.began()
    host = one.store.host(NAME)
    assert host is not None
    workers = {worker.pid: worker for worker in host.workers}
    assert set(workers) == {os.getpid(), child.pid}
    assert (workers[child.pid].requests, workers[child.pid].in_flight) == (4, 0)
    assert (workers[os.getpid()].requests, workers[os.getpid()].in_flight) == (2, 1)
    today = datetime.now(UTC)
    assert all(today - timedelta(minutes=1) < worker.since <= today for worker in workers.values())


def counting_orders(path: Path) -> dict[str, Callable[..., object]]:
    """For a child: count some calls, each time in a member that it makes at the first."""
    made: list[Counting] = []

    def count(succeeded: int) -> None:
        if not made:
            made.append(Counting(SharedMemoryStore(path)))
        made[0].count(succeeded)

    return {"count": count}


# -- those that go -------------------------------------------------------------------------------------


def test_who_is_killed_is_added_once(one: Counting, make_child: MakeChild, path: Path) -> None:
    """At no moment is a call missing or counted twice, and it lives no more."""
    one.count(2)
    child = make_child(counting_orders(path))
    child.ask("count", 5)
    assert sorted(one.pids) == sorted([os.getpid(), child.pid])
    child.kill()
    assert one.pids == [os.getpid()]
    assert always(lambda: one.total == 7, lambda: folded(path) == 5)
    assert one.total == 7


def test_who_leaves_is_added_once(one: Counting, two: Counting, path: Path) -> None:
    """The same of one that closes its store, though its clients live on."""
    one.count(2)
    two.count(5)
    breaker = CircuitBreaker(NAME, store=two.store)
    breaker.release(breaker.acquire())
    two.store.close()
    assert len(one.pids) == 1
    two.counters.finished(
        Outcome.SUCCESS, [0.01], None, time.monotonic()
    )  # which is nobody's business any more
    assert always(lambda: one.total == 7, lambda: folded(path) == 5)
    assert one.total == 7
    assert two.counters.snapshot()["requests"]["total"] == 1


def passing(path: Path, calls: int) -> int:
    """Come, count some calls and go again. Returns the slot of the one that did so."""
    with alone(path) as segment:
        members = Members(segment)
        members.join(datetime.now(UTC))
        row = members.row(0)
        assert row is not None
        assert members.number is not None
        row[0][Word.BEGUN] += calls
        row[0][Word.TOTAL] += calls
        return members.number


@pytest.mark.usefixtures("brisk")
def test_many_that_go(one: Counting, make_child: MakeChild, path: Path) -> None:
    """One after another, and all at once."""
    for before, number in ((0, 1), (3, 3)):
        children: list[Child] = [make_child(counting_orders(path)) for _ in range(number)]
        for child in children:
            child.ask("count", 3)
        for child in children:
            child.kill()
        gone = before + 3 * number
        assert always(partial(_total_is, one, gone), partial(_folded_is, path, gone))


def _total_is(one: Counting, calls: int) -> bool:
    return one.total == calls


def _folded_is(path: Path, calls: int) -> bool:
    return folded(path) == calls


@pytest.fixture
def nobody_folds(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The threads of the living leave it to the test."""
    monkeypatch.setattr("service_utils.integrations.shared_memory.store._FOLD_EVERY", 3600.0)
    monkeypatch.setattr(SharedMemoryStore, "_fold", lambda _: None)
    return monkeypatch


@pytest.mark.usefixtures("nobody_folds")
def test_folding_that_is_cut_off(one: Counting, path: Path) -> None:
    """Whoever dies when the sum is written but the slot still full has added it; nobody does again."""
    number = passing(path, 5)
    one.count(2)
    with opened(path) as segment:
        Members(segment)._fold(number)
        assert folded(path) == 5
        assert one.total == 7
        assert len(one.pids) == 1
        Members(segment).fold_the_dead()
        Members(segment).fold_the_dead()
    assert folded(path) == 5
    assert one.total == 7


@pytest.mark.usefixtures("nobody_folds")
def test_a_slot_whose_folding_was_cut_off_is_used_again(one: Counting, path: Path) -> None:
    """Who comes next counts from zero; what was there is neither lost nor added again."""
    number = passing(path, 5)
    with alone(path) as segment:
        Members(segment)._fold(number)
    assert passing(path, 3) == number
    one.count(1)
    assert one.total == 9
    with alone(path) as segment:
        Members(segment).fold_the_dead()
        Members(segment).fold_the_dead()
    assert folded(path) == 8
    assert one.total == 9


@pytest.mark.usefixtures("nobody_folds")
def test_who_takes_a_slot_adds_up_what_is_in_it(one: Counting, path: Path) -> None:
    """Though nobody has looked for the dead meanwhile."""
    assert passing(path, 5) == passing(path, 5) == passing(path, 5)
    assert one.total == 15
    assert folded(path) == 10


@pytest.mark.usefixtures("nobody_folds")
def test_a_sum_that_is_cut_off(one: Counting, path: Path) -> None:
    """Whoever dies while writing the sum has added nothing, and it is added later."""
    passing(path, 5)
    with opened(path) as segment:
        members = Members(segment)
        version, data = members._read_folded()
        copies = members._folded
        start = copies._copies_at + (version + 1 & 1) * copies._size
        segment.memory[start : start + len(data)] = b"\xa5" * len(data)
        assert one.total == 5
        assert folded(path) == 0
        members.fold_the_dead()
    assert folded(path) == 5
    assert one.total == 5


@pytest.mark.usefixtures("nobody_folds")
def test_the_living_are_not_folded(one: Counting, two: Counting, path: Path) -> None:
    """Whoever looks for the dead leaves alone who holds his slot."""
    one.count(2)
    two.count(3)
    with alone(path) as segment:
        Members(segment).fold_the_dead()
    assert folded(path) == 0
    two.count(4)
    assert one.total == 9


# -- too many ------------------------------------------------------------------------------------------


def test_slots_are_used_again(one: Counting, path: Path) -> None:
    """However many come and go, there is room, and all that they have counted is there."""
    assert {passing(path, 1) for _ in range(MEMBERS + 6)} == {1}
    assert one.total == MEMBERS + 6


def test_slots_of_closed_stores_are_used_again(make_store: MakeStore, one: Counting) -> None:
    """The same of stores of one process, whatever still refers to them."""
    for _ in range(MEMBERS + 6):
        another = Counting(make_store())
        another.count(1)
        another.store.close()
    assert one.total == MEMBERS + 6
    assert len(one.pids) == 1


@pytest.fixture
def crowd(path: Path) -> Iterator[Segment]:
    """Somebody who holds the locks of all slots."""
    segment = Files(path).find_or_make()
    for number in range(MEMBERS):
        assert take(segment.descriptor, SIZE + number)
    yield segment
    segment.close()


def test_more_members_than_slots(
    crowd: Segment, make_store: MakeStore, lines: Callable[[], list[str]]
) -> None:
    """They share the circuit, but each counts its calls alone."""
    one, two = (Counting(make_store()) for _ in range(2))
    one.count(2)
    two.count(3)
    assert one.store.host(NAME) is two.store.host(NAME) is None
    assert [each.counters.snapshot()["requests"]["total"] for each in (one, two)] == [2, 3]
    breakers = [CircuitBreaker(NAME, store=each.store) for each in (one, two)]
    breakers[0].force_open("for all")
    assert breakers[1].state is CircuitState.FORCED_OPEN
    let_go(crowd.descriptor, SIZE + 17)
    three = Counting(make_store())
    three.count(4)
    assert three.total == 4
    assert lines() == []


def test_members_of_full_house(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there is room for add up; the next one is told nothing wrong."""
    # So many threads of one process, all of which look after one file, are in each other's way.
    monkeypatch.setattr("service_utils.integrations.shared_memory.keeper._ROUND", 60.0)
    counting = [Counting(make_store()) for _ in range(MEMBERS)]
    late = Counting(make_store())
    for each in (*counting, late):
        each.count(1)
    assert counting[0].total == counting[-1].total == MEMBERS
    assert len(counting[0].pids) == MEMBERS
    assert late.store.host(NAME) is None
    late.store.override(NAME, CircuitState.FORCED_OPEN, "by the last", Asking(1, 1.0, BreakerConfig()))
    assert counting[0].store.read(NAME).reason == "by the last"


def test_more_services_than_places(
    path: Path, store: SharedMemoryStore, other: SharedMemoryStore, lines: Callable[[], list[str]]
) -> None:
    """Those have circuits of their own in each process, and one line in each says so of each."""
    for each in (store, other):
        for number in range(SERVICES):
            each.read(f"service-{number}")
    for name in ("one-more", "another"):
        breakers = [CircuitBreaker(name, store=each, failure_threshold=1) for each in (store, other)]
        for each in (store, other) * 3:
            with pytest.raises(StoreUnavailable):
                each.read(name)
        breakers[0].record(breakers[0].acquire(), Outcome.FAILURE)
        assert [each.state for each in breakers] == [CircuitState.OPEN, CircuitState.CLOSED]
        counters = CallCounters(name, store)
        counters.finished(Outcome.SUCCESS, [0.01], None, time.monotonic())
        assert counters.snapshot()["requests"]["total"] == 1
    shared = [CircuitBreaker(f"service-{SERVICES - 1}", store=each) for each in (store, other)]
    shared[0].force_open("for all")
    assert shared[1].state is CircuitState.FORCED_OPEN
    warning = "WARNING Shared state {} has no room for another circuit, {!r}: it is not shared"
    expected = [warning.format(path, name) for name in ("one-more", "another") for _ in range(2)]
    assert lines() == expected


def test_slots_do_not_overlap(one: Counting, two: Counting, path: Path) -> None:
    """What one member counts is in its slot alone."""
    one.count(1)
    with opened(path) as segment:
        before = segment.memory[SLOTS + SLOT : SLOTS + 2 * SLOT]
        one.count(100, 50)
        assert segment.memory[SLOTS + SLOT : SLOTS + 2 * SLOT] == before
    assert two.total == 151


# -- another file --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
def test_the_living_take_their_counts_along(one: Counting, two: Counting, path: Path) -> None:
    """When the mapped file is deleted each goes on where it was."""
    one.count(2, 1)
    two.count(3)
    with opened(path) as segment:
        segment.path.unlink()
    assert until(lambda: _moved(path, one, two), SOON)
    assert one.total == two.total == 6
    one.count(1)
    two.count(0, 1)
    assert one.total == two.total == 8
    host = two.store.host(NAME)
    assert host is not None
    assert (host.words[Word.SUCCEEDED], host.words[Word.FAILED], sum(host.buckets)) == (6, 2, 8)


def _moved(path: Path, *counting: Counting) -> bool:
    homes = [each.store._home.segment for each in counting]
    header = _header_of(path)
    return header is not None and all(home is not None and home.header == header for home in homes)


@pytest.mark.usefixtures("brisk")
def test_counts_of_a_spoilt_file_are_left_behind(one: Counting, two: Counting, path: Path) -> None:
    """What somebody wrote over has no checksum: all begin from nothing, and nothing absurd is told."""
    one.count(2)
    two.count(3)
    with opened(path) as segment:
        old = segment.header
        segment.memory[:] = b"\xa5" * SIZE
    assert until(lambda: _header_of(path) not in (None, old) and _moved(path, one, two), SOON)
    one.count(1)
    two.count(1)
    assert one.total == two.total == 2
    assert len(one.pids) == 2


@pytest.mark.usefixtures("brisk")
def test_a_look_while_the_file_is_left(one: Counting, two: Counting, path: Path) -> None:
    """Whoever adds up while the store's thread moves learns at worst that it cannot be known."""
    one.count(2)
    two.count(3)
    members = one.store._home.members
    assert members is not None
    assert len(members.rows(0)[1]) == 2
    with opened(path) as segment:
        segment.path.unlink()
    seen = set()
    while not _moved(path, one, two):
        host = one.store.host(NAME)
        seen.add(None if host is None else host.words[Word.TOTAL])
    assert seen <= {None, 2, 3, 5}
    with pytest.raises(StoreUnavailable, match="has been left"):
        members.rows(0)
    assert one.total == two.total == 5


@pytest.mark.usefixtures("brisk")
def test_a_last_error_between_two_files(one: Counting, two: Counting, path: Path) -> None:
    """What is noted while the file is another one is noted in that."""
    with opened(path) as segment:
        segment.path.unlink()
    for number in range(200):
        one.counters.began()
        one.counters.finished(Outcome.FAILURE, [0.01], f"error {number}", time.monotonic())
        one.store.host(NAME)
    assert until(lambda: _moved(path, one, two), SOON)
    assert until(lambda: _error(two) == "error 199", SOON)


def _error(counting: Counting) -> str | None:
    host = counting.store.host(NAME)
    return None if host is None else host.last_error


def _header_of(path: Path) -> Header | None:
    try:
        with opened(path) as segment:
            return segment.header
    except (Damaged, OSError):
        return None
