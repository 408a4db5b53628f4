"""Circuit breakers that share a circuit under many threads, in forked children, and interrupted."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.events import CircuitChanged, Event
from service_utils.forks import Forks
from service_utils.policies import breaker as breaker_module
from service_utils.policies import circuit as circuit_module
from service_utils.policies import local_breaker, record, shared_circuit
from service_utils.policies import store as store_module
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.reasons import RECOVERED, TRYING
from service_utils.policies.store import MemoryBreakerStore
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.policies.circuits import RECOVERY, THRESHOLD, fail, make_breaker, succeed, totals, try_acquire
from tests.policies.sharing import NAME, TRIPPED, Line, heard, opened, share, states
from tests.side_by_side import together


@pytest.fixture
def store() -> MemoryBreakerStore:
    return MemoryBreakerStore()


# -- threads -------------------------------------------------------------------------------------------


@pytest.fixture
def threads_switch_often() -> Iterator[None]:
    """So that a race that is there shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_switch_often")
@pytest.mark.parametrize("round_", range(3))
def test_trips_of_many_at_one_moment(store: MemoryBreakerStore, fake_clock: FakeClock, round_: int) -> None:
    """Sixteen members that all find the service sick open the circuit once, and each hears of it once."""
    breakers = share(store, fake_clock, 16, failure_threshold=1)
    permits = [each.acquire() for each in breakers]
    together(16, lambda index: breakers[index].record(permits[index], Outcome.FAILURE))
    assert store.read(NAME).opened == store.read(NAME).generation == 1
    for breaker in breakers:
        assert [change[:2] for change in heard(breaker)] == [("closed", "open")]
    assert sum(not heard(each)[0][3] for each in breakers) == 1


@pytest.mark.usefixtures("threads_switch_often")
@pytest.mark.parametrize("places", [1, 3])
def test_probes_of_many_at_one_moment(store: MemoryBreakerStore, fake_clock: FakeClock, places: int) -> None:
    """Of 24 calls at eight members as many probe as may; each member hears of the one change once."""
    breakers = opened(store, fake_clock, 8, half_open_max_calls=places)
    permits = together(24, lambda index: try_acquire(breakers[index % 8]))
    assert sum(permit is not None for permit in permits) == places
    for breaker in breakers:
        assert [change[:2] for change in heard(breaker)[1:]] == [("open", "half_open")]
    assert sum(not heard(each)[1][3] for each in breakers) == 1
    assert sum(totals(each)[3] for each in breakers) == 24 - places


