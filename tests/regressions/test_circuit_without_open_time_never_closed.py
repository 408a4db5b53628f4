"""With ``recovery_timeout=0`` a probe expired the moment it was given, so that the circuit never closed."""

from __future__ import annotations

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


def test_no_open_time(fake_clock: FakeClock) -> None:
    """A circuit that is probed without waiting closes as soon as a probe succeeds."""
    breaker = CircuitBreaker("b", failure_threshold=1, recovery_timeout=0, clock=fake_clock)
    breaker.record(breaker.acquire(), Outcome.FAILURE)

    probe = breaker.acquire()
    fake_clock.advance(1)
    breaker.record(probe, Outcome.SUCCESS)

    assert breaker.state == "closed"
