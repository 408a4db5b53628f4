"""The circuit in an operator's hand: forced open, disabled, reset."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.testing import FakeClock
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    Ear,
    fail,
    half_open_breaker,
    make_breaker,
    open_breaker,
    succeed,
    totals,
)


def test_forced_open_refuses(fake_clock: FakeClock) -> None:
    """A forced circuit refuses every call, and nobody is told to come back at a certain time."""
    breaker = make_breaker(fake_clock, label="Chroma Server")
    breaker.force_open("maintenance")

    with pytest.raises(CircuitOpenError, match=r"Chroma Server: .+ operator") as caught:
        breaker.acquire()

    assert breaker.state == "forced_open"
    assert (caught.value.cooldown_remaining, caught.value.retry_after) == (0.0, None)
    assert breaker.retry_after() is None
    with pytest.raises(CircuitOpenError):
        breaker.check()
    assert totals(breaker) == (0, 0, 0, 2)


def test_forced_open_outlasts_every_time(fake_clock: FakeClock) -> None:
    """A forced circuit does not try to recover by itself."""
    breaker = make_breaker(fake_clock)
    breaker.force_open("maintenance")
    fake_clock.advance(1e6)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    breaker.reset()
    succeed(breaker)
    assert breaker.state == "closed"


def test_disabled_lets_everything_through(fake_clock: FakeClock) -> None:
    """A disabled circuit never opens; its results are counted all the same."""
    breaker = make_breaker(fake_clock)
    breaker.disable("experiment")
    fail(breaker, THRESHOLD * 3)
    succeed(breaker)

    assert breaker.state == "disabled"
    assert totals(breaker) == (1, THRESHOLD * 3, 0, 0)
    assert breaker.get_stats()["opened_count"] == 0
    breaker.check()
    assert breaker.retry_after() is None


def test_failures_while_disabled_do_not_weigh_after_reset(fake_clock: FakeClock) -> None:
    """reset() starts from nothing, whatever happened before."""
    breaker = make_breaker(fake_clock)
    breaker.disable("experiment")
    fail(breaker, THRESHOLD * 3)
    breaker.reset()
    fail(breaker, THRESHOLD - 1)
    assert breaker.state == "closed"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_disabling_an_open_circuit_opens_the_way(fake_clock: FakeClock, outcome: Outcome) -> None:
    """An open circuit that is disabled lets calls through at once, and none of them moves it."""
    breaker = open_breaker(fake_clock)
    breaker.disable("experiment")
    breaker.record(breaker.acquire(), outcome)
    fake_clock.advance(RECOVERY * 2)
    breaker.record(breaker.acquire(), outcome)
    assert breaker.state == "disabled"


def test_reset_closes_at_once(fake_clock: FakeClock) -> None:
    """reset() closes an open circuit without waiting and without a probe."""
    breaker = open_breaker(fake_clock)
    breaker.reset()
    assert breaker.state == "closed"
    assert breaker.get_stats()["failure_count"] == 0
    assert not breaker.acquire().half_open


def test_reset_half_open(fake_clock: FakeClock) -> None:
    """reset() ends the trial, and the probe under way counts no more."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.reset()
    breaker.record(probe, Outcome.FAILURE)
    assert breaker.state == "closed"
    assert breaker.get_stats()["half_open_in_use"] == 0


def test_reset_of_a_closed_circuit_forgets_failures(fake_clock: FakeClock) -> None:
    """reset() while closed starts the count again and is no change that anybody is told of."""
    ear = Ear()
    breaker = make_breaker(fake_clock, listeners=[ear])
    fail(breaker, THRESHOLD - 1)
    breaker.reset()
    fail(breaker, THRESHOLD - 1)
    assert breaker.state == "closed"
    assert ear.events == []


def test_forced_open_while_a_probe_is_under_way(fake_clock: FakeClock) -> None:
    """The operator's word stands above a probe's."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.force_open("maintenance")
    breaker.record(probe, Outcome.SUCCESS)
    assert breaker.state == "forced_open"


def test_from_one_forced_state_to_the_other(fake_clock: FakeClock) -> None:
    """The operator may change their mind; the last word stands."""
    breaker = make_breaker(fake_clock)
    breaker.force_open("maintenance")
    breaker.disable("let them in")
    succeed(breaker)
    breaker.force_open("back to work")
    assert breaker.get_stats()["reason"] == "forced: back to work"
    with pytest.raises(CircuitOpenError):
        breaker.acquire()


def test_manual_changes_are_told(fake_clock: FakeClock) -> None:
    """Listeners hear of changes by hand in the words of the log lines, and of each only once."""
    ear = Ear()
    breaker = make_breaker(fake_clock, listeners=[ear])
    breaker.force_open("  new\n index ")
    breaker.force_open("still new index")
    breaker.reset()
    breaker.reset()
    breaker.disable("experiment")
    breaker.reset()
    assert ear.changes == [
        ("closed", "forced_open", "forced: new index"),
        ("forced_open", "closed", "reset by hand"),
        ("closed", "disabled", "experiment"),
        ("disabled", "closed", "reset by hand"),
    ]


def test_reason_in_the_status(fake_clock: FakeClock) -> None:
    """The status says why the circuit is as it is; a closed one needs no reason."""
    breaker = make_breaker(fake_clock)
    reasons = [breaker.get_stats()["reason"]]
    breaker.force_open("maintenance")
    reasons.append(breaker.get_stats()["reason"])
    breaker.disable("experiment")
    reasons.append(breaker.get_stats()["reason"])
    breaker.reset()
    reasons.append(breaker.get_stats()["reason"])
    fail(breaker, THRESHOLD)
    reasons.append(breaker.get_stats()["reason"])
    assert reasons == [None, "forced: maintenance", "experiment", None, "threshold reached: 3/3"]


@pytest.mark.parametrize("reason", ["", "  \n", None, 5])
def test_a_reason_must_be_given(fake_clock: FakeClock, reason: Any) -> None:
    """Whoever takes a circuit in hand says why; without a reason nothing changes."""
    breaker = make_breaker(fake_clock)
    with pytest.raises(ValueError, match="reason="):
        breaker.force_open(reason)
    with pytest.raises(ValueError, match="reason="):
        breaker.disable(reason)
    assert breaker.state == "closed"
