"""The circuit breaker's states: what opens it, what closes it, and what it lets through meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError, ServiceUnavailable
from service_utils.testing import FakeClock
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    Ear,
    fail,
    half_open_breaker,
    ignore,
    make_breaker,
    open_breaker,
    succeed,
    totals,
)


def test_starts_closed(fake_clock: FakeClock) -> None:
    """A new circuit lets everything through."""
    breaker = make_breaker(fake_clock)

    assert breaker.state == "closed"
    succeed(breaker, 20)
    assert breaker.state == "closed"


def test_calls_pass_in_any_number_at_once_while_closed(fake_clock: FakeClock) -> None:
    """A closed circuit counts results, not calls under way."""
    breaker = make_breaker(fake_clock)
    permits = [breaker.acquire() for _ in range(100)]
    assert not any(permit.half_open for permit in permits)


def test_opens_at_the_threshold_and_not_before(fake_clock: FakeClock) -> None:
    """The circuit opens with exactly the failure that reaches the threshold."""
    breaker = make_breaker(fake_clock)

    fail(breaker, THRESHOLD - 1)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"


def test_threshold_of_one(fake_clock: FakeClock) -> None:
    """With a threshold of 1 the first failure opens the circuit."""
    breaker = make_breaker(fake_clock, failure_threshold=1)
    fail(breaker)
    assert breaker.state == "open"


def test_only_consecutive_failures_count(fake_clock: FakeClock) -> None:
    """A success in between starts the count again, however many failures there are in all."""
    breaker = make_breaker(fake_clock)
    for _ in range(10):
        fail(breaker, THRESHOLD - 1)
        succeed(breaker)
    assert breaker.state == "closed"
    assert totals(breaker) == (10, 10 * (THRESHOLD - 1), 0, 0)


def test_ignored_results_neither_count_nor_forgive(fake_clock: FakeClock) -> None:
    """An ignored result leaves the count of failures as it is."""
    breaker = make_breaker(fake_clock)
    fail(breaker, THRESHOLD - 1)
    ignore(breaker, 50)
    assert breaker.state == "closed"
    assert breaker.get_stats()["failure_count"] == THRESHOLD - 1
    fail(breaker)
    assert breaker.state == "open"


def test_time_alone_forgives_nothing(fake_clock: FakeClock) -> None:
    """Failures stay consecutive however far apart they are."""
    breaker = make_breaker(fake_clock)
    for _ in range(THRESHOLD):
        fail(breaker)
        fake_clock.advance(3600)
    assert breaker.state == "open"


def test_open_circuit_refuses(fake_clock: FakeClock) -> None:
    """The refusal says which service it is, and when to come again."""
    breaker = open_breaker(fake_clock, label="Chroma Server")
    fake_clock.advance(4)

    with pytest.raises(CircuitOpenError, match="Chroma Server") as caught:
        breaker.acquire()

    assert isinstance(caught.value, ServiceUnavailable)
    assert caught.value.service == "Chroma Server"
    assert caught.value.cooldown_remaining == RECOVERY - 4
    assert caught.value.retry_after == RECOVERY - 4


def test_refusals_are_no_failures(fake_clock: FakeClock) -> None:
    """A rejected call is counted as rejected and prolongs nothing."""
    breaker = open_breaker(fake_clock)
    for _ in range(5):
        with pytest.raises(CircuitOpenError):
            breaker.acquire()

    assert totals(breaker) == (0, THRESHOLD, 0, 5)
    assert breaker.get_stats()["cooldown_remaining"] == RECOVERY


def test_stays_open_until_the_last_moment(fake_clock: FakeClock) -> None:
    """The circuit refuses to the end of recovery_timeout and lets a probe through at its end."""
    breaker = open_breaker(fake_clock)
    fake_clock.advance(RECOVERY - 0.001)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()

    fake_clock.advance(0.001)
    assert breaker.acquire().half_open
    assert breaker.state == "half_open"


def test_reading_changes_nothing(fake_clock: FakeClock) -> None:
    """An open circuit whose time is over reads open until somebody asks for a permit."""
    ear = Ear()
    breaker = open_breaker(fake_clock, listeners=[ear])
    fake_clock.advance(RECOVERY * 2)
    heard = len(ear.events)

    for _ in range(3):
        assert breaker.state == "open"
        assert breaker.get_stats()["state"] == "open"
        assert breaker.get_stats()["cooldown_remaining"] == 0.0
        assert breaker.retry_after() is None
        assert "open" in repr(breaker)
        breaker.check()

    assert len(ear.events) == heard
    assert totals(breaker) == (0, THRESHOLD, 0, 0)


def test_one_success_closes(fake_clock: FakeClock) -> None:
    """A probe that succeeds closes the circuit, and the failures are forgotten."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.record(probe, Outcome.SUCCESS)

    assert breaker.state == "closed"
    fail(breaker, THRESHOLD - 1)
    assert breaker.state == "closed"


