"""Discrete events for storm.py: time jumps from one event to the next; nobody sleeps, there are no threads.

A call is a generator that yields how many seconds pass until it goes on. Whatever happens at one moment
happens in the order in which it was set up, so that the same seed gives the same result.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush, heapreplace
from typing import TypeAlias

__all__ = ["Counts", "SimulatedClock", "Simulation", "Steps"]

Steps: TypeAlias = Generator[float, None, None]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_DRAIN = 60  # seconds that calls may go on after the last one has begun


class SimulatedClock:
    """A ``service_utils.clock.Clock`` whose time is that of the event at hand.

    Attributes:
        time: Seconds since the simulation began.
    """

    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return _EPOCH + timedelta(seconds=self.time)

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"sleep({seconds}): waiting is an event here")

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


class Simulation:
    """The events that are still to come, and the clock they happen by."""

    __slots__ = ("_begun", "_events", "clock")

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self._events: list[tuple[float, int, Steps]] = []
        self._begun = 0

    def begin(self, steps: Steps) -> None:
        """Have something happen from now on."""
        seconds = next(steps, None)
        if seconds is not None:
            self._begun += 1
            heappush(self._events, (self.clock.time + seconds, self._begun, steps))

    def run(self) -> None:
        """Go on until nothing is left to happen."""
        events, clock = self._events, self.clock
        while events:
            now, number, steps = events[0]
            clock.time = now
            # What begins in this step comes later or has a higher number: this event stays the first one.
            seconds = next(steps, None)
            if seconds is None:
                heappop(events)
            else:
                heapreplace(events, (now + seconds, number, steps))


@dataclass
class Counts:
    """What became of the calls, by the second in which they *began*: each ends good, failed or refused.

    Attributes:
        seconds: How long new calls come.
        calls: Calls.
        good: Those that had a good answer in the end.
        failed: Those that were tried and failed.
        refused: Those of which nothing was ever sent.
        attempts: Attempts of these calls, whenever they were made.
        sent: Attempts by the second in which they were made themselves: the load on the service.
    """

    seconds: int
    calls: list[int] = field(default_factory=list)
    good: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for row in self.rows():
            row.extend([0] * (self.seconds + _DRAIN - len(row)))

    def rows(self) -> tuple[list[int], ...]:
        return self.calls, self.good, self.failed, self.refused, self.attempts, self.sent

    def add(self, other: Counts) -> None:
        """Count those of other processes, too."""
        for mine, theirs in zip(self.rows(), other.rows(), strict=True):
            mine[:] = map(int.__add__, mine, theirs)

    def per_call(self, what: list[int], begin: int = 0, end: int | None = None) -> float:
        """How many of something there were for each call, from one second to before another."""
        until = self.seconds if end is None else end
        return sum(what[begin:until]) / sum(self.calls[begin:until])
