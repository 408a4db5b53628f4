"""Ctrl-C while the breaker itself was at work kept a probe's slot until the probe expired."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


class InterruptingClock(FakeClock):
    """Stands for the signal that arrives while the n-th look at the clock is taken."""

    countdown = 0

    def monotonic(self) -> float:
        self.countdown -= 1
        if self.countdown == 0:
            raise KeyboardInterrupt
        return super().monotonic()


def in_a_block(breaker: CircuitBreaker) -> None:
    with breaker:
        pass


def by_call(breaker: CircuitBreaker) -> None:
    breaker.call(int)


def by_hand(breaker: CircuitBreaker) -> None:
    breaker.record(breaker.acquire(), Outcome.SUCCESS)


@pytest.mark.parametrize("look", range(1, 6))
@pytest.mark.parametrize("use", [in_a_block, by_call, by_hand])
def test_interrupted_at_any_look_at_the_clock(use: Callable[[CircuitBreaker], None], look: int) -> None:
    """Wherever the signal strikes, the next call may probe."""
    clock = InterruptingClock()
    breaker = CircuitBreaker("b", failure_threshold=1, recovery_timeout=5, clock=clock)
    breaker.record(breaker.acquire(), Outcome.FAILURE)
    clock.advance(5)
    clock.countdown = look

    with contextlib.suppress(KeyboardInterrupt):
        use(breaker)
    clock.countdown = 0

    assert breaker.get_stats()["half_open_in_use"] == 0