def test_one_failure_opens_again(fake_clock: FakeClock) -> None:
    """A probe that fails opens the circuit for another recovery_timeout, counted from its failure."""
    breaker, probe = half_open_breaker(fake_clock)
    fake_clock.advance(5)
    breaker.record(probe, Outcome.FAILURE)

    assert breaker.state == "open"
    assert breaker.get_stats()["cooldown_remaining"] == RECOVERY


def test_several_successes_needed(fake_clock: FakeClock) -> None:
    """With success_threshold=3 the circuit closes with the third successful probe."""
    breaker, probe = half_open_breaker(fake_clock, success_threshold=3)
    breaker.record(probe, Outcome.SUCCESS)
    succeed(breaker)
    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


def test_successes_of_an_earlier_half_open_spell_are_forgotten(fake_clock: FakeClock) -> None:
    """A failed probe takes the successes before it along."""
    breaker, probe = half_open_breaker(fake_clock, success_threshold=2)
    breaker.record(probe, Outcome.SUCCESS)
    fail(breaker)
    fake_clock.advance(RECOVERY)
    succeed(breaker)
    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


def test_ignored_probe_decides_nothing(fake_clock: FakeClock) -> None:
    """A probe whose result is ignored leaves the circuit half open and its place free."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.record(probe, Outcome.IGNORED)

    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


def test_check_refuses_without_taking_a_permit(fake_clock: FakeClock) -> None:
    """check() raises what acquire() would raise, and takes nothing."""
    breaker = make_breaker(fake_clock)
    breaker.check()
    fail(breaker, THRESHOLD)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.check()
    assert caught.value.cooldown_remaining == RECOVERY

    fake_clock.advance(RECOVERY)
    breaker.check()
    assert breaker.state == "open"
    probe = breaker.acquire()
    with pytest.raises(CircuitOpenError):
        breaker.check()
    breaker.record(probe, Outcome.SUCCESS)
    assert totals(breaker) == (1, THRESHOLD, 0, 2)


def test_transitions_are_told_with_their_reasons(fake_clock: FakeClock) -> None:
    """Listeners hear of each change once, in order, in the words of the log lines."""
    ear = Ear()
    breaker, probe = half_open_breaker(fake_clock, listeners=[ear])
    breaker.record(probe, Outcome.FAILURE)
    fake_clock.advance(RECOVERY)
    succeed(breaker)

    assert ear.changes == [
        ("closed", "open", "threshold reached: 3/3"),
        ("open", "half_open", "recovery timeout over"),
        ("half_open", "open", "recovery probe failed"),
        ("open", "half_open", "recovery timeout over"),
        ("half_open", "closed", "service recovered"),
    ]


def test_events_carry_who_and_when(fake_clock: FakeClock) -> None:
    """An event names the display name, the short name, the moment and the generation."""
    ear = Ear()
    breaker = open_breaker(fake_clock, listeners=[ear], label="Chroma Server")
    fake_clock.advance(1)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()

    change, rejection = ear.events[-2], ear.rejections[0]
    assert (change.service, change.name, change.at) == ("Chroma Server", "chroma", 0.0)
    assert (rejection.service, rejection.name, rejection.at) == ("Chroma Server", "chroma", 1.0)
    assert (rejection.state, rejection.cooldown_remaining) == ("open", RECOVERY - 1)
    assert rejection.generation == ear.events[-2].generation  # type: ignore[attr-defined]


def test_result_that_is_no_outcome(fake_clock: FakeClock) -> None:
    """A result must be an Outcome; a wrong one is refused and the permit is still its owner's."""
    breaker = make_breaker(fake_clock)
    permit = breaker.acquire()
    wrong: Any = "success"
    with pytest.raises(TypeError, match="outcome='success'"):
        breaker.record(permit, wrong)
    breaker.record(permit, Outcome.SUCCESS)
    assert totals(breaker) == (1, 0, 0, 0)


def test_wall_clock_does_not_matter(fake_clock: FakeClock) -> None:
    """A time of day that jumps back or forth neither opens nor closes a circuit, nor prolongs its rest."""
    breaker = open_breaker(fake_clock)
    fake_clock.set_now(fake_clock.now().replace(year=2001))
    fake_clock.advance(RECOVERY - 1)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    fake_clock.set_now(fake_clock.now().replace(year=2050))
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    fake_clock.advance(1)
    succeed(breaker)
    assert breaker.state == "closed"
