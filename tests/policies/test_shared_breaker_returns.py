"""What becomes of what a breaker did alone, when its store is away and when it comes back."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from service_utils.calls import Outcome
from service_utils.events import CircuitState
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.record import Asking, CircuitRecord
from service_utils.policies.store import Cell, MemoryBreakerStore, Told
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.policies.circuits import RECOVERY, THRESHOLD, fail
from tests.policies.sharing import NAME, Line, heard, share, states


@pytest.fixture
def store() -> MemoryBreakerStore:
    return MemoryBreakerStore()


@pytest.fixture
def line(store: MemoryBreakerStore) -> Line:
    return Line(store)


@pytest.fixture
def lone(line: Line, fake_clock: FakeClock) -> CircuitBreaker:
    """A member whose line may be cut."""
    (one,) = share(line, fake_clock, 1)
    assert states(one) == {"closed"}
    return one


@pytest.fixture
def other(store: MemoryBreakerStore, fake_clock: FakeClock) -> CircuitBreaker:
    """A member that always sees the store."""
    (one,) = share(store, fake_clock, 1)
    assert states(one) == {"closed"}
    return one


def test_a_probe_made_alone_closes_nothing_for_all(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, fake_clock: FakeClock
) -> None:
    """The half-open spells of a member alone and of the others may have the same number."""
    fail(lone, THRESHOLD)
    line.cut()
    fake_clock.advance(RECOVERY)
    mine = lone.acquire()
    other.acquire()
    line.mend()
    assert states(lone, other) == {"half_open"}
    lone.record(mine, Outcome.SUCCESS)
    assert states(lone, other) == {"half_open"}


@pytest.mark.parametrize("noticed", [False, True])
def test_a_lease_that_is_late_closes_nothing_alone(
    line: Line, lone: CircuitBreaker, fake_clock: FakeClock, noticed: bool
) -> None:
    """It has failed by then, whether the store went away before or after that."""
    fail(lone, THRESHOLD)
    fake_clock.advance(RECOVERY)
    lease = lone.acquire()
    line.cut()
    if noticed:
        lone.pause(99.0, 1.0)
    fake_clock.advance(RECOVERY)
    lone.record(lease, Outcome.SUCCESS)
    assert lone.state.value == "open"


def test_a_lease_counts_alone(line: Line, lone: CircuitBreaker, fake_clock: FakeClock) -> None:
    """In time it is as good as any probe, if it says something."""
    fail(lone, THRESHOLD)
    fake_clock.advance(RECOVERY)
    lease = lone.acquire()
    line.cut()
    lone.record(lease, Outcome.SUCCESS)
    assert lone.state.value == "closed"


def test_a_decision_that_another_has_replaced_does_not_come_back(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker
) -> None:
    """Forced open while the store was away, and reset when it was back."""
    line.away = True
    lone.force_open("upkeep")
    line.away = False
    lone.reset()
    assert states(lone, other) == {"closed"}
    line.cut()
    lone.pause(1.0, 1.0)
    line.mend()
    assert states(lone, other) == {"closed"}


@pytest.mark.parametrize("first", ["pause", "hold_open", "recover"])
@pytest.mark.parametrize(("alone", "state"), [("force_open", "forced_open"), ("fail", "open")])
def test_whatever_is_done_first_brings_what_was_done_alone(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, first: str, alone: str, state: str
) -> None:
    """The store is back, and nobody has looked yet."""
    line.away = True
    if alone == "fail":
        fail(lone, THRESHOLD)
    else:
        lone.force_open("upkeep")
    line.away = False
    deeds: dict[str, Callable[[], object]] = {
        "pause": lambda: lone.pause(5.0, 5.0),
        "hold_open": lambda: lone.hold_open(0, 5.0),
        "recover": lambda: lone.recover(0),
    }
    deeds[first]()
    assert states(lone, other) == {state}


def test_a_second_recovery_is_none(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Only who has closed the circuit is told so, be it in the same moment."""
    (one,) = share(store, fake_clock, 1)
    fail(one, THRESHOLD)
    generation = one.generation
    assert one.recover(generation)
    assert not one.recover(generation)


