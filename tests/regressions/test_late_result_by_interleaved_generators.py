"""Two generators with the same breaker, one begun earlier, told their results with each other's permits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


def test_late_failure_of_an_older_generator(fake_clock: FakeClock) -> None:
    """A stream begun before the outage that breaks off late does not fail the probe that is under way."""
    breaker = CircuitBreaker("b", failure_threshold=1, recovery_timeout=5, clock=fake_clock)

    def stream() -> Iterator[int]:
        with breaker:
            yield 1
            raise OSError("broken off")

    old = stream()
    next(old)
    breaker.record(breaker.acquire(), Outcome.FAILURE)
    fake_clock.advance(5)
    probe = stream()
    next(probe)

    with pytest.raises(OSError, match="broken off"):
        next(old)

    assert breaker.state == "half_open"
    assert breaker.get_stats()["half_open_in_use"] == 1
    with pytest.raises(OSError, match="broken off"):
        next(probe)
    assert breaker.state == "open"
