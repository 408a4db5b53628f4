"""MemoryBreakerStore: circuits that the breakers of one process share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service_utils.events import CircuitState
from service_utils.policies.record import BLANK, MAX_LEASES, Lease, Trip
from service_utils.policies.store import MemoryBreakerStore
from tests.forked import in_child
from tests.policies.store_contract import (
    CLOSED,
    FORCED_OPEN,
    NAME,
    NOW,
    RECOVERY,
    SUCCESS,
    TRIED,
    Ear,
    Members,
    StoreContract,
    asking,
    lease,
    trip,
)
from tests.side_by_side import PATIENCE, in_thread, together


class TestMemoryBreakerStore(StoreContract):
    @pytest.fixture
    def members(self) -> Members:
        store = MemoryBreakerStore()
        return store, store


@pytest.fixture
def store() -> MemoryBreakerStore:
    return MemoryBreakerStore()


@pytest.fixture
def threads_switch_often() -> Iterator[None]:
    """So that a race that is there shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_repr(store: MemoryBreakerStore) -> None:
    """It says how much it knows."""
    trip(store)
    assert repr(store) == "<MemoryBreakerStore of 1 circuits>"


def test_two_stores_share_nothing(store: MemoryBreakerStore) -> None:
    """Breakers that shall be as one are given the same store."""
    trip(store)
    assert MemoryBreakerStore().read(NAME) == BLANK


def test_whoever_changes_tells(store: MemoryBreakerStore) -> None:
    """All have been told when the change returns, whether others have told before; of a no-op nobody is."""
    ears = [Ear() for _ in range(3)]
    for ear in ears:
        store.cell(NAME, ear.hear)
    elsewhere = Ear()
    store.cell("other", elsewhere.hear)
    trip(store)
    trip(store)  # it is open already
    assert [ear.told for ear in (*ears, elsewhere)] == [1, 1, 1, 0]


def test_those_that_are_gone_leave_nothing(store: MemoryBreakerStore) -> None:
    """A store that outlives thousands of breakers does not grow with them."""
    for _ in range(1000):
        store.cell(NAME, Ear().hear)
    ear = Ear()
    store.cell(NAME, ear.hear)
    _, listening = store._cells[NAME]
    assert len(listening) == 1


def test_told_without_the_lock(store: MemoryBreakerStore) -> None:
    """Who is told may wait for another thread that uses the store."""

    class Waiting:
        done: bool | None = None

        def hear(self) -> None:
            self.done = in_thread(lambda: store.pause("other", 1.0, 1.0))

    waiting = Waiting()
    store.cell(NAME, waiting.hear)
    trip(store)
    assert waiting.done is True


def test_told_what_changes_more(store: MemoryBreakerStore) -> None:
    """Who is told may change the circuit in turn."""

    class Reset:
        def hear(self) -> None:
            if store.read(NAME).state is not CLOSED:
                store.override(NAME, CLOSED, "reset by hand", asking())

    reset = Reset()
    store.cell(NAME, reset.hear)
    trip(store)
    assert store.read(NAME).state is CLOSED
    assert store.cell(NAME).words[0] == store.read(NAME).version


# -- threads -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("threads_switch_often")
@pytest.mark.parametrize("round_", range(3))
def test_trips_of_many_threads(store: MemoryBreakerStore, round_: int) -> None:
    """Of 32 members that trip on the same version one wins, and all are told who."""
    version = store.read(NAME).version

    def work(index: int) -> Any:
        return store.trip(NAME, version, Trip("rate", NOW, NOW + 10, index + 1))

    records = together(32, work)
    assert len(set(records)) == 1
    assert (records[0].opened, records[0].generation) == (1, 1)
    assert records[0].by in range(1, 33)