def test_a_reset_and_then_a_trip(line: Line, lone: CircuitBreaker, other: CircuitBreaker) -> None:
    """Both are brought, in that order."""
    line.cut()
    lone.reset()
    fail(lone, THRESHOLD)
    line.mend()
    assert states(lone, other) == {"open"}


def test_no_event_of_what_has_been_told(line: Line, lone: CircuitBreaker, other: CircuitBreaker) -> None:
    """A trip that was told when it happened is not told again when the store learns of it."""
    line.cut()
    fail(lone, THRESHOLD)
    other.reset()
    other.reset()
    line.mend()
    assert states(lone, other) == {"open"}
    assert [change[:2] for change in heard(lone)] == [("closed", "open")]


def test_a_circuit_that_others_have_closed_stays_closed(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker
) -> None:
    """What a member only knew from the others is no finding of its own."""
    fail(other, THRESHOLD)
    assert states(lone) == {"open"}
    line.cut()
    lone.pause(1.0, 1.0)
    other.reset()
    line.mend()
    assert states(lone, other) == {"closed"}


def test_a_change_in_the_middle_of_a_change(store: MemoryBreakerStore) -> None:
    """A signal handler's comes first, and the other one is made again."""
    store.cell(NAME)
    first = [True]
    versions: list[int] = []

    def step(record: CircuitRecord) -> CircuitRecord:
        if first:
            first.clear()
            asking = Asking(1, 0.0, BreakerConfig())
            versions.append(store.override(NAME, CircuitState.FORCED_OPEN, "handler", asking).version)
        return record.paused(5.0, 5.0)

    last = store.change(NAME, step)
    assert last.version not in versions
    assert (last.state.value, last.pause_until) == ("forced_open", 5.0)


