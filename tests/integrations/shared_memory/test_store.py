"""SharedMemoryStore: clients of several processes are as one, whoever was there first or is forked."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from service_utils import RateLimitedError, ResilientServiceClient, RetryPolicy, ServiceRegistry
from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitChanged, CircuitState, Event
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.breaker import BreakerConfig, CircuitBreaker
from service_utils.policies.record import BLANK, Asking, Trip
from service_utils.policies.store import BreakerStore, StoreUnavailable
from service_utils.sharing import HostLeader
from service_utils.status import CallCounters, Word
from service_utils.testing import Answer, FaultServer
from tests.forked import in_child
from tests.integrations.shared_memory import processes
from tests.integrations.shared_memory.conftest import MakeChild, MakeStore
from tests.integrations.shared_memory.processes import until
from tests.side_by_side import together

NAME = "billing"
SOON = 5.0  # seconds, for a busy machine
TAKEN_OVER_WITHIN = 1.0
CLOSED, OPEN, FORCED_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.FORCED_OPEN


def asking() -> Asking:
    return Asking(1, time.monotonic(), BreakerConfig())


# -- what it is ----------------------------------------------------------------------------------------


def test_it_is_a_store_and_chooses_a_leader(store: SharedMemoryStore) -> None:
    """Breakers and clients take it for what it is."""
    assert isinstance(store, BreakerStore)
    assert isinstance(store, HostLeader)
    assert repr(store) == f"<SharedMemoryStore {str(store.path)!r} of 0 circuits>"


def test_nothing_is_opened_before_it_is_used(store: SharedMemoryStore, path: Path) -> None:
    """A store can be made before the workers are forked."""
    cell = store.cell(NAME)
    CircuitBreaker(NAME, store=store)
    CallCounters(NAME, store)
    assert cell.words[0] == 0
    assert not list(path.parent.iterdir())
    assert store.read(NAME)._replace(version=0) == BLANK
    assert path.exists()


@pytest.mark.parametrize("bad", [None, 7, ["a"]], ids=["none", "number", "list"])
def test_a_path_that_is_none(bad: Any) -> None:
    """It is found out when the store is made."""
    with pytest.raises(TypeError):
        SharedMemoryStore(bad)


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It means the same whatever the working directory is later."""
    monkeypatch.chdir(tmp_path)
    store = SharedMemoryStore("state")
    monkeypatch.chdir("/")
    store.read(NAME)
    store.close()
    assert (tmp_path / "state").exists()


