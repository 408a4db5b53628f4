"""Wrong arguments to breakers, patterns and deadlines failed somewhere inside, without their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service_utils import (
    CircuitBreaker,
    Deadline,
    EnvToken,
    FallbackChain,
    Outcome,
    best_effort,
    fail_open,
    with_retry,
)

WRONG: dict[str, Callable[[], Any]] = {
    "permit": lambda: CircuitBreaker("x").record(object(), Outcome.SUCCESS),  # type: ignore[arg-type]
    "retry_after": lambda: _record(retry_after="soon"),
    "clock": lambda: with_retry(clock=5),  # type: ignore[call-overload]
    "clock ": lambda: FallbackChain("x", [print], clock=5),  # type: ignore[arg-type]
    "clock  ": lambda: fail_open(print, clock=5),  # type: ignore[arg-type]
    "clock   ": lambda: best_effort("x", clock=5),  # type: ignore[arg-type]
    "clock    ": lambda: EnvToken(clock=5),  # type: ignore[arg-type]
    "at": lambda: Deadline("x"),  # type: ignore[arg-type]
    "seconds": lambda: Deadline.after("x"),  # type: ignore[arg-type]
}


def _record(**fields: Any) -> None:
    breaker = CircuitBreaker("x")
    breaker.record(breaker.acquire(), Outcome.FAILURE, **fields)


@pytest.mark.parametrize("argument", WRONG)
def test_wrong_argument_is_named(argument: str) -> None:
    """The error says which argument is wrong."""
    with pytest.raises(TypeError, match=f"^{argument.strip()}="):
        WRONG[argument]()


def test_nonsense_in_somebody_elses_exception_counts_as_nothing() -> None:
    """An exception whose retry_after is no number of seconds is a plain failure."""

    class Odd(Exception):
        retry_after = float("nan")

    def fail() -> None:
        raise Odd

    breaker = CircuitBreaker("x", failure_threshold=1, recovery_timeout=7.0)
    with pytest.raises(Odd):
        breaker.call(fail)

    assert breaker.get_stats()["total"]["failed"] == 1
