"""Circuit breakers with a store: what one of them learns holds for all, and they try the service together."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitChanged
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.permit import Leased
from service_utils.policies.reasons import PROBE_FAILED, RECOVERED, TRYING
from service_utils.policies.record import BLANK, CircuitRecord
from service_utils.policies.store import MemoryBreakerStore
from service_utils.testing import FakeClock
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    cooldown,
    fail,
    ignore,
    make_breaker,
    succeed,
    totals,
    try_acquire,
)
from tests.policies.sharing import NAME, TRIPPED, Line, heard, opened, share, states


@pytest.fixture
def store() -> MemoryBreakerStore:
    return MemoryBreakerStore()


# -- opening -------------------------------------------------------------------------------------------


def test_a_trip_is_everybodys(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """What one finds out by its own failures opens the circuit for all, for the same time."""
    one, other = share(store, fake_clock)
    fail(one, THRESHOLD)
    assert states(one, other) == {"open"}
    fake_clock.advance(4)
    with pytest.raises(CircuitOpenError) as caught:
        other.acquire()
    assert caught.value.cooldown_remaining == RECOVERY - 4
    assert one.generation == other.generation == 1
    assert (totals(one), totals(other)) == ((0, THRESHOLD, 0, 0), (0, 0, 0, 1))


def test_whose_doing_it_was(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """All listeners hear of it at once, though nobody asks; for all but the doer it was elsewhere."""
    one, other, third = share(store, fake_clock, 3)
    fail(one, THRESHOLD)
    assert heard(one) == [("closed", "open", TRIPPED, False)]
    assert heard(other) == heard(third) == [("closed", "open", TRIPPED, True)]
    (event,) = (each for each in other.listeners[0].events if isinstance(each, CircuitChanged))
    assert (event.name, event.generation, event.at) == (NAME, 1, fake_clock.monotonic())


def test_breakers_of_other_names(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Circuits are told apart by their names."""
    (one,) = share(store, fake_clock, 1)
    other = CircuitBreaker("billing", store=store, clock=fake_clock)
    fail(one, THRESHOLD)
    assert states(other) == {"closed"}


