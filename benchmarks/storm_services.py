"""The services of storm.py: asked for an attempt, each says at once when its end is known, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["LATENCY", "TIMEOUT", "BrownOut", "Failing", "Service"]

LATENCY = 0.02  # seconds of an attempt that does not have to queue
TIMEOUT = 1.0  # seconds after which a client gives an attempt up


class Service(Protocol):
    """What is called."""

    def attempt(self, now: float) -> tuple[float, bool]:
        """Begin an attempt.

        Returns:
            The seconds until the client knows its result, and whether that is a good one.
        """
        ...


class Failing:
    """Answers at once, and fails a share of the attempts at random.

    Args:
        share: 1.0 for a full outage.
        draw: Draws from [0, 1).
    """

    def __init__(self, share: float, draw: Callable[[], float]) -> None:
        self._share = share
        self._draw = draw

    def attempt(self, now: float) -> tuple[float, bool]:
        return LATENCY, self._draw() >= self._share


class BrownOut:
    """One queue, first come first served, whose worker is slower for a while.

    A request that its client has given up stays in the queue and is worked on all the same, as a server does
    that never hears of it. All requests take the same work, so that the moment at which one is done is known
    when it comes: after those before it.

    Args:
        capacity: Requests per second in good times.
        begins: When it gets slower, in seconds.
        ends: When it is well again.
        share: What is left of the capacity in between.
    """

    def __init__(self, capacity: float, begins: float, ends: float, share: float = 0.25) -> None:
        self._capacity = capacity
        self._begins = begins
        self._ends = ends
        self._slow = capacity * share
        self._work = 1.0 / capacity
        self.free_at = 0.0
        """When the worker is done with all that has come so far."""

    def attempt(self, now: float) -> tuple[float, bool]:
        start = max(now, self.free_at)
        done = start + self._work
        if not (start >= self._ends or done <= self._begins):
            done = self._done_slowly(start)
        self.free_at = done
        took = done - now + LATENCY
        return (TIMEOUT, False) if took > TIMEOUT else (took, True)

    def _done_slowly(self, start: float) -> float:
        """When a request is done that is worked on, at least in part, while the service is slow."""
        begin = max(start, self._begins)
        work = 1.0 - (begin - start) * self._capacity
        done = begin + work / self._slow
        if done <= self._ends:
            return done
        return self._ends + (work - (self._ends - begin) * self._slow) / self._capacity
