"""A ``classify`` that returned something else than an Outcome kept a probe's slot until the probe expired."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


def half_open_breaker(clock: FakeClock, classify: Any = None) -> CircuitBreaker:
    breaker = CircuitBreaker("b", failure_threshold=1, recovery_timeout=5, clock=clock, classify=classify)
    breaker.record(breaker.acquire(), Outcome.FAILURE)
    clock.advance(5)
    return breaker


def fail() -> None:
    raise OSError("away")


@pytest.mark.parametrize("answer", ["failure", True, 1])
def test_classify_with_a_wrong_answer(fake_clock: FakeClock, answer: object) -> None:
    """What classify answered wrongly is named, and the permit is free again."""
    breaker = half_open_breaker(fake_clock, classify=lambda error: answer)

    with pytest.raises(TypeError, match=f"classify returned {answer!r}"):
        breaker.call(fail)

    assert breaker.get_stats()["half_open_in_use"] == 0


def test_error_whose_retry_after_cannot_be_read(fake_clock: FakeClock) -> None:
    """An exception with a broken attribute does not keep the permit either."""

    class Broken(OSError):
        @property
        def retry_after(self) -> float:
            raise ZeroDivisionError

    breaker = half_open_breaker(fake_clock)

    def fail_badly() -> None:
        raise Broken

    with pytest.raises(ZeroDivisionError):
        breaker.call(fail_badly)

    assert breaker.state == "open"
    assert breaker.get_stats()["half_open_in_use"] == 0
