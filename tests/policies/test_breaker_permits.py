"""Permits: given back once, by their owner, and worth something only in the spell they were given in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    cooldown,
    fail,
    half_open_breaker,
    make_breaker,
    open_breaker,
    succeed,
    totals,
)

OUTCOMES = list(Outcome)
by_outcome = pytest.mark.parametrize("outcome", OUTCOMES)


@by_outcome
def test_second_time_does_nothing(fake_clock: FakeClock, outcome: Outcome) -> None:
    """A permit given back again, with whatever result, changes nothing."""
    breaker = make_breaker(fake_clock)
    permit = breaker.acquire()
    breaker.record(permit, outcome)
    before = breaker.get_stats()

    for again in OUTCOMES:
        breaker.record(permit, again)
    breaker.release(permit)

    assert breaker.get_stats() == before


def test_release_counts_as_ignored(fake_clock: FakeClock) -> None:
    """release() is the result "ignored"."""
    breaker = make_breaker(fake_clock)
    breaker.release(breaker.acquire())
    assert totals(breaker) == (0, 0, 1, 0)


def _opened(breaker: CircuitBreaker, clock: FakeClock) -> None:
    fail(breaker, THRESHOLD)


def _half_open(breaker: CircuitBreaker, clock: FakeClock) -> None:
    fail(breaker, THRESHOLD)
    clock.advance(RECOVERY)
    breaker.acquire()


def _closed_again(breaker: CircuitBreaker, clock: FakeClock) -> None:
    fail(breaker, THRESHOLD)
    clock.advance(RECOVERY)
    succeed(breaker)


def _forced(breaker: CircuitBreaker, clock: FakeClock) -> None:
    breaker.force_open("maintenance")


def _disabled(breaker: CircuitBreaker, clock: FakeClock) -> None:
    breaker.disable("experiment")


def _reset(breaker: CircuitBreaker, clock: FakeClock) -> None:
    breaker.reset()


@by_outcome
@pytest.mark.parametrize("moved_on", [_opened, _half_open, _closed_again, _forced, _disabled, _reset])
def test_late_result_changes_nothing(
    fake_clock: FakeClock, moved_on: Callable[[CircuitBreaker, FakeClock], None], outcome: Outcome
) -> None:
    """A call that set out in an earlier spell counts nowhere: no state, no count, no timer, no time."""
    breaker = make_breaker(fake_clock)
    late = [breaker.acquire() for _ in range(THRESHOLD)]
    moved_on(breaker, fake_clock)
    fake_clock.advance(1)
    before = breaker.get_stats()

    for permit in late:
        breaker.record(permit, outcome, error="late", retry_after=30)

    assert breaker.get_stats() == before


@by_outcome
def test_late_probe_changes_nothing(fake_clock: FakeClock, outcome: Outcome) -> None:
    """A probe of an earlier half-open spell counts as little as any other late call."""
    breaker, first = half_open_breaker(fake_clock, half_open_max_calls=2)
    late = breaker.acquire()
    breaker.record(first, Outcome.FAILURE)
    fake_clock.advance(RECOVERY - 1)
    breaker.record(late, outcome)
    assert (breaker.state, cooldown(breaker)) == ("open", 1.0)

    fake_clock.advance(1)
    probe = breaker.acquire()
    breaker.record(late, outcome)
    assert breaker.get_stats()["half_open_in_use"] == 1
    breaker.record(probe, Outcome.SUCCESS)
    assert breaker.state == "closed"


def test_late_probe_frees_no_place_of_the_next_spell(fake_clock: FakeClock) -> None:
    """Giving back an old probe makes no room for a second one now."""
    breaker, first = half_open_breaker(fake_clock, half_open_max_calls=2)
    old = breaker.acquire()
    breaker.record(first, Outcome.FAILURE)
    fake_clock.advance(RECOVERY)
    breaker.acquire()
    breaker.acquire()

    breaker.record(old, Outcome.SUCCESS)

    with pytest.raises(CircuitOpenError):
        breaker.acquire()


def test_late_success_does_not_forgive(fake_clock: FakeClock) -> None:
    """A success that set out before reset() does not take back the failures after it."""
    breaker = make_breaker(fake_clock)
    late = breaker.acquire()
    breaker.reset()
    fail(breaker, THRESHOLD - 1)
    breaker.record(late, Outcome.SUCCESS)
    fail(breaker)
    assert breaker.state == "open"


def test_failures_under_way_when_it_opens_open_it_once(fake_clock: FakeClock) -> None:
    """Of many calls that fail together only those up to the threshold count; the timer is not restarted."""
    breaker = make_breaker(fake_clock)
    permits = [breaker.acquire() for _ in range(THRESHOLD * 4)]
    for permit in permits:
        breaker.record(permit, Outcome.FAILURE)
        fake_clock.advance(1)

    stats = breaker.get_stats()
    assert (stats["opened_count"], stats["failure_count"], stats["total"]["failed"]) == (
        1,
        THRESHOLD,
        THRESHOLD,
    )
    assert stats["cooldown_remaining"] == RECOVERY - (len(permits) - THRESHOLD + 1)


def test_permits_of_another_breaker_mean_nothing(fake_clock: FakeClock) -> None:
    """A breaker counts no result of another's calls, whatever their generations."""
    one, other = make_breaker(fake_clock), make_breaker(fake_clock)
    for outcome in OUTCOMES:
        other.record(one.acquire(), outcome)
    assert totals(other) == (0, 0, 0, 0)


def test_permit_says_what_it_is(fake_clock: FakeClock) -> None:
    """A permit prints as what it is, for those who debug."""
    breaker, probe = half_open_breaker(fake_clock)
    assert repr(probe) == "<Permit probe generation=2 open>"
    breaker.record(probe, Outcome.SUCCESS)
    assert repr(probe) == "<Permit probe generation=2 given back>"
    assert repr(breaker.acquire()) == "<Permit call generation=3 open>"


def test_open_circuit_gives_nothing_to_take_back(fake_clock: FakeClock) -> None:
    """A refused call has no permit, so that nothing of it can count."""
    breaker = open_breaker(fake_clock)
    before = breaker.get_stats()["half_open_in_use"]
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    assert breaker.get_stats()["half_open_in_use"] == before == 0
