"""Probes: how many at once, and what becomes of one that never reports."""

from __future__ import annotations

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.policies.breaker import BreakerConfig
from service_utils.testing import FakeClock
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    Ear,
    cooldown,
    fail,
    half_open_breaker,
    open_breaker,
    succeed,
    totals,
)


def test_one_probe_at_once(fake_clock: FakeClock) -> None:
    """While a probe is under way everybody else is refused, and told that it is a matter of moments."""
    breaker, probe = half_open_breaker(fake_clock, label="Chroma Server")
    with pytest.raises(CircuitOpenError, match="half open") as caught:
        breaker.acquire()
    assert (caught.value.cooldown_remaining, caught.value.retry_after) == (0.0, 0.0)
    assert totals(breaker)[3] == 1

    breaker.release(probe)
    assert breaker.acquire().half_open


def test_several_probes_at_once(fake_clock: FakeClock) -> None:
    """half_open_max_calls probes may be under way together, and a place given back can be taken again."""
    breaker, first = half_open_breaker(fake_clock, half_open_max_calls=3, success_threshold=5)
    breaker.acquire()
    breaker.acquire()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()

    breaker.record(first, Outcome.SUCCESS)
    assert breaker.get_stats()["half_open_in_use"] == 2
    breaker.acquire()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()


def test_fewer_places_than_successes_needed(fake_clock: FakeClock) -> None:
    """With one place and three successes needed the probes go one after the other."""
    breaker, probe = half_open_breaker(fake_clock, success_threshold=3)
    breaker.record(probe, Outcome.SUCCESS)
    succeed(breaker, 2)
    assert breaker.state == "closed"


def test_more_places_than_successes_needed(fake_clock: FakeClock) -> None:
    """The first successful probe closes the circuit; what the others say then is late."""
    breaker, first = half_open_breaker(fake_clock, half_open_max_calls=3)
    second, third = breaker.acquire(), breaker.acquire()
    breaker.record(first, Outcome.SUCCESS)
    breaker.record(second, Outcome.FAILURE)
    breaker.record(third, Outcome.SUCCESS)
    assert breaker.state == "closed"
    assert breaker.get_stats()["half_open_in_use"] == 0
    assert totals(breaker) == (1, THRESHOLD, 0, 0)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_given_back_twice_frees_one_place(fake_clock: FakeClock, outcome: Outcome) -> None:
    """A probe given back twice does not make room for two."""
    breaker, first = half_open_breaker(fake_clock, half_open_max_calls=2, success_threshold=9)
    breaker.acquire()
    breaker.record(first, Outcome.SUCCESS)
    breaker.record(first, outcome)
    breaker.acquire()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()


def test_silent_probe_expires(fake_clock: FakeClock) -> None:
    """A probe that does not report within half_open_timeout counts as a failure and opens the circuit."""
    ear = Ear()
    breaker, _ = half_open_breaker(fake_clock, half_open_timeout=4, listeners=[ear])
    fake_clock.advance(4)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()

    assert breaker.state == "open"
    assert ear.changes[-1] == ("half_open", "open", "recovery probe failed")
    stats = breaker.get_stats()
    assert (stats["total"]["failed"], stats["opened_count"]) == (THRESHOLD + 1, 2)
    assert stats["last_error"] == "a probe did not report within 4 s"
    assert stats["last_failure"] is not None


def test_probe_lives_to_its_last_moment(fake_clock: FakeClock) -> None:
    """A probe may report at any time before half_open_timeout is over."""
    breaker, probe = half_open_breaker(fake_clock, half_open_timeout=4)
    fake_clock.advance(3.999)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    breaker.record(probe, Outcome.SUCCESS)
    assert breaker.state == "closed"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_word_of_an_expired_probe_is_void(fake_clock: FakeClock, outcome: Outcome) -> None:
    """What an expired probe says afterwards is not heard; it has failed already."""
    breaker, probe = half_open_breaker(fake_clock, half_open_timeout=4)
    fake_clock.advance(4)
    breaker.record(probe, outcome)

    assert breaker.state == "open"
    assert totals(breaker) == (0, THRESHOLD + 1, 0, 0)
    breaker.record(probe, outcome)
    assert totals(breaker) == (0, THRESHOLD + 1, 0, 0)


