"""How long a circuit stays open: growth, jitter and the service's own Retry-After."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
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
)


def failed_probes(clock: FakeClock, number: int, **options: Any) -> list[float]:
    """The open times of a circuit whose probes all fail."""
    breaker = open_breaker(clock, **options)
    times = [cooldown(breaker)]
    for _ in range(number):
        clock.advance(times[-1])
        fail(breaker)
        times.append(cooldown(breaker))
    return times


def test_without_a_limit_it_does_not_grow(fake_clock: FakeClock) -> None:
    """By default each open time is recovery_timeout, however often probes fail."""
    assert failed_probes(fake_clock, 4) == [RECOVERY] * 5


def test_doubles_with_each_failed_probe(fake_clock: FakeClock) -> None:
    """With max_recovery_timeout the open time doubles up to it and stays there."""
    assert failed_probes(fake_clock, 4, max_recovery_timeout=65) == [10, 20, 40, 65, 65]


def test_grows_for_years_without_overflow(fake_clock: FakeClock) -> None:
    """Even after thousands of failed probes the open time is the limit."""
    times = failed_probes(fake_clock, 2000, max_recovery_timeout=100, recovery_timeout=1e-3)
    assert times[-1] == 100
    assert all(map(math.isfinite, times))


def test_expired_probes_count_as_failed(fake_clock: FakeClock) -> None:
    """A probe that never reports makes the open time grow like one that failed."""
    breaker, _ = half_open_breaker(fake_clock, max_recovery_timeout=1000, half_open_timeout=4)
    fake_clock.advance(4 + 5)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.cooldown_remaining == 2 * RECOVERY - 5


def test_growth_starts_again_after_a_close(fake_clock: FakeClock) -> None:
    """A circuit that recovered begins its next outage with the ordinary open time."""
    breaker, probe = half_open_breaker(fake_clock, max_recovery_timeout=1000)
    breaker.record(probe, Outcome.FAILURE)
    fake_clock.advance(2 * RECOVERY)
    succeed(breaker)
    fail(breaker, THRESHOLD)
    assert cooldown(breaker) == RECOVERY


def test_growth_starts_again_after_a_reset(fake_clock: FakeClock) -> None:
    """So does one that an operator closed."""
    breaker, probe = half_open_breaker(fake_clock, max_recovery_timeout=1000)
    breaker.record(probe, Outcome.FAILURE)
    breaker.reset()
    fail(breaker, THRESHOLD)
    assert cooldown(breaker) == RECOVERY


def test_ignored_probes_do_not_grow_it(fake_clock: FakeClock) -> None:
    """A probe whose result is ignored says nothing about the service."""
    breaker, probe = half_open_breaker(fake_clock, max_recovery_timeout=1000)
    breaker.release(probe)
    fail(breaker)
    assert cooldown(breaker) == 2 * RECOVERY


@given(jitter=st.floats(0, 1), drawn=st.floats(0, 1, exclude_max=True))
def test_jitter_shortens(jitter: float, drawn: float) -> None:
    """An open time d becomes d * (1 - jitter * U): never longer, and shorter by no more than the jitter."""
    breaker = make_breaker(FakeClock(), recovery_jitter=jitter)
    breaker._circuit._random = lambda: drawn
    fail(breaker, THRESHOLD)
    assert cooldown(breaker) == pytest.approx(RECOVERY * (1 - jitter * drawn))
    assert RECOVERY * (1 - jitter) <= cooldown(breaker) + 1e-9
    assert cooldown(breaker) <= RECOVERY


def test_jitter_spreads_processes(fake_clock: FakeClock) -> None:
    """Circuits that opened at one moment do not all probe at one moment."""
    times = {cooldown(open_breaker(fake_clock, recovery_jitter=0.5)) for _ in range(50)}
    assert len(times) > 25
    assert all(RECOVERY / 2 <= seconds <= RECOVERY for seconds in times)


def test_no_jitter_by_default(fake_clock: FakeClock) -> None:
    """Without recovery_jitter the open time is exact."""
    assert {cooldown(open_breaker(fake_clock)) for _ in range(20)} == {RECOVERY}


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(25.0, 25.0), (3.0, RECOVERY), (600.0, 60.0), (60, 60.0), (0, RECOVERY), (-5, RECOVERY)],
)
def test_retry_after_lengthens(fake_clock: FakeClock, asked: float, seconds: float) -> None:
    """The Retry-After of the failure that opens is honoured up to max_retry_after, and never shortens."""
    breaker = make_breaker(fake_clock)
    fail(breaker, THRESHOLD - 1)
    fail(breaker, retry_after=asked)
    assert cooldown(breaker) == seconds


@pytest.mark.parametrize("asked", [math.nan, math.inf, 1e308])
def test_absurd_retry_after(fake_clock: FakeClock, asked: float) -> None:
    """No Retry-After, however absurd, keeps a circuit open beyond max_retry_after."""
    breaker = make_breaker(fake_clock, failure_threshold=1)
    fail(breaker, retry_after=asked)
    assert RECOVERY <= cooldown(breaker) <= 60


def test_earlier_retry_after_does_not_count(fake_clock: FakeClock) -> None:
    """Only the failure that opens the circuit says how long it must rest."""
    breaker = make_breaker(fake_clock)
    fail(breaker, THRESHOLD - 1, retry_after=50)
    fail(breaker)
    assert cooldown(breaker) == RECOVERY


def test_retry_after_of_a_probe(fake_clock: FakeClock) -> None:
    """A failed probe's Retry-After lengthens the next open time."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.record(probe, Outcome.FAILURE, retry_after=33)
    assert cooldown(breaker) == 33


