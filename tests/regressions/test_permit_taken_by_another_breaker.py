"""A permit given back to the wrong breaker counted there, and its own breaker never got it back."""

from __future__ import annotations

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


def test_permit_of_another_breaker(fake_clock: FakeClock) -> None:
    """Only the breaker that gave a permit takes it back; to all others it means nothing."""
    mine = CircuitBreaker("mine", failure_threshold=1, recovery_timeout=5, clock=fake_clock)
    other = CircuitBreaker("other", failure_threshold=1, recovery_timeout=5, clock=fake_clock)
    mine.record(mine.acquire(), Outcome.FAILURE)
    fake_clock.advance(5)
    probe = mine.acquire()

    other.record(probe, Outcome.FAILURE)
    mine.record(probe, Outcome.SUCCESS)

    assert other.state == "closed"
    assert other.get_stats()["total"]["failed"] == 0
    assert mine.state == "closed"
