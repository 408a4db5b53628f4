"""A probe that never reported was neither in ``failure_count`` nor gone from ``half_open_in_use``."""

from __future__ import annotations

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


def test_expired_probe_in_the_status(fake_clock: FakeClock) -> None:
    """A hanging probe is no longer in use once its time is over, and then counts like any other failure."""
    breaker = CircuitBreaker("b", failure_threshold=2, recovery_timeout=5, clock=fake_clock)
    for _ in range(2):
        breaker.record(breaker.acquire(), Outcome.FAILURE)
    fake_clock.advance(5)
    hanging = breaker.acquire()
    assert breaker.get_stats()["half_open_in_use"] == 1

    fake_clock.advance(5)
    assert breaker.get_stats()["half_open_in_use"] == 0

    breaker.record(hanging, Outcome.SUCCESS)
    stats = breaker.get_stats()
    assert (stats["state"], stats["failure_count"], stats["total"]["failed"]) == ("open", 3, 3)