def test_retry_after_beside_growth_and_jitter(fake_clock: FakeClock) -> None:
    """Of the grown open time and the Retry-After the longer one counts; jitter does not undercut it."""
    breaker, probe = half_open_breaker(fake_clock, max_recovery_timeout=1000)
    breaker.record(probe, Outcome.FAILURE, retry_after=5)
    assert cooldown(breaker) == 2 * RECOVERY

    breaker, probe = half_open_breaker(FakeClock(), max_recovery_timeout=1000, recovery_jitter=1.0)
    breaker.record(probe, Outcome.FAILURE, retry_after=45)
    assert cooldown(breaker) == 45


def test_retry_after_of_success_and_ignored(fake_clock: FakeClock) -> None:
    """A Retry-After beside another result than a failure changes nothing."""
    breaker = make_breaker(fake_clock)
    for outcome in (Outcome.SUCCESS, Outcome.IGNORED):
        breaker.record(breaker.acquire(), outcome, retry_after=50)
    fail(breaker, THRESHOLD)
    assert cooldown(breaker) == RECOVERY


def test_own_limit_for_retry_after(fake_clock: FakeClock) -> None:
    """max_retry_after may allow longer rests, or none beyond our own."""
    patient = make_breaker(fake_clock, failure_threshold=1, max_retry_after=3600)
    fail(patient, retry_after=3000)
    assert cooldown(patient) == 3000
    hasty = make_breaker(fake_clock, failure_threshold=1, max_retry_after=0)
    fail(hasty, retry_after=3000)
    assert cooldown(hasty) == RECOVERY


def test_retry_after_of_the_breaker(fake_clock: FakeClock) -> None:
    """retry_after() is the rest of the open time, 0 while a probe is under way, None while calls pass."""
    breaker = make_breaker(fake_clock)
    assert breaker.retry_after() is None
    fail(breaker, THRESHOLD)
    fake_clock.advance(4)
    assert breaker.retry_after() == RECOVERY - 4
    fake_clock.advance(RECOVERY - 4)
    assert breaker.retry_after() is None
    probe = breaker.acquire()
    assert breaker.retry_after() == 0.0
    breaker.record(probe, Outcome.SUCCESS)
    assert breaker.retry_after() is None