def test_open_time_counts_from_the_expiry_not_from_its_discovery(fake_clock: FakeClock) -> None:
    """The circuit that a silent probe re-opened has been open since the probe's time was over."""
    breaker, _ = half_open_breaker(fake_clock, half_open_timeout=4)
    fake_clock.advance(4 + 3)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.cooldown_remaining == RECOVERY - 3


def test_long_forgotten_probe(fake_clock: FakeClock) -> None:
    """When a silent probe's failure and the open time after it are both over, the next call is a probe."""
    ear = Ear()
    breaker, _ = half_open_breaker(fake_clock, half_open_timeout=4, listeners=[ear])
    fake_clock.advance(4 + RECOVERY)
    probe = breaker.acquire()
    assert probe.half_open
    assert [to for _, to, _ in ear.changes[-2:]] == ["open", "half_open"]
    breaker.record(probe, Outcome.SUCCESS)
    assert breaker.state == "closed"


def test_reading_does_not_expire_a_probe(fake_clock: FakeClock) -> None:
    """A silent probe fails when somebody asks for a permit, not when somebody looks."""
    ear = Ear()
    breaker, _ = half_open_breaker(fake_clock, half_open_timeout=4, listeners=[ear])
    fake_clock.advance(100)
    heard = len(ear.events)
    assert breaker.state == "half_open"
    assert breaker.get_stats()["state"] == "half_open"
    assert breaker.retry_after() is None
    breaker.check()
    assert breaker.state == "half_open"
    assert len(ear.events) == heard
    assert totals(breaker) == (0, THRESHOLD, 0, 0)


def test_first_of_several_silent_probes_decides(fake_clock: FakeClock) -> None:
    """The earliest expiry opens the circuit; the probes beside it are of the past then and fail no more."""
    breaker, _ = half_open_breaker(fake_clock, half_open_timeout=4, half_open_max_calls=3)
    fake_clock.advance(1)
    second = breaker.acquire()
    fake_clock.advance(1)
    breaker.acquire()
    fake_clock.advance(3)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()

    assert caught.value.cooldown_remaining == RECOVERY - 1
    assert breaker.get_stats()["opened_count"] == 2
    assert totals(breaker)[1] == THRESHOLD + 1
    breaker.record(second, Outcome.SUCCESS)
    assert breaker.state == "open"


def test_expiry_beats_a_success_that_comes_after_it(fake_clock: FakeClock) -> None:
    """A probe that succeeds after another's expiry is late: the circuit had opened by then."""
    breaker, _ = half_open_breaker(fake_clock, half_open_timeout=4, half_open_max_calls=2)
    fake_clock.advance(2)
    second = breaker.acquire()
    fake_clock.advance(3)
    breaker.record(second, Outcome.SUCCESS)
    assert (breaker.state, cooldown(breaker)) == ("open", RECOVERY - 1)


def test_default_time_of_a_probe(fake_clock: FakeClock) -> None:
    """Without half_open_timeout a probe has as long as the circuit was open."""
    assert BreakerConfig(recovery_timeout=7).probe_seconds == 7
    assert BreakerConfig(recovery_timeout=7, half_open_timeout=2).probe_seconds == 2
    breaker, _ = half_open_breaker(fake_clock)
    fake_clock.advance(RECOVERY - 0.001)
    with pytest.raises(CircuitOpenError, match="half open"):
        breaker.acquire()
    fake_clock.advance(0.001)
    with pytest.raises(CircuitOpenError, match="next try in"):
        breaker.acquire()


def test_ordinary_permits_do_not_expire(fake_clock: FakeClock) -> None:
    """Only probes are hurried: a call of a closed circuit may take as long as it likes."""
    breaker = open_breaker(fake_clock)
    breaker.reset()
    slow = [breaker.acquire() for _ in range(THRESHOLD)]
    fake_clock.advance(10_000)
    for permit in slow:
        breaker.record(permit, Outcome.FAILURE)
    assert breaker.state == "open"


def test_failed_probe_beside_others(fake_clock: FakeClock) -> None:
    """One failed probe opens the circuit although others are still under way."""
    breaker, first = half_open_breaker(fake_clock, half_open_max_calls=2, success_threshold=2)
    second = breaker.acquire()
    breaker.record(first, Outcome.SUCCESS)
    breaker.record(second, Outcome.FAILURE)
    assert breaker.state == "open"
    assert breaker.get_stats()["half_open_in_use"] == 0
    with pytest.raises(CircuitOpenError):
        fail(breaker)