@pytest.mark.usefixtures("threads_switch_often")
def test_many_lives(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Members that trip, probe and recover at will agree afterwards, and each has heard a possible story."""
    breakers = share(store, fake_clock, 4, failure_threshold=1, recovery_timeout=0.0, half_open_timeout=5.0)

    def work(index: int) -> None:
        for number in range(40):
            permit = try_acquire(breakers[index])
            if permit is not None:
                outcome = Outcome.FAILURE if (number + index) % 3 == 0 else Outcome.SUCCESS
                breakers[index].record(permit, outcome)

    together(4, work)
    assert len(states(*breakers)) == 1
    assert len({each.generation for each in breakers}) == 1
    assert not [each for each in store.read(NAME).leases if store.read(NAME).state != "half_open"]
    for breaker in breakers:
        fake_clock.advance(5)
        breaker.reset()
        succeed(breaker)


# -- forks ---------------------------------------------------------------------------------------------


def test_a_child_goes_on_by_itself(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A store in memory is copied: the child's breakers are as one, and the parent's know nothing of it."""
    one, other = share(store, fake_clock)
    fail(one, THRESHOLD)

    def child() -> list[Any]:
        seen: list[Any] = [one.state.value, other.refused()]
        fake_clock.advance(RECOVERY)
        succeed(other)
        seen.append(one.state.value)
        fail(one, THRESHOLD)
        return [*seen, other.state.value, heard(one)[1:], heard(other)[3:]]

    assert in_child(child) == [
        "open",
        ("open", RECOVERY),
        "closed",
        "open",
        [
            ("open", "half_open", TRYING, True),
            ("half_open", "closed", RECOVERED, True),
            ("closed", "open", TRIPPED, False),
        ],
        [("closed", "open", TRIPPED, True)],
    ]
    assert states(one, other) == {"open"}
    assert one.generation == 1


def test_a_child_is_another_member(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """What the parent did before the fork is nothing the child has done, nor is it told of it again."""
    one, _ = share(store, fake_clock)
    fail(one, THRESHOLD)
    me = one._shared.me
    assert in_child(lambda: (one.state.value, len(heard(one)), one._shared.me == me)) == ("open", 1, False)


def test_a_child_looks_first(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """What the parent knew may be out of date in a child, so the store is asked."""
    line = Line(store)
    (one,) = share(line, fake_clock, 1)
    assert states(one) == {"closed"}
    own = Forks()
    own.guard(one)
    before = line.asked
    own.before()
    own.after_in_child()
    assert states(one) == {"closed"}
    assert line.asked > before


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_probe_of_the_parent(store: MemoryBreakerStore, fake_clock: FakeClock, outcome: Outcome) -> None:
    """It means nothing in the child, where the circuit can be probed again some time later."""
    one, other = opened(store, fake_clock)
    probe = one.acquire()

    def child() -> list[str]:
        one.record(probe, outcome)
        seen = [one.state.value]
        for _ in range(2):
            if (permit := try_acquire(other)) is None:
                fake_clock.advance(RECOVERY)
                permit = try_acquire(other)
            if permit is not None:
                break
            fake_clock.advance(RECOVERY)
        other.record(other.acquire() if permit is None else permit, Outcome.SUCCESS)
        return [*seen, one.state.value]

    assert in_child(child) == ["half_open", "closed"]
    one.record(probe, Outcome.SUCCESS)
    assert states(one, other) == {"closed"}


# -- interrupts ----------------------------------------------------------------------------------------

FILES = {
    module.__file__
    for module in (breaker_module, circuit_module, local_breaker, record, shared_circuit, store_module)
}


def at_point(number: int, work: Callable[[], Any]) -> bool:
    """Interrupt the work at its so manieth point where a signal is handled; whether it has that many."""
    left = number

    def watch(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename in FILES:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return left <= 0


def interruptions(prepare: Callable[[], Callable[[], Any]]) -> Iterator[int]:
    """Do some work again and again, and interrupt it at each of its points; stops when there is none left."""
    for number in itertools.count(1):
        work = prepare()
        try:
            if not at_point(number, work):
                return
        except KeyboardInterrupt:
            pass
        yield number


def test_an_interrupt_while_a_probe_is_leased(fake_clock: FakeClock) -> None:
    """Its place is free again, or will be: no signal leaves a circuit that nobody may try any more."""
    breakers: list[CircuitBreaker] = []

    def prepare() -> Callable[[], Any]:
        breakers[:] = opened(MemoryBreakerStore(), fake_clock)
        return breakers[0].acquire

    points = 0
    for _ in interruptions(prepare):
        points += 1
        other = breakers[1]
        if (permit := try_acquire(other)) is None:
            assert other.get_stats()["half_open_in_use"] == 1
            fake_clock.advance(RECOVERY)
            assert try_acquire(other) is None
            fake_clock.advance(RECOVERY)
            permit = other.acquire()
        assert permit.half_open
        other.record(permit, Outcome.SUCCESS)
        assert states(*breakers) == {"closed"}
    assert points > 20


def test_a_listener_that_is_killed_while_a_probe_is_leased(
    store: MemoryBreakerStore, fake_clock: FakeClock
) -> None:
    """The caller never sees the permit, so it is given back."""

    def killing(event: Event) -> None:
        if isinstance(event, CircuitChanged) and event.to_state == "half_open":
            raise KeyboardInterrupt

    line = Line(store)  # its store does not tell it in the middle of a change
    one = make_breaker(fake_clock, store=line, listeners=[killing])
    fail(one, THRESHOLD)
    fake_clock.advance(RECOVERY)
    with pytest.raises(KeyboardInterrupt):
        one.acquire()
    assert (one.state, one.get_stats()["half_open_in_use"]) == ("half_open", 0)
    succeed(one)
    assert one.state == "closed"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_interrupt_while_a_probe_reports(fake_clock: FakeClock, outcome: Outcome) -> None:
    """Its result is lost, or counted, but not twice, and the place it had does not stay taken."""
    breakers: list[CircuitBreaker] = []

    def prepare() -> Callable[[], Any]:
        breakers[:] = opened(MemoryBreakerStore(), fake_clock)
        probe = breakers[0].acquire()
        return lambda: breakers[0].record(probe, outcome)

    points = 0
    for _ in interruptions(prepare):
        points += 1
        one, other = breakers
        stats = other.get_stats()
        assert totals(one)[list(Outcome).index(outcome)] <= 1 + THRESHOLD * (outcome is Outcome.FAILURE)
        assert stats["opened_count"] == 1 + (stats["state"] == "open")
        assert one.state == other.state
        while other.state != "closed":
            if (permit := try_acquire(other)) is not None:
                other.record(permit, Outcome.SUCCESS)
            fake_clock.advance(RECOVERY)
        assert other.get_stats()["opened_count"] <= 2
        assert states(one, other) == {"closed"}
    assert points > 20


def test_an_interrupt_of_the_failure_that_opens(fake_clock: FakeClock) -> None:
    """The circuit is open for all, or is with the next failure; it is never counted twice."""
    breakers: list[CircuitBreaker] = []

    def prepare() -> Callable[[], Any]:
        breakers[:] = share(MemoryBreakerStore(), fake_clock)
        fail(breakers[0], THRESHOLD - 1)
        permit = breakers[0].acquire()
        return lambda: breakers[0].record(permit, Outcome.FAILURE)

    points = 0
    for _ in interruptions(prepare):
        points += 1
        one, other = breakers
        if states(one) == {"closed"}:
            fail(one)
        assert states(one, other) == {"open"}
        assert other.get_stats()["opened_count"] == other.generation == 1
    assert points > 20