@pytest.mark.usefixtures("threads_switch_often")
@pytest.mark.parametrize("places", [1, 5, 50])
def test_leases_of_many_threads(store: MemoryBreakerStore, places: int) -> None:
    """Of 32 members that ask at one moment as many probe as there are places."""
    trip(store)

    def work(index: int) -> Lease | None:
        return store.lease_probe(NAME, asking(TRIED, by=index, half_open_max_calls=places))[1]

    leases = [each for each in together(32, work) if each is not None]
    assert len(leases) == min(places, MAX_LEASES)
    assert len({each.token for each in leases}) == len(leases)
    assert sorted(store.read(NAME).leases) == sorted(leases)


@pytest.mark.usefixtures("threads_switch_often")
def test_no_change_is_lost(store: MemoryBreakerStore) -> None:
    """However many change one circuit at a time, each does so on what the one before has left."""

    def work(index: int) -> None:
        for _ in range(50):
            store.override(NAME, (CLOSED, FORCED_OPEN)[index % 2], "by hand", asking())

    together(8, work)
    record = store.read(NAME)
    assert (record.generation, record.version) == (400, 400)
    assert store.cell(NAME).words[0] == 400


@pytest.mark.usefixtures("threads_switch_often")
def test_versions_seen_by_other_threads(store: MemoryBreakerStore) -> None:
    """Who looks meanwhile sees versions and generations rise, never a record of one and a cell of another."""
    cell, over = store.cell(NAME), threading.Event()

    def look() -> None:
        known = store.read(NAME)
        while not over.is_set():
            number, record = cell.words[0], store.read(NAME)
            assert known.version <= record.version
            assert known.generation <= record.generation
            assert number <= record.version
            known = record

    def change() -> None:
        try:
            for number in range(100):
                now = NOW + number * 2 * RECOVERY
                trip(store, now)
                store.report(NAME, lease(store, now + RECOVERY).token, SUCCESS, asking(now + RECOVERY))
        finally:
            over.set()

    together(4, lambda index: look() if index else change())
    record = store.read(NAME)
    assert (record.generation, record.opened, record.outages) == (300, 100, 100)


@pytest.mark.usefixtures("threads_switch_often")
def test_cells_of_many_threads(store: MemoryBreakerStore) -> None:
    """Members that join while the circuit changes are told of what comes after, and see it in their cells."""
    ears = [Ear() for _ in range(16)]

    def work(index: int) -> Any:
        if index % 4 == 0:
            store.pause(NAME, NOW + index, 1.0)
        return store.cell(NAME, ears[index].hear)

    cells = together(16, work)
    before = [ear.told for ear in ears]
    version = trip(store).version
    assert [ear.told for ear in ears] == [told + 1 for told in before]
    assert [cell.words[0] for cell in cells] == [version] * 16


# -- forks ---------------------------------------------------------------------------------------------


def test_a_child_goes_on_by_itself(store: MemoryBreakerStore) -> None:
    """It knows what the parent knew; from then on each has its own circuits."""
    trip(store)

    def child() -> tuple[CircuitState, CircuitState]:
        before = store.read(NAME).state
        return before, store.override(NAME, CLOSED, "reset by hand", asking()).state

    assert in_child(child) == ("open", "closed")
    assert store.read(NAME).state is CircuitState.OPEN


def test_children_of_a_store_at_work(store: MemoryBreakerStore) -> None:
    """Threads that change circuits all the time leave no child waiting, and none with half a change."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            trip(store)
            store.override(NAME, CLOSED, "reset by hand", asking())

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()

    def child() -> bool:
        record, cell = store.read(NAME), store.cell(NAME)
        assert cell.words[0] == record.version
        return in_thread(lambda: trip(store))

    try:
        assert all(in_child(child) for _ in range(10))
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)


def test_a_child_has_no_probes_under_way() -> None:
    """Its parent's are the parent's own; nobody in the child would ever report them."""
    store = MemoryBreakerStore()
    trip(store)
    store.lease_probe(NAME, asking(TRIED))
    cell = store.cell(NAME)

    def child() -> tuple[int, bool]:
        record = store.read(NAME)
        return len(record.leases), cell.words[0] == record.version

    assert in_child(child) == (0, True)
    assert len(store.read(NAME).leases) == 1
