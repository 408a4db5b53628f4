"""Whoever is killed in the middle of a write to shared state has changed all of it or nothing."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.integrations.shared_memory.members import Members
from service_utils.integrations.shared_memory.segment import Files
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.record import Asking, Trip
from service_utils.status import Word
from tests.torture.deaths import FOLDING, JOINING, MAKING, NAMING, WRITING
from tests.torture.processes import Process, gang, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is shared so needs Linux")

_SOON = 0.5
_FOLDED_WITHIN = 5.0
_CALLS = 3

Dies = Callable[..., None]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gang() as processes:
        processes.append(Process("dying", {}, tmp_path_factory.mktemp("dying") / "log"))
        assert processes[0].hear() == {"ready": True}
        yield processes[0]


@pytest.fixture
def dies(nursery: Process) -> Dies:
    """Have a process be killed at a point of what it does to a service; without a point, after some calls."""

    def order(**order: object) -> None:
        nursery.say(order)
        assert nursery.hear() == {"status": -signal.SIGKILL}

    return order


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def witness(path: Path) -> Iterator[SharedMemoryStore]:
    """One who was there before, and is afterwards."""
    store = SharedMemoryStore(path)
    store.read("billing")
    yield store
    store.close()


def _trip(store: SharedMemoryStore, service: str) -> None:
    """Trip a closed circuit at once, whoever has died."""
    before, now = store.read(service), time.monotonic()
    after = store.trip(service, before.version, Trip("seen by a survivor", now, now + 60.0, 2))
    assert after.state is CircuitState.OPEN
    assert after.version == before.version + 1
    assert after.generation == before.generation + 1
    assert time.monotonic() - now < _SOON


def _names(path: Path) -> list[bytes]:
    segment = Files(path).find()
    segment.close()
    return [place.name() for place in segment.places if place.name()]


def _counted(path: Path, service: str) -> tuple[int, int]:
    """Calls in all, and how many of them are folded."""
    segment = Files(path).find()
    index = [place.name() for place in segment.places].index(service.encode())
    try:
        rows, _ = Members(segment).rows(index)
    finally:
        segment.close()
    totals = [words[Word.TOTAL] for words, _ in rows]
    return sum(totals), totals[0]


@pytest.mark.parametrize("point", WRITING)
def test_a_trip_is_done_or_not(dies: Dies, path: Path, witness: SharedMemoryStore, point: str) -> None:
    """A record is as it was until its number is written, then it is the new one; the lock is free."""
    before = witness.read("billing")
    dies(path=str(path), service="billing", point=point)
    after = witness.read("billing")
    if WRITING.index(point) < WRITING.index("after the number"):
        assert after == before
        _trip(witness, "billing")
    else:
        assert (after.state, after.reason) == (CircuitState.OPEN, "by one who dies")
        assert after.version == before.version + 1
        asking = Asking(2, time.monotonic(), BreakerConfig())
        assert witness.override("billing", CircuitState.CLOSED, "", asking).version == after.version + 1


@pytest.mark.parametrize("point", NAMING)
def test_a_name_is_taken_or_not(dies: Dies, path: Path, witness: SharedMemoryStore, point: str) -> None:
    """A new service has a place or none, and what is left half done is nobody's."""
    dies(path=str(path), service="chroma", point=point)
    _trip(witness, "ollama")
    _trip(witness, "chroma")
    _trip(witness, "billing")
    assert sorted(_names(path)) == [b"billing", b"chroma", b"ollama"]


@pytest.mark.parametrize("point", [*JOINING, *FOLDING])
def test_the_counts_of_the_dead_are_added_once(
    dies: Dies, path: Path, witness: SharedMemoryStore, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Who dies while taking a place, or adding up what others left, loses no call and counts none twice."""
    monkeypatch.setattr(Members, "fold_the_dead", lambda _: None)  # the living leave that to those who die
    # Of the two slots that are left behind one is for who comes next, the other one is for who looks for it.
    dies(path=str(path), service="billing", slots=2, calls=_CALLS)
    assert _counted(path, "billing") == (2 * _CALLS, 0)
    dies(path=str(path), service="billing", point=point)
    assert _counted(path, "billing")[0] == 2 * _CALLS
    monkeypatch.undo()
    survivor = SharedMemoryStore(path)
    try:
        survivor.read("billing")
        assert until(lambda: _counted(path, "billing") == (2 * _CALLS, 2 * _CALLS), _FOLDED_WITHIN)
        _trip(witness, "billing")
    finally:
        survivor.close()


@pytest.mark.parametrize("point", MAKING)
def test_a_file_that_is_half_made_is_in_nobodys_way(dies: Dies, path: Path, point: str) -> None:
    """The next one makes the file, or uses it if it was made."""
    dies(path=str(path), service="billing", point=point)
    stores = [SharedMemoryStore(path) for _ in range(2)]
    try:
        _trip(stores[0], "billing")
        assert stores[1].read("billing").state is CircuitState.OPEN
    finally:
        for store in stores:
            store.close()
    assert not Path(f"{path}.new").exists()
    mapped = [each for each in path.parent.glob("state.*") if each.stat().st_size]
    assert len(mapped) == 1