def test_another_system(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Where locks are of another kind it says so when it is made."""
    monkeypatch.setattr("service_utils.integrations.shared_memory.store.SUPPORTED", False)
    with pytest.raises(RuntimeError, match="needs Linux"):
        SharedMemoryStore(path)


def test_after_close_breakers_go_on_alone(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """With the state that was known last; closing twice does nothing."""
    breaker = CircuitBreaker(NAME, store=store)
    breaker.force_open("for all")
    others = CircuitBreaker(NAME, store=other)
    assert others.state is FORCED_OPEN
    store.close()
    store.close()
    assert breaker.state is FORCED_OPEN
    breaker.reset()
    assert breaker.state is CLOSED
    assert others.state is FORCED_OPEN
    with pytest.raises(StoreUnavailable):
        store.read(NAME)
    assert store.host(NAME) is None


# -- circuits ------------------------------------------------------------------------------------------


def test_a_trip_is_everybodys(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """What one member finds out by its own failures opens the circuit for all, at once."""
    one, two = (CircuitBreaker(NAME, store=each, failure_threshold=2) for each in (store, other))
    for _ in range(2):
        one.record(one.acquire(), Outcome.FAILURE)
    with pytest.raises(CircuitOpenError):
        two.acquire()
    assert (one.state, two.state) == (OPEN, OPEN)
    assert one.generation == two.generation == 1


@pytest.mark.parametrize("what", ["force_open", "disable"])
def test_by_hand_for_all(store: SharedMemoryStore, other: SharedMemoryStore, what: str) -> None:
    """Forced open or disabled in one process, so it is in all, until somebody resets it anywhere."""
    one, two = CircuitBreaker(NAME, store=store), CircuitBreaker(NAME, store=other)
    getattr(one, what)("maintenance")
    assert one.state is two.state is not CLOSED
    assert one.get_stats()["reason"] == two.get_stats()["reason"]
    assert "maintenance" in two.get_stats()["reason"]
    two.reset()
    assert one.state is two.state is CLOSED


def test_listeners_hear_of_what_others_did(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """Soon, though nobody asks; they are told that it was elsewhere."""
    heard: list[Event] = []
    one = CircuitBreaker(NAME, store=store)
    two = CircuitBreaker(NAME, store=other, listeners=[heard.append])
    assert two.state is CLOSED
    one.force_open("maintenance")
    assert until(lambda: heard, SOON)
    (event,) = heard
    assert isinstance(event, CircuitChanged)
    assert (event.from_state, event.to_state, event.elsewhere) == (CLOSED, FORCED_OPEN, True)
    two.reset()
    assert isinstance(heard[1], CircuitChanged)
    assert (heard[1].to_state, heard[1].elsewhere) == (CLOSED, False)


def test_one_probe_for_all(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """When the recovery time is over one member tries the service, and its word counts."""
    config = BreakerConfig(failure_threshold=1, recovery_timeout=0.02)
    one, two = (CircuitBreaker(NAME, config, store=each) for each in (store, other))
    one.record(one.acquire(), Outcome.FAILURE)
    permit = until(lambda: _permit(two), SOON)
    assert permit is not None
    assert permit.half_open
    with pytest.raises(CircuitOpenError):
        one.acquire()
    two.record(permit, Outcome.SUCCESS)
    assert one.state is two.state is CLOSED


def _permit(breaker: CircuitBreaker) -> Any:
    try:
        return breaker.acquire()
    except CircuitOpenError:
        return None


def test_a_trip_by_what_is_over(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """A member that decided by an older state changes nothing."""
    before = store.read(NAME)
    other.override(NAME, CLOSED, "meanwhile", asking())
    record = store.trip(NAME, before.version, Trip("too late", 1.0, 61.0, 1))
    assert (record.state, record.reason) == (CLOSED, "meanwhile")


def test_a_step_that_changes_nothing(store: SharedMemoryStore) -> None:
    """The version stays as it was: nobody has to look."""
    before = store.read(NAME)
    assert store.change(NAME, lambda record: record) == before
    assert store.cell(NAME).words[0] == before.version


def _open_more(store: SharedMemoryStore, times: int) -> None:
    for _ in range(times):
        store.change(NAME, lambda record: record._replace(opened=record.opened + 1))


def test_no_change_is_lost_among_threads(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """However many change one circuit at a time, each step is taken on what the one before has left."""
    before = store.read(NAME)
    together(6, lambda index: _open_more((store, other)[index % 2], 50))
    after = other.read(NAME)
    assert after == store.read(NAME)
    assert (after.opened, after.version) == (300, before.version + 300)


def test_no_change_is_lost_among_processes(store: SharedMemoryStore, make_child: MakeChild) -> None:
    """The same of processes."""
    before = store.read(NAME)
    children = [make_child({"open": lambda: _open_more(store, 100)}) for _ in range(3)]
    for child in children:
        child.tell("open")
    _open_more(store, 100)
    for child in children:
        child.hear()
    after = store.read(NAME)
    assert (after.opened, after.version) == (400, before.version + 400)


def test_services_that_come_later(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """The file knows none from the beginning; each has its place as soon as somebody asks."""
    for name in ("billing", "chroma", "größer", "x" * 160, "€" * 60):
        store.override(name, FORCED_OPEN, name[:5], asking())
        assert other.read(name).reason == name[:5]
    assert other.read("ollama").state is CLOSED
    assert store.read("billing").reason == "billi"


def test_long_names_are_told_apart(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """Though only what comes late in them is different."""
    one, two = ("service-" * 50 + end for end in ("one", "two"))
    store.override(one, FORCED_OPEN, "one", asking())
    assert other.read(one).reason == "one"
    assert other.read(two).state is CLOSED


def test_clients_of_one_service_in_one_process(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """However many, they have one circuit, and what each of them counts is in one sum."""
    breakers = [CircuitBreaker(NAME, store=store) for _ in range(3)]
    breakers[0].force_open("for all")
    assert [each.state for each in breakers] == [FORCED_OPEN] * 3
    counters = [CallCounters(NAME, store) for _ in range(3)]
    for each in counters:
        each.finished(Outcome.SUCCESS, [0.01], None, time.monotonic())
    other.read(NAME)
    host = other.host(NAME)
    assert host is not None
    assert host.words[Word.TOTAL] == 3
    assert [worker.requests for worker in host.workers if worker.requests] == [3]


# -- forks and other processes -------------------------------------------------------------------------


def test_a_forked_child_shares_at_once(store: SharedMemoryStore) -> None:
    """What it knows is what all know, and what it does is everybody's."""
    breaker = CircuitBreaker(NAME, store=store)
    breaker.force_open("by the parent")

    def work() -> tuple[CircuitState, str]:
        before = breaker.state
        breaker.reset()
        breaker.disable("by the child")
        return before, breaker.state.value

    assert in_child(work) == (FORCED_OPEN, "disabled")
    assert breaker.state is CircuitState.DISABLED
    assert breaker.get_stats()["reason"] == "by the child"


def test_a_forked_child_that_had_nothing_open(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """A store that was made before the fork and is used after it, as with gunicorn's --preload."""
    breaker = CircuitBreaker(NAME, store=store)
    in_child(lambda: breaker.force_open("by the child"))
    assert CircuitBreaker(NAME, store=other).state is FORCED_OPEN
    assert breaker.state is FORCED_OPEN


def test_a_forked_child_counts_for_itself(store: SharedMemoryStore, make_child: MakeChild) -> None:
    """It is a worker of its own from its first call on."""
    counters = CallCounters(NAME, store)
    store.read(NAME)

    def count(calls: int) -> int:
        store.read(NAME)
        for _ in range(calls):
            counters.finished(Outcome.SUCCESS, [0.01], None, time.monotonic())
        return counters.counts.words[Word.TOTAL]

    assert count(2) == 2
    child = make_child({"count": count})
    assert child.ask("count", 3) == 3
    host = store.host(NAME)
    assert host is not None
    assert host.words[Word.TOTAL] == 5
    assert {worker.pid: worker.requests for worker in host.workers} == {os.getpid(): 2, child.pid: 3}


def test_a_child_does_not_keep_its_parent_alive(
    path: Path, store: SharedMemoryStore, make_child: MakeChild
) -> None:
    """A process that had a slot is killed, and its forked child lives on: the slot is given back."""
    store.read(NAME)
    CallCounters(NAME, store)
    ends, held = os.pipe()
    try:
        child = make_child({"fork": lambda: _forking(path, ends, held)})
        grandchild = child.ask("fork")
        os.close(ends)
        ends = -1
        assert _pids(store) == {os.getpid(), child.pid, grandchild}
        child.kill()
        assert until(lambda: _pids(store) == {os.getpid(), grandchild}, SOON)
        host = store.host(NAME)
        assert host is not None
        assert host.words[Word.TOTAL] == 4
    finally:
        os.close(held)  # now the grandchild ends
        if ends >= 0:
            os.close(ends)
    assert until(lambda: _pids(store) == {os.getpid()}, SOON)
    host = store.host(NAME)
    assert host is not None
    assert host.words[Word.TOTAL] == 4


def _forking(path: Path, ends: int, held: int) -> int:
    """Use a store, then fork a child that uses it, too, and lives until all others have closed ``held``."""
    os.close(held)
    store = SharedMemoryStore(path)
    breaker = CircuitBreaker(NAME, store=store)
    counters = CallCounters(NAME, store)

    def count() -> None:
        breaker.release(breaker.acquire())
        for _ in range(2):
            counters.finished(Outcome.SUCCESS, [0.01], None, time.monotonic())

    count()
    says, hears = os.pipe()
    child = os.fork()
    if child:
        os.read(says, 1)
        return child
    try:
        count()
        os.write(hears, b".")
        os.read(ends, 1)
    finally:
        os._exit(0)


def _pids(store: SharedMemoryStore) -> set[int]:
    host = store.host(NAME)
    assert host is not None
    return {worker.pid for worker in host.workers}


def test_a_spawned_process(path: Path, store: SharedMemoryStore) -> None:
    """It makes a store of the same path, and shares."""
    breaker = CircuitBreaker(NAME, store=store)
    assert breaker.state is CLOSED
    process = multiprocessing.get_context("spawn").Process(target=processes.force_open, args=(path, NAME))
    process.start()
    process.join(30.0)
    assert process.exitcode == 0
    process.close()
    assert breaker.state is FORCED_OPEN


def test_an_exit_without_close(path: Path, store: SharedMemoryStore) -> None:
    """It leaves at once, without a word, and what it has done stays."""
    work = (
        "import sys\n"
        "from tests.integrations.shared_memory.processes import force_open\n"
        "force_open(sys.argv[1], 'billing', close=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", work, path],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=30.0,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr
    assert b"Warning" not in done.stderr
    assert store.read(NAME).state is FORCED_OPEN


# -- the leader ----------------------------------------------------------------------------------------


def standing_orders(path: Path) -> dict[str, Callable[..., Any]]:
    """For a child: be a candidate, and say what has been begun and ended."""
    made: list[SharedMemoryStore] = []
    told: list[str] = []

    def stand() -> None:
        made.append(SharedMemoryStore(path))
        made[0].stand(lambda: told.append("begin"), lambda: told.append("end"))

    def leads() -> bool:
        return made[0].leads()

    def leave() -> None:
        made[0].close()

    return {"stand": stand, "leads": leads, "told": lambda: told, "leave": leave}


def test_one_of_three_leads(path: Path, make_child: MakeChild) -> None:
    """One at any time; when it is killed another one begins within a second, and when it leaves the next."""
    children = [make_child(standing_orders(path)) for _ in range(3)]
    for child in children:
        child.ask("stand")

    def leaders() -> list[int]:
        found = [number for number, child in enumerate(children) if child.ask("leads")]
        assert len(found) <= 1
        return found

    assert until(leaders, SOON)
    (first,) = leaders()
    begun = [["begin"] if number == first else [] for number in range(3)]
    assert until(lambda: [child.ask("told") for child in children] == begun, SOON)
    children.pop(first).kill()
    assert until(leaders, TAKEN_OVER_WITHIN)
    (second,) = leaders()
    assert until(lambda: children[second].ask("told") == ["begin"], SOON)
    assert children[1 - second].ask("told") == []
    last = children.pop(1 - second)
    assert not last.ask("leads")
    leaving = children.pop()
    leaving.ask("leave")
    assert leaving.ask("told") == ["begin", "end"]
    children.append(last)
    assert until(leaders, TAKEN_OVER_WITHIN)
    assert until(lambda: last.ask("told") == ["begin"], SOON)


@pytest.mark.usefixtures("brisk")
def test_two_stores_of_one_process(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """They are two members, of which one leads; asking makes each a candidate."""
    assert not (store.leads() and other.leads())
    assert until(lambda: store.leads() or other.leads(), SOON)
    leader, follower = (store, other) if store.leads() else (other, store)
    until(lambda: False, 0.05)
    assert leader.leads()
    assert not follower.leads()
    leader.close()
    assert not leader.leads()
    assert until(follower.leads, SOON)


@pytest.mark.usefixtures("brisk")
def test_who_stands_later(store: SharedMemoryStore) -> None:
    """What is added once this process leads is begun as well; all of it is ended, the last one first."""
    told: list[str] = []
    store.stand(lambda: told.append("one"), lambda: told.append("no one"))
    assert until(store.leads, SOON)
    store.stand(lambda: told.append("two"), lambda: told.append("no two"))
    assert until(lambda: told == ["one", "two"], SOON)
    store.close()
    assert told == ["one", "two", "no two", "no one"]


@pytest.mark.usefixtures("brisk")
def test_work_that_cannot_be_begun(store: SharedMemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    """That is logged once, the other work is begun all the same, and it is tried again until it can be."""
    told: list[str] = []
    tries = iter([ValueError("no"), ValueError("no"), None])

    def fail() -> None:
        error = next(tries)
        if error is not None:
            raise error
        told.append("late")

    store.stand(fail, lambda: told.append("late end"))
    store.stand(lambda: told.append("begin"), lambda: told.append("end"))
    assert until(lambda: "late" in told, SOON)
    store.close()
    assert told == ["begin", "late", "late end", "end"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in errors] == [True]


@pytest.mark.usefixtures("brisk")
def test_work_that_cannot_be_ended(store: SharedMemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    """That is logged, and the other work is ended all the same."""
    told: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    store.stand(lambda: told.append("begin"), lambda: told.append("end"))
    store.stand(lambda: told.append("begin"), fail)
    assert until(lambda: len(told) == 2, SOON)
    store.close()
    assert told == ["begin", "begin", "end"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in errors] == [True]


@pytest.mark.usefixtures("brisk")
def test_what_a_leader_does_takes_its_time(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """The store is looked after meanwhile: changes are told, and the file is watched."""
    begun, go_on = threading.Event(), threading.Event()

    def begin() -> None:
        begun.set()
        assert go_on.wait(SOON)

    store.stand(begin, lambda: None)
    assert begun.wait(SOON)
    heard = threading.Event()

    class Hearer:
        def hear(self) -> None:
            heard.set()

    hearer = Hearer()
    store.watch("level", hearer.hear)
    store.posted("level")
    other.post("level", b"severe")
    assert heard.wait(SOON)
    go_on.set()


@pytest.mark.usefixtures("brisk")
def test_no_two_leaders_after_the_file_could_not_be_used(tmp_path: Path) -> None:
    """Each leads itself while nothing can be shared; as soon as something can be, only one does."""
    folder = tmp_path / "folder"
    folder.write_text("no folder yet")
    stores = [SharedMemoryStore(folder / "state") for _ in range(3)]
    try:
        assert until(lambda: all(each.leads() for each in stores), SOON)
        folder.unlink()
        assert until(lambda: sum(each.leads() for each in stores) == 1, SOON)
    finally:
        for each in stores:
            each.close()


@pytest.mark.usefixtures("brisk")
def test_nobody_can_lead(store: SharedMemoryStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the lock cannot be opened, but the file can, that is said once."""
    store.read("x")
    lock = path.with_name("state.lock")
    lock.unlink()
    lock.mkdir()
    assert not store.leads()
    assert until(lambda: "Nobody can be chosen" in caplog.text, SOON)
    lock.rmdir()
    assert until(store.leads, SOON)
    assert caplog.text.count("Nobody can be chosen") == 1


@pytest.mark.usefixtures("brisk")
def test_somebody_closes_all_descriptors(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """As code does that makes a daemon of its process: no call fails by it, and it heals."""
    for each in (store, other):
        each.read("x")
    home = store._home
    assert home.segment is not None
    os.close(home.segment.descriptor)
    with suppress(StoreUnavailable):
        store.override("x", FORCED_OPEN, "forced: now", asking())

    def heals() -> bool:
        with suppress(StoreUnavailable):
            store.override("x", FORCED_OPEN, "forced: now", asking())
            return other.read("x").state is FORCED_OPEN
        return False

    assert until(heals, SOON)


@pytest.mark.usefixtures("brisk")
def test_a_child_of_the_leader(store: SharedMemoryStore) -> None:
    """It does not lead, does not keep its parent's office, and may stand itself."""
    told: list[str] = []
    store.stand(lambda: told.append("begin"), lambda: told.append("end"))
    assert until(store.leads, SOON)

    def work() -> tuple[bool, bool, list[str]]:
        at_first = store.leads()
        later = until(store.leads, 0.3)
        return at_first, later, told

    assert until(lambda: told == ["begin"], SOON)
    assert in_child(work) == (False, False, ["begin"])
    assert store.leads()


@pytest.mark.usefixtures("brisk")
def test_the_lock_is_deleted(store: SharedMemoryStore, other: SharedMemoryStore, path: Path) -> None:
    """However often: soon there is one leader again, and never does it stay at two."""
    for each in (store, other):
        each.leads()
    for _ in range(3):
        path.with_name("state.lock").unlink(missing_ok=True)
        assert until(lambda: path.with_name("state.lock").exists(), SOON)
        assert until(lambda: store.leads() is not other.leads(), SOON)
    until(lambda: False, 0.1)
    assert store.leads() is not other.leads()


# -- notes and the calendar ----------------------------------------------------------------------------


def test_notes(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """What one posts the others find; there is none before."""
    assert other.posted("level") is None
    store.post("level", b"severe")
    assert other.posted("level") == b"severe"
    other.post("level", b"")
    assert store.posted("level") == b""
    other.post("level", b"\xff" * 1900)
    assert store.posted("level") == b"\xff" * 1900
    assert store.posted("report") is None


def test_a_note_that_is_too_long(store: SharedMemoryStore) -> None:
    """It is refused, and the old one stays."""
    store.post("level", b"severe")
    with pytest.raises(ValueError, match="5000 bytes"):
        store.post("level", b"x" * 5000)
    assert store.posted("level") == b"severe"


def test_a_note_is_watched(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """Its number is another one after each change, and a method is called soon; the same again is none."""

    class Watcher:
        def __init__(self) -> None:
            self.told = 0

        def tell(self) -> None:
            self.told += 1

    watcher = Watcher()
    cell = other.watch("level", watcher.tell)
    assert other.posted("level") is None
    seen = cell.words[0]
    store.post("level", b"severe")
    assert cell.words[0] != seen
    assert until(lambda: watcher.told, SOON)
    seen = cell.words[0]
    store.post("level", b"severe")
    assert cell.words[0] == seen


def test_more_notes_than_places(path: Path, store: SharedMemoryStore, lines: Callable[[], list[str]]) -> None:
    """That is said, once."""
    for number in range(8):
        store.post(f"note-{number}", b"x")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.post("one-more", b"x")
        with pytest.raises(StoreUnavailable):
            store.posted("one-more")
    assert lines() == [
        f"WARNING Shared state {path} has no room for another note, 'one-more': it is not shared"
    ]


def test_one_calendar(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """All tell the time of day by the same moment, until the wall clock is set anew."""
    now, today = 1000.0, datetime(2030, 1, 1, tzinfo=UTC)
    first = store.calendar(now, today)
    assert first == (now, today)
    later = today + timedelta(seconds=5.00001)
    assert other.calendar(now + 5.0, later) == first
    assert store.calendar(now + 5.0, later) == first
    anew = today + timedelta(hours=1)
    second = other.calendar(now + 6.0, anew)
    assert second == (now + 6.0, anew)
    assert store.calendar(now + 7.0, anew + timedelta(seconds=1)) == second


def test_a_calendar_of_ones_own(store: SharedMemoryStore) -> None:
    """While nothing can be shared each has its own; nothing is raised."""
    store.close()
    today = datetime(2030, 1, 1, tzinfo=UTC)
    first = store.calendar(1000.0, today)
    assert store.calendar(1001.0, today + timedelta(seconds=1.001)) == first == (1000.0, today)


# -- clients -------------------------------------------------------------------------------------------


MakeClient = Callable[..., ResilientServiceClient]


@pytest.fixture
def make_client(fault_server: FaultServer) -> Iterator[MakeClient]:
    """Makes clients of the fault server that do not try twice."""
    registry = ServiceRegistry()

    def make(store: SharedMemoryStore, **options: Any) -> ResilientServiceClient:
        return ResilientServiceClient(
            fault_server.url,
            "Billing",
            name=NAME,
            store=store,
            registry=ServiceRegistry() if registry.clients() else registry,
            **{"retry": RetryPolicy(max_attempts=1), "timeout": 5, **options},
        )

    clients: list[ResilientServiceClient] = []

    def kept(store: SharedMemoryStore, **options: Any) -> ResilientServiceClient:
        clients.append(make(store, **options))
        return clients[-1]

    yield kept
    for client in clients:
        client.close()


@pytest.fixture
def clients(
    make_client: MakeClient, store: SharedMemoryStore, other: SharedMemoryStore
) -> tuple[ResilientServiceClient, ResilientServiceClient]:
    """Two clients of one service, each in a member of its own."""
    return make_client(store), make_client(other)


SHARED = (
    "state", "requests", "failure_count", "last_success", "last_failure", "last_state_change", "opened_count",
    "mttr_seconds", "latency_ms", "workers", "half_open_in_use", "reason",
)  # fmt: skip


def shared(client: ResilientServiceClient) -> dict[str, Any]:
    """What has to be the same whoever is asked."""
    status = client.get_status()
    return {key: status[key] for key in SHARED}


def call(client: ResilientServiceClient, *statuses: int, server: FaultServer) -> None:
    for status in statuses:
        server.script(Answer(status))
        if status == 200:
            client.get("/")
        else:
            with pytest.raises(Exception, match=str(status)):
                client.get("/")


def test_status_is_the_same_at_both(
    clients: tuple[ResilientServiceClient, ResilientServiceClient], fault_server: FaultServer
) -> None:
    """State, counts, times and workers, at each step of an outage."""
    one, two = clients
    call(one, 200, 200, server=fault_server)
    call(two, 200, server=fault_server)
    assert shared(one) == shared(two)
    status = shared(one)
    assert status["requests"] == {"total": 3, "succeeded": 3, "failed": 0, "rejected": 0, "retried": 0}
    assert (status["state"], status["failure_count"], status["last_failure"]) == ("closed", 0, None)
    assert sorted(worker["requests"] for worker in status["workers"]) == [1, 2]
    call(two, 503, 503, server=fault_server)
    assert shared(one) == shared(two)
    status = shared(one)
    assert (status["failure_count"], status["state"], status["opened_count"]) == (2, "closed", 0)
    assert status["last_failure"] is not None
    call(two, *[503] * 3, server=fault_server)
    assert shared(one) == shared(two)
    status = shared(one)
    assert (status["state"], status["opened_count"]) == ("open", 1)
    assert status["last_state_change"] is not None
    with pytest.raises(CircuitOpenError):
        one.get("/")
    assert shared(one) == shared(two)
    assert shared(two)["requests"]["rejected"] == 1
    one.reset()
    assert shared(one)["state"] == shared(two)["state"] == "closed"
    assert until(lambda: shared(one)["failure_count"] == 0, SOON)  # each forgets its own once it has heard
    assert shared(one) == shared(two)


def test_a_call_under_way_is_seen_by_all(
    clients: tuple[ResilientServiceClient, ResilientServiceClient], fault_server: FaultServer
) -> None:
    """As in flight, in the worker that makes it."""
    one, two = clients
    fault_server.hold()
    thread = threading.Thread(target=one.get, args=("/",))
    thread.start()
    fault_server.wait_for_requests(1)
    assert two.breaker.state is CLOSED
    assert sorted(worker["in_flight"] for worker in two.get_status()["workers"]) == [0, 1]
    fault_server.release()
    thread.join()
    assert [worker["in_flight"] for worker in two.get_status()["workers"]] == [0, 0]


def test_the_last_error_of_another(
    clients: tuple[ResilientServiceClient, ResilientServiceClient], fault_server: FaultServer
) -> None:
    """It is known soon, though nobody asks the one that it happened to."""
    one, two = clients
    two.get("/")
    assert two.get_status()["last_error"] is None
    call(one, 503, server=fault_server)
    assert until(lambda: two.get_status()["last_error"], SOON)
    assert two.get_status()["last_error"] == one.get_status()["last_error"]
    call(two, 500, server=fault_server)
    assert "500" in two.get_status()["last_error"]
    assert one.get_status()["last_error"] == two.get_status()["last_error"]


def test_a_pause_is_everybodys(
    clients: tuple[ResilientServiceClient, ResilientServiceClient], fault_server: FaultServer
) -> None:
    """A Retry-After that one was given keeps the other one away, until somebody resets it anywhere."""
    one, two = clients
    two.get("/")
    fault_server.script(Answer(429, headers={"Retry-After": "30"}))
    with pytest.raises(requests.HTTPError, match="429"):
        one.get("/")
    before = len(fault_server.requests)
    with pytest.raises(RateLimitedError):
        two.get("/", deadline=1.0)
    assert len(fault_server.requests) == before
    assert one.gate.remaining() == pytest.approx(two.gate.remaining(), abs=0.5)
    two.reset()
    assert one.get("/", deadline=1.0).status_code == 200
    assert not one.gate.closed


def test_counts_of_before_and_after_a_close(
    make_client: MakeClient, make_store: MakeStore, fault_server: FaultServer
) -> None:
    """A client whose store is closed goes on, and counts for itself."""
    store, other = make_store(), make_store()
    one, two = make_client(store), make_client(other)
    call(one, 200, 200, server=fault_server)
    call(two, 200, server=fault_server)
    store.close()
    call(one, 200, server=fault_server)
    assert one.get_status()["requests"]["total"] == 1
    assert two.get_status()["requests"]["total"] == 3
