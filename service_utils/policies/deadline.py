"""Deadline: a moment on the monotonic clock by which a whole call must have ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from service_utils.clock import SYSTEM, Clock

__all__ = ["Deadline", "Lowering", "lower_deadline", "on_lowering", "require_deadline"]


class Deadline:
    """A moment that does not move, however often one asks how far away it is. Immutable, for any thread.

    Args:
        at: The moment, in seconds on the clock's ``monotonic``.
        clock: The clock it is read from.
    """

    __slots__ = ("_clock", "at")

    def __init__(self, at: float, clock: Clock = SYSTEM) -> None:
        if isinstance(at, bool) or not isinstance(at, (int, float)):  # quicker than a union
            raise TypeError(f"at={at!r}: must be a number of seconds")
        if math.isnan(at):
            raise ValueError(f"at={at!r}: must be a number of seconds")
        self.at = at
        self._clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM) -> Deadline:
        """The deadline so many seconds from now.

        Raises:
            TypeError: ``seconds`` is not a number.
            ValueError: ``seconds`` is negative or NaN.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"seconds={seconds!r}: must be a number")
        if not seconds >= 0:
            raise ValueError(f"seconds={seconds!r}: must be a number >= 0")
        return cls(clock.monotonic() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left, never below 0.0."""
        return max(self.at - self._clock.monotonic(), 0.0)

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self._clock.monotonic() >= self.at

    def __repr__(self) -> str:
        return f"Deadline(remaining={self.remaining():.3f})"


def require_deadline(deadline: object) -> None:
    """Require a :class:`Deadline` or None.

    Raises:
        TypeError: It is neither, such as a number of seconds.
    """
    if deadline is not None and not isinstance(deadline, Deadline):
        raise TypeError(f"deadline={deadline!r}: must be a Deadline, such as Deadline.after(seconds)")


Lowering: TypeAlias = Callable[[Deadline], object]

_lowerings: list[Lowering] = []


def on_lowering(lowering: Lowering) -> None:
    """Have a function told of every :func:`lower_deadline`: it binds the deadline for what it looks after.

    Whoever sends calls over a network binds deadlines in a context of its own, which no policy knows.
    """
    _lowerings.append(lowering)


def lower_deadline(deadline: Deadline) -> None:
    """Have all calls that are made in this context end by a moment; an earlier one that is bound stays.

    It holds until the context ends: use it in a copy (``contextvars.copy_context().run``) or in a task.
    """
    for lowering in _lowerings:
        lowering(deadline)