def test_each_counts_its_own_failures(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """That two members have each been unlucky does not open the circuit, nor do successes of another help."""
    one, other = share(store, fake_clock)
    for breaker in (one, other):
        fail(breaker, THRESHOLD - 1)
    assert states(one, other) == {"closed"}
    assert one.get_stats()["failure_count"] == THRESHOLD - 1
    succeed(other, 3)
    fail(one)
    assert states(one, other) == {"open"}
    assert (totals(one), totals(other)) == ((0, THRESHOLD, 0, 0), (3, THRESHOLD - 1, 0, 0))


@pytest.mark.parametrize("how", ["probe", "reset"])
def test_closing_clears_the_failures_of_all(
    store: MemoryBreakerStore, fake_clock: FakeClock, how: str
) -> None:
    """Whoever has closed it: what members found before the circuit was open speaks against it no more."""
    one, other = share(store, fake_clock)
    fail(other, THRESHOLD - 1)
    fail(one, THRESHOLD)
    if how == "probe":
        fake_clock.advance(RECOVERY)
        succeed(one)
    else:
        one.reset()
    assert [each.get_stats()["failure_count"] for each in (one, other)] == [0, 0]
    fail(other, THRESHOLD - 1)
    assert states(one, other) == {"closed"}


def test_a_reset_of_a_closed_circuit(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """It has all forget their failures, and nobody is told of a change."""
    one, other = share(store, fake_clock)
    fail(other, THRESHOLD - 1)
    one.reset()
    assert other.get_stats()["failure_count"] == 0
    assert heard(one) == heard(other) == []
    assert one.generation == other.generation == 1


def test_windows(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """With a window each looks at its own, and closing empties all of them."""
    one, other = share(store, fake_clock, window_size=4, minimum_requests=4)
    for breaker in (one, other):
        succeed(breaker, 2)
        fail(breaker)
    assert states(one, other) == {"closed"}
    fail(one)
    assert states(one, other) == {"open"}
    assert [each.get_stats()["window_calls"] for each in (one, other)] == [4, 3]
    fake_clock.advance(RECOVERY)
    succeed(other)
    assert [each.get_stats()["window_calls"] for each in (one, other)] == [0, 0]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_calls_under_way_when_another_trips(
    store: MemoryBreakerStore, fake_clock: FakeClock, outcome: Outcome
) -> None:
    """They began before the circuit opened: what they come to changes nothing."""
    one, other = share(store, fake_clock, failure_threshold=1)
    permit = other.acquire()
    fail(one)
    before = store.read(NAME)
    other.record(permit, outcome, retry_after=50.0)
    assert store.read(NAME) == before
    assert totals(other)[1:3] == (0, 0)
    fake_clock.advance(RECOVERY)
    succeed(one)
    other.record(permit, outcome)
    assert states(one, other) == {"closed"}


class Overtaken(Line):
    """A store at which something else is done just before the next change."""

    first: Callable[[], Any] | None = None

    def change(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
        first, self.first = self.first, None
        if first is not None:
            first()
        return super().change(name, step)


def test_a_trip_that_was_overtaken(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Who has found the service sick says so again when another was quicker with something else."""
    line = Overtaken(store)
    (one,), (other,) = share(line, fake_clock, 1), share(store, fake_clock, 1)
    fail(one, THRESHOLD - 1)
    line.first = lambda: other.pause(5.0, 5.0)
    fail(one)
    assert states(one, other) == {"open"}
    assert store.read(NAME).pause_until == 5.0
    assert heard(one) == [("closed", "open", TRIPPED, False)]


@pytest.mark.parametrize("what", ["trip", "reset"])
def test_a_trip_that_came_too_late(store: MemoryBreakerStore, fake_clock: FakeClock, what: str) -> None:
    """When another has opened or reset the circuit just before, that stands."""
    line = Overtaken(store)
    (one,), (other,) = share(line, fake_clock, 1), share(store, fake_clock, 1)
    fail(one, THRESHOLD - 1)
    line.first = other.reset if what == "reset" else lambda: fail(other, THRESHOLD)
    fail(one)
    assert states(one, other) == {"closed" if what == "reset" else "open"}
    assert store.read(NAME).opened == (what == "trip")
    assert heard(one) == ([] if what == "reset" else [("closed", "open", TRIPPED, True)])


def test_one_that_comes_later(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A breaker that is made while the circuit is open refuses from its first call on, and says so once."""
    (one,) = share(store, fake_clock, 1)
    fail(one, THRESHOLD)
    (late,) = share(store, fake_clock, 1)
    assert try_acquire(late) is None
    assert late.state == "open"
    assert heard(late) == [("closed", "open", TRIPPED, True)]


def test_retry_after_holds_for_all(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A service that asks to be left alone while it fails is left alone by all."""
    one, other = share(store, fake_clock)
    fail(one, THRESHOLD, retry_after=45.0)
    assert other.retry_after() == one.retry_after() == 45.0


def test_no_breaker_is_kept(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A store does not keep those that are gone."""
    one, other = share(store, fake_clock)
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None
    fail(one, THRESHOLD)


def test_no_store(fake_clock: FakeClock) -> None:
    """Something else in its place is found out when the breaker is made."""
    with pytest.raises(TypeError, match="must be a BreakerStore"):
        make_breaker(fake_clock, store=object())


# -- probing -------------------------------------------------------------------------------------------


def test_one_probe_for_all(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """When the open time is over one of them tries the service, and the others wait for its word."""
    one, other, third = opened(store, fake_clock, 3)
    probe = other.acquire()
    assert isinstance(probe, Leased)
    assert (probe.half_open, probe.generation, probe.expires_at) == (
        True,
        2,
        fake_clock.monotonic() + RECOVERY,
    )
    for breaker in (one, other, third):
        assert try_acquire(breaker) is None
        assert breaker.refused() == ("half_open", 0.0)
        with pytest.raises(CircuitOpenError, match="half open"):
            breaker.check()
        assert totals(breaker)[3] == 3
    other.record(probe, Outcome.SUCCESS)
    assert states(one, other, third) == {"closed"}
    assert totals(other)[:3] == (1, 0, 0)
    succeed(third)


def test_who_tried_and_who_recovered(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Each change of a recovery is the prober's doing, and elsewhere for all others."""
    one, other = opened(store, fake_clock)
    succeed(other)
    expected = [("open", "half_open", TRYING), ("half_open", "closed", RECOVERED)]
    assert heard(other)[1:] == [(*each, False) for each in expected]
    assert heard(one)[1:] == [(*each, True) for each in expected]


def test_a_failed_probe(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """It opens the circuit for all, for longer each time, whoever probes."""
    breakers = opened(store, fake_clock, max_recovery_timeout=35.0)
    for number, seconds in enumerate((20.0, 35.0)):
        fail(breakers[number])
        assert states(*breakers) == {"open"}
        assert [cooldown(each) for each in breakers] == [seconds, seconds]
        fake_clock.advance(seconds)
    assert heard(breakers[0])[-1] == ("half_open", "open", PROBE_FAILED, True)
    assert [each.get_stats()["opened_count"] for each in breakers] == [3, 3]


def test_a_probe_that_never_reports(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """When its time is over another member finds the circuit open since then; its late word is void."""
    one, other = opened(store, fake_clock, half_open_timeout=4.0)
    probe = other.acquire()
    fake_clock.advance(5)
    assert try_acquire(one) is None
    assert states(one, other) == {"open"}
    assert cooldown(one) == cooldown(other) == RECOVERY - 1
    assert heard(one)[-1] == ("half_open", "open", PROBE_FAILED, False)
    assert heard(other)[-1] == ("half_open", "open", PROBE_FAILED, True)
    before = store.read(NAME)
    other.record(probe, Outcome.SUCCESS)
    assert store.read(NAME) == before
    assert totals(other) == (0, 0, 0, 0)
    fake_clock.advance(RECOVERY - 1)
    succeed(one)
    assert states(one, other) == {"closed"}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_probe_that_reports_too_late(
    store: MemoryBreakerStore, fake_clock: FakeClock, outcome: Outcome
) -> None:
    """Also when nobody has asked meanwhile it has failed, at the moment its time was over."""
    one, other = opened(store, fake_clock, half_open_timeout=4.0)
    probe = other.acquire()
    fake_clock.advance(4)
    other.record(probe, outcome)
    assert states(one, other) == {"open"}
    assert cooldown(one) == RECOVERY
    assert totals(other) == (0, 0, 0, 0)


def test_a_probe_that_is_released(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Its place is free for anybody, at once."""
    one, other = opened(store, fake_clock)
    ignore(one)
    assert one.get_stats()["half_open_in_use"] == 0
    assert try_acquire(other) is not None
    assert totals(one)[2] == 1


def test_a_lease_that_is_over_at_once(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Who is about to probe when another closes the circuit, or forces it open, does as all do."""
    one, other = opened(store, fake_clock)
    ways = [other.reset]

    def meanwhile(record: CircuitRecord) -> None:
        if record.state == "half_open" and ways:
            ways.pop()()

    one.follow(meanwhile)
    permit = one.acquire()
    assert not permit.half_open
    assert states(one, other) == {"closed"}
    fail(one, THRESHOLD)
    fake_clock.advance(RECOVERY)
    ways.append(lambda: other.force_open("moving house"))
    with pytest.raises(CircuitOpenError, match="held open by an operator"):
        one.acquire()
    assert totals(one) == (0, 2 * THRESHOLD, 0, 1)


def test_a_second_report(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A probe's word counts once, also where the spell goes on."""
    one, _ = opened(store, fake_clock, success_threshold=2)
    probe = one.acquire()
    for outcome in (Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE):
        one.record(probe, outcome)
    assert states(one) == {"half_open"}
    assert (store.read(NAME).successes, totals(one)[0]) == (1, 1)


def test_a_permit_of_another_breaker(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A permit belongs to the breaker that gave it, though the circuit is the same."""
    one, other = opened(store, fake_clock)
    probe = one.acquire()
    other.record(probe, Outcome.SUCCESS)
    assert states(one, other) == {"half_open"}
    one.record(probe, Outcome.SUCCESS)
    assert states(one, other) == {"closed"}


def test_success_threshold(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Successful probes of all members count together."""
    breakers = opened(store, fake_clock, 3, success_threshold=3)
    for breaker in breakers:
        assert states(*breakers) <= {"open", "half_open"}
        succeed(breaker)
    assert states(*breakers) == {"closed"}


def test_half_open_max_calls(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """So many probes are under way at once, those of all members together."""
    one, other = opened(store, fake_clock, half_open_max_calls=3)
    probes = [try_acquire(each) for each in (one, other, one, other)]
    assert [probe is None for probe in probes] == [False, False, False, True]
    assert [each.get_stats()["half_open_in_use"] for each in (one, other)] == [3, 3]


def test_half_open_quota(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """The results of all members are one quota."""
    one, other = opened(store, fake_clock, half_open_quota=4)
    for breaker in (one, other):
        fail(breaker)
        succeed(breaker)
    assert states(one, other) == {"open"}
    assert one.get_stats()["reason"] == f"{PROBE_FAILED}: failure rate 50% >= 50%"


def test_a_probe_in_a_with_block(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """``with`` and ``call`` lease and report by themselves."""
    one, other = opened(store, fake_clock)
    with one:
        assert states(other) == {"half_open"}
    assert states(one, other) == {"closed"}
    fail(other, THRESHOLD)
    fake_clock.advance(RECOVERY)
    assert other.call(lambda: 7) == 7
    assert states(one, other) == {"closed"}


# -- by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["force_open", "disable"])
def test_by_hand_for_all(store: MemoryBreakerStore, fake_clock: FakeClock, what: str) -> None:
    """What an operator orders anywhere holds everywhere, until somebody resets it anywhere."""
    one, other = share(store, fake_clock)
    state = "forced_open" if what == "force_open" else "disabled"
    getattr(one, what)("moving house")
    assert states(one, other) == {state}
    assert one.get_stats()["reason"] == other.get_stats()["reason"]
    assert "moving house" in other.get_stats()["reason"]
    assert (try_acquire(other) is None) is (state == "forced_open")
    fake_clock.advance(1e6)
    assert states(one, other) == {state}
    other.reset()
    assert states(one, other) == {"closed"}
    assert [(*change[:2], change[3]) for change in heard(one)] == [
        ("closed", state, False),
        (state, "closed", True),
    ]
    assert [(*change[:2], change[3]) for change in heard(other)] == [
        ("closed", state, True),
        (state, "closed", False),
    ]


def test_a_forced_open_circuit(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Other members refuse as the one where it was ordered: without a time to come back."""
    one, other = share(store, fake_clock)
    one.force_open("moving house")
    for breaker in (one, other):
        with pytest.raises(CircuitOpenError, match="held open by an operator"):
            breaker.acquire()
        assert breaker.refused() == ("forced_open", 0.0)
        assert breaker.retry_after() is None


def test_a_disabled_circuit(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Everything passes at all members; failures are counted and open nothing."""
    one, other = share(store, fake_clock)
    one.disable("experiment")
    fail(other, THRESHOLD + 2)
    assert states(one, other) == {"disabled"}
    assert totals(other) == (0, THRESHOLD + 2, 0, 0)


def test_a_reset_ends_the_outage_of_all(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Whoever has tripped, anybody may reset it; probes under way are void."""
    one, other = opened(store, fake_clock)
    probe = one.acquire()
    other.reset()
    one.record(probe, Outcome.FAILURE)
    assert states(one, other) == {"closed"}
    assert heard(other)[-1] == ("half_open", "closed", "reset by hand", False)


@pytest.mark.parametrize("value", ["false", "0"])
def test_breakers_that_are_switched_off(
    store: MemoryBreakerStore, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A process without circuit breakers neither follows the others nor has a say."""
    (one,) = share(store, fake_clock, 1)
    with monkeypatch.context() as patched:
        patched.setenv("CIRCUIT_BREAKER_ENABLED", value)
        (off,) = share(store, fake_clock, 1)
    assert off.state == "disabled"
    fail(off, THRESHOLD)
    assert store.read(NAME) == BLANK
    one.force_open("moving house")
    assert off.state == "disabled"
    succeed(off)
    off.pause(99.0, 99.0)
    off.hold_open(0, 99.0)
    off.recover(0)
    off.reset()
    assert off.state == "closed"
    assert states(one) == {"forced_open"}
    assert store.read(NAME).pause_until == 0.0
    assert off.get_stats()["opened_count"] == 0
