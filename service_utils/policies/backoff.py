"""Back-off: how long to wait before the next retry.

A back-off is any function from the number of the retry (1 for the first, 2 for the second …) to seconds.
The four here are frozen values, so that they compare, print and pickle; none of them ever overflows,
whatever the number.

Growing delays with a random part that spreads the callers out are described in "Exponential Backoff And
Jitter" on the AWS Architecture Blog (2015). Ours takes the random part off the delay instead of adding it,
so that the configured seconds are what a caller waits at most, and so that delays do not gather at the cap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from service_utils.policies.checks import require_seconds

__all__ = [
    "Backoff",
    "Exponential",
    "Fibonacci",
    "Fixed",
    "Linear",
    "apply_jitter",
    "exponential",
    "fibonacci",
    "fixed",
    "linear",
    "require_factor",
]

Backoff: TypeAlias = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Exponential:
    """``base``, ``base * factor``, ``base * factor ** 2`` … up to ``cap``.

    Args:
        base: Seconds before the first retry, >= 0.
        factor: What each delay is multiplied by to get the next, >= 1.
        cap: The longest delay in seconds, >= 0.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its range.
    """

    base: float = 1.0
    factor: float = 2.0
    cap: float = 30.0

    def __post_init__(self) -> None:
        require_seconds("base", self.base)
        require_factor("factor", self.factor)
        require_seconds("cap", self.cap)

    def __call__(self, retry_number: int) -> float:
        """Seconds before this retry."""
        _check_retry_number(retry_number)
        if self.base == 0 or self.factor == 1:
            return float(min(self.base, self.cap))
        try:
            return float(min(self.base * float(self.factor) ** (retry_number - 1), self.cap))
        except OverflowError:
            return float(self.cap)


@dataclass(frozen=True, slots=True)
class Linear:
    """``base``, ``base + step``, ``base + 2 * step`` … up to ``cap``.

    Args:
        base: Seconds before the first retry, >= 0.
        step: Seconds by which each delay is longer than the one before it, >= 0.
        cap: The longest delay in seconds, >= 0.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its range.
    """

    base: float = 1.0
    step: float = 1.0
    cap: float = 30.0

    def __post_init__(self) -> None:
        require_seconds("base", self.base)
        require_seconds("step", self.step)
        require_seconds("cap", self.cap)

    def __call__(self, retry_number: int) -> float:
        """Seconds before this retry."""
        _check_retry_number(retry_number)
        if self.step == 0:
            return float(min(self.base, self.cap))
        try:
            return float(min(self.base + float(self.step) * (retry_number - 1), self.cap))
        except OverflowError:
            return float(self.cap)


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same delay before every retry.

    Args:
        delay: Seconds, >= 0.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative or not finite.
    """

    delay: float = 1.0

    def __post_init__(self) -> None:
        require_seconds("delay", self.delay)

    def __call__(self, retry_number: int) -> float:
        """Seconds before this retry."""
        _check_retry_number(retry_number)
        return float(self.delay)


@dataclass(frozen=True, slots=True)
class Fibonacci:
    """``base`` times 1, 1, 2, 3, 5, 8 … up to ``cap``.

    Args:
        base: Seconds before the first and the second retry, >= 0.
        cap: The longest delay in seconds, >= 0.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is out of its range.
    """

    base: float = 1.0
    cap: float = 30.0

    def __post_init__(self) -> None:
        require_seconds("base", self.base)
        require_seconds("cap", self.cap)

    def __call__(self, retry_number: int) -> float:
        """Seconds before this retry."""
        _check_retry_number(retry_number)
        delay = following = float(self.base)
        if delay > 0:
            # Ends at the cap after a few rounds, however large the number.
            while retry_number > 1 and delay < self.cap:
                delay, following = following, delay + following
                retry_number -= 1
        return float(min(delay, self.cap))


# In code a back-off is asked for by what it does, not by its type:
# RetryPolicy(backoff=exponential(base=0.2)).
exponential = Exponential
linear = Linear
fixed = Fixed
fibonacci = Fibonacci


def apply_jitter(delay: float, jitter: float, random: Callable[[], float]) -> float:
    """Take a random part off a delay: ``delay * (1 - jitter * U)``, U drawn from [0, 1).

    Args:
        delay: Seconds.
        jitter: 0 leaves the delay as it is, 1 spreads it over everything from zero to itself ("full jitter").
        random: Draws U.
    """
    return delay * (1.0 - jitter * random())


def require_factor(name: str, value: object) -> None:
    """Require a finite number >= 1, so that no delay is shorter than the one before it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: must be a number")
    if not 1 <= value < math.inf:
        raise ValueError(f"{name}={value!r}: must be a finite number >= 1")


def _check_retry_number(retry_number: int) -> None:
    if retry_number < 1:
        raise ValueError(f"retry_number={retry_number!r}: retries are counted from 1")