def test_a_trip_that_is_overtaken_is_brought_again(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Another member changes something between the look and the trip."""

    class Busy(Line):
        busy = False

        def change(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
            if self.busy:
                self.busy = False
                store.pause(name, 5.0, 5.0)
            return super().change(name, step)

    line = Busy(store)
    (one,) = share(line, fake_clock, 1)
    assert states(one) == {"closed"}
    line.cut()
    fail(one, THRESHOLD)
    line.busy = True
    line.mend()
    assert (one.state.value, store.read(NAME).state.value) == ("open", "open")


def test_a_store_that_tells_in_the_middle_of_a_change(
    store: MemoryBreakerStore, fake_clock: FakeClock
) -> None:
    """It may call in any thread, and so in the one that brings something."""

    class Prompt(Line):
        def cell(self, name: str, told: Told | None = None) -> Cell:
            store.cell(name, told)
            return super().cell(name, told)

    line = Prompt(store)
    (one,) = share(line, fake_clock, 1)
    assert states(one) == {"closed"}
    line.cut()
    one.force_open("upkeep")
    line.mend()
    assert (one.state.value, store.read(NAME).state.value) == ("forced_open", "forced_open")


@pytest.mark.parametrize("noticed", [False, True], ids=["at the report", "before the report"])
@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED])
def test_what_a_probe_has_found_is_told_when_the_store_is_back(
    line: Line,
    lone: CircuitBreaker,
    other: CircuitBreaker,
    fake_clock: FakeClock,
    outcome: Outcome,
    noticed: bool,
) -> None:
    """Nobody has to wait for the end of its lease, and it is not a failed probe unless it failed."""
    fail(lone, THRESHOLD)
    fake_clock.advance(RECOVERY)
    lease = lone.acquire()
    line.cut()
    if noticed:
        lone.pause(99.0, 1.0)
    lone.record(lease, outcome)
    assert states(other) == {"half_open"}
    line.mend()
    expected = {Outcome.SUCCESS: "closed", Outcome.FAILURE: "open", Outcome.IGNORED: "half_open"}[outcome]
    assert states(lone, other) == {expected}
    if outcome is Outcome.IGNORED:
        other.acquire()


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILURE])
def test_a_probe_outlasts_a_short_absence(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, fake_clock: FakeClock, outcome: Outcome
) -> None:
    """A store that was away and is back before the probe has reported takes its word."""
    fail(lone, THRESHOLD)
    fake_clock.advance(RECOVERY)
    lease = lone.acquire()
    line.cut()
    lone.pause(0.0, 0.0)
    line.mend()
    assert states(lone, other) == {"half_open"}
    lone.record(lease, outcome)
    lone.record(lease, Outcome.FAILURE)
    assert states(lone, other) == {"closed" if outcome is Outcome.SUCCESS else "open"}


def test_a_later_word_of_another_stands(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, fake_clock: FakeClock
) -> None:
    """What an operator decided in a worker without the store does not undo what one decided since."""
    line.cut()
    lone.force_open("old")
    fake_clock.advance(1.0)
    other.disable("new")
    line.mend()
    assert states(lone, other) == {"disabled"}


def test_an_earlier_word_of_another_does_not_stand(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, fake_clock: FakeClock
) -> None:
    """The later one holds, whoever had the store."""
    line.cut()
    other.disable("old")
    fake_clock.advance(1.0)
    lone.force_open("new")
    line.mend()
    assert states(lone, other) == {"forced_open"}


def test_a_trip_of_another_does_not_overrule_a_person(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, fake_clock: FakeClock
) -> None:
    """Only people overrule people."""
    line.cut()
    lone.disable("drill")
    fake_clock.advance(1.0)
    fail(other, THRESHOLD)
    line.mend()
    assert states(lone, other) == {"disabled"}


def test_a_child_does_not_tell_what_its_parent_decided(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker
) -> None:
    """The parent tells it; a child's first call would bring it back otherwise."""
    line.cut()
    lone.force_open("old")

    def child() -> str:
        line.mend()
        other.catch_up()
        return other.state.value

    assert in_child(child) == "closed"


def test_a_pause_is_told_when_the_store_is_back(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, store: MemoryBreakerStore, fake_clock: FakeClock
) -> None:
    """If it is still on by then."""
    line.cut()
    until = fake_clock.monotonic() + 10.0
    lone.pause(until, 10.0)
    line.mend()
    assert store.read(NAME).pause_until == until
    line.cut()
    lone.pause(until + 10.0, 10.0)
    fake_clock.advance(30.0)
    line.mend()
    assert store.read(NAME).pause_until == until


def test_the_store_is_away_again_in_the_middle(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, fake_clock: FakeClock
) -> None:
    """What could not be told is told the next time, and a word that came since takes the other's place."""
    fail(lone, THRESHOLD)
    fake_clock.advance(RECOVERY)
    lease = lone.acquire()
    line.cut()
    lone.record(lease, Outcome.SUCCESS)
    lone.force_open("old")
    change, line.change = line.change, line.ask_in_vain  # type: ignore[method-assign]
    line.mend()
    assert states(lone) == {"forced_open"}
    assert states(other) == {"half_open"}
    lone.disable("new")
    line.change = change  # type: ignore[method-assign]
    assert states(lone, other) == {"disabled"}


def test_a_lease_that_another_thread_makes_void_is_given_back(
    line: Line, lone: CircuitBreaker, other: CircuitBreaker, fake_clock: FakeClock
) -> None:
    """It finds the store away between the lease and the permit; nobody would ever report."""
    fail(lone, THRESHOLD)
    fake_clock.advance(RECOVERY)
    adopt = lone._adopt

    def adopt_and_lose(record: CircuitRecord, *, rejoins: bool = False) -> None:
        adopt(record, rejoins=rejoins)
        if record.leases:
            lone._adopt = adopt  # type: ignore[method-assign]
            lone._go_alone()

    lone._adopt = adopt_and_lose  # type: ignore[method-assign]
    lone.release(lone.acquire())
    lone.catch_up()
    other.acquire()


def test_followers_hear_of_the_latest(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A thread that is slow to read tells them nothing that is over."""
    (one,) = share(store, fake_clock, 1)
    seen: list[float] = []
    one.follow(lambda record: seen.append(record.pause_until))
    one.pause(50.0, 9.0)
    old = store.read(NAME)
    one.pause(0.0, 0.0)
    one._adopt(old)
    assert [each for each, _ in itertools.groupby(seen)] == [0.0, 50.0, 0.0]
