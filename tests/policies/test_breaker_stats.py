"""What a circuit breaker tells about itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.testing import FakeClock
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    fail,
    half_open_breaker,
    ignore,
    make_breaker,
    open_breaker,
    succeed,
    totals,
)


@pytest.fixture
def noon_clock() -> FakeClock:
    return FakeClock(start=1000.0, now=datetime(2024, 5, 1, 12, tzinfo=UTC))


def test_stats_of_a_new_breaker(fake_clock: FakeClock) -> None:
    """Before the first call there are zeros, and no times."""
    assert make_breaker(fake_clock).get_stats() == {
        "name": "chroma",
        "state": "closed",
        "failure_count": 0,
        "failure_threshold": THRESHOLD,
        "failure_rate": None,
        "slow_call_rate": None,
        "window_calls": 0,
        "total": {"succeeded": 0, "failed": 0, "ignored": 0, "rejected": 0},
        "half_open_in_use": 0,
        "opened_count": 0,
        "recovery_timeout": RECOVERY,
        "cooldown_remaining": 0.0,
        "reason": None,
        "last_failure": None,
        "last_success": None,
        "last_state_change": None,
        "last_error": None,
        "mttr_seconds": None,
    }


def test_stats_are_json(fake_clock: FakeClock) -> None:
    """Statistics go into JSON as they are, in every state."""
    breaker, _ = half_open_breaker(fake_clock)
    stats = breaker.get_stats()
    assert json.loads(json.dumps(stats, allow_nan=False)) == stats
    breaker.force_open("maintenance")
    json.dumps(breaker.get_stats(), allow_nan=False)


def test_stats_are_a_copy(fake_clock: FakeClock) -> None:
    """What a reader does to the statistics does not reach the breaker."""
    breaker = make_breaker(fake_clock)
    breaker.get_stats()["total"]["failed"] = 99
    assert totals(breaker) == (0, 0, 0, 0)


def test_totals(fake_clock: FakeClock) -> None:
    """Each result is counted once, under its name, over all states."""
    breaker = make_breaker(fake_clock)
    succeed(breaker, 4)
    ignore(breaker, 2)
    fail(breaker, THRESHOLD)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    fake_clock.advance(RECOVERY)
    succeed(breaker)
    assert totals(breaker) == (5, THRESHOLD, 2, 1)


def test_failure_count(fake_clock: FakeClock) -> None:
    """failure_count is the number of consecutive failures now."""
    breaker = make_breaker(fake_clock)
    counts = []
    for result in (fail, fail, ignore, succeed, fail, fail, fail):
        result(breaker)
        counts.append(breaker.get_stats()["failure_count"])
    assert counts == [1, 2, 2, 0, 1, 2, 3]


def test_times(noon_clock: FakeClock) -> None:
    """The times are those at which things happened, in UTC."""
    breaker = make_breaker(noon_clock)
    succeed(breaker)
    noon_clock.advance(60)
    fail(breaker, THRESHOLD)
    noon_clock.advance(RECOVERY)
    breaker.release(breaker.acquire())
    stats = breaker.get_stats()
    assert stats["last_success"] == "2024-05-01T12:00:00+00:00"
    assert stats["last_failure"] == "2024-05-01T12:01:00+00:00"
    assert stats["last_state_change"] == "2024-05-01T12:01:10+00:00"


def test_ignored_results_leave_no_times(fake_clock: FakeClock) -> None:
    """An ignored result is neither a success nor a failure."""
    breaker = make_breaker(fake_clock)
    ignore(breaker)
    stats = breaker.get_stats()
    assert (stats["last_success"], stats["last_failure"], stats["last_state_change"]) == (None, None, None)


def test_cooldown_runs_down_to_zero(fake_clock: FakeClock) -> None:
    """cooldown_remaining shrinks with the time and never goes below 0."""
    breaker = open_breaker(fake_clock)
    seen = []
    for _ in range(4):
        seen.append(breaker.get_stats()["cooldown_remaining"])
        fake_clock.advance(4)
    assert seen == [10, 6, 2, 0]


@pytest.mark.parametrize("state", ["closed", "half_open", "forced_open", "disabled"])
def test_cooldown_of_a_circuit_that_is_not_open(fake_clock: FakeClock, state: str) -> None:
    """Only an open circuit cools down."""
    breaker, probe = half_open_breaker(fake_clock)
    if state == "closed":
        breaker.record(probe, Outcome.SUCCESS)
    elif state == "forced_open":
        breaker.force_open("maintenance")
    elif state == "disabled":
        breaker.disable("experiment")
    stats = breaker.get_stats()
    assert (stats["state"], stats["cooldown_remaining"]) == (state, 0.0)


def test_last_error(fake_clock: FakeClock) -> None:
    """The last failure is kept in words: the caller's sentence, or an exception's type, never its text."""
    breaker = make_breaker(fake_clock, failure_threshold=9)
    fail(breaker, error="answered 503")
    assert breaker.get_stats()["last_error"] == "answered 503"
    fail(breaker, error=ConnectionError("http://user:secret@host"))
    assert breaker.get_stats()["last_error"] == "ConnectionError"
    fail(breaker)
    succeed(breaker)
    breaker.record(breaker.acquire(), Outcome.IGNORED, error="our own mistake")
    assert breaker.get_stats()["last_error"] == "ConnectionError"


def test_opened_count(fake_clock: FakeClock) -> None:
    """opened_count counts openings by failures, those by failed probes among them, but not those by hand."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.record(probe, Outcome.FAILURE)
    breaker.reset()
    breaker.force_open("maintenance")
    breaker.reset()
    assert breaker.get_stats()["opened_count"] == 2


def test_mean_time_to_recovery(fake_clock: FakeClock) -> None:
    """mttr_seconds is the mean time from the first opening of an outage to the close that ends it."""
    breaker, probe = half_open_breaker(fake_clock)
    fake_clock.advance(2)
    breaker.record(probe, Outcome.FAILURE)
    assert breaker.get_stats()["mttr_seconds"] is None
    fake_clock.advance(RECOVERY)
    succeed(breaker)
    assert breaker.get_stats()["mttr_seconds"] == RECOVERY + 2 + RECOVERY

    fail(breaker, THRESHOLD)
    fake_clock.advance(RECOVERY)
    succeed(breaker)
    assert breaker.get_stats()["mttr_seconds"] == (22 + 10) / 2


def test_outage_ended_by_hand_is_not_in_the_mean(fake_clock: FakeClock) -> None:
    """How fast an operator is says nothing about how fast the service recovers."""
    breaker = open_breaker(fake_clock)
    fake_clock.advance(3600)
    breaker.reset()
    assert breaker.get_stats()["mttr_seconds"] is None
    fail(breaker, THRESHOLD)
    fake_clock.advance(RECOVERY)
    succeed(breaker)
    assert breaker.get_stats()["mttr_seconds"] == RECOVERY


def test_repr(fake_clock: FakeClock) -> None:
    """A breaker prints its name and state."""
    assert repr(open_breaker(fake_clock)) == "<CircuitBreaker 'chroma' open>"
