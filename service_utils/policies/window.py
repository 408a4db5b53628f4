"""Windows: how many of the last calls failed or were slow, in a memory that does not grow with traffic.

None of this may be used by two threads at once; a circuit's lock is held round it. What one result changes is
changed at one stroke, so that an interrupt leaves a window that adds up.
"""

from __future__ import annotations

import sys
from array import array
from typing import Protocol

__all__ = ["MAX_SLOTS", "CountWindow", "TimeWindow", "Window"]

MAX_SLOTS = 64
"""The most slices a time window is made of."""


class Window(Protocol):
    """What the results of the last calls are counted in."""

    def record(self, now: float, failed: bool, slow: bool) -> None:
        """Count one result.

        Args:
            now: When it came, in seconds on the monotonic clock.
            failed: Whether the call failed.
            slow: Whether it was slow; a call can be both.
        """

    def counts(self, now: float) -> tuple[int, int, int]:
        """How many calls are in the window at a moment, how many of them failed and how many were slow."""

    def clear(self) -> None:
        """Forget every call."""

    @property
    def settled(self) -> bool:
        """Whether one more quick success, at whatever time, would change nothing."""


class CountWindow:
    """The last N results, however old they are: a ring of one byte a result, with running totals.

    Args:
        size: N.

    Attributes:
        size: N.
    """

    __slots__ = ("_calls", "_failures", "_next", "_ring", "_slow", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.clear()

    def clear(self) -> None:
        """Forget every call."""
        self._ring = bytearray(self.size)  # 1: failed, 2: slow
        self._next = self._calls = self._failures = self._slow = 0

    def record(self, now: float, failed: bool, slow: bool) -> None:
        """Count one result, in place of the oldest when the ring is full. O(1)."""
        place = self._next
        gone = self._ring[place]
        self._ring[place] = failed | slow << 1
        self._failures += failed - (gone & 1)
        self._slow += slow - (gone >> 1)
        self._next = place = place + 1
        if place == self.size:
            self._next = 0
        if self._calls < self.size:
            self._calls += 1

    def counts(self, now: float) -> tuple[int, int, int]:
        """Calls, failures and slow calls in the window; the time does not matter."""
        return self._calls, self._failures, self._slow

    @property
    def full(self) -> bool:
        """Whether N results are in it."""
        return self._calls == self.size

    @property
    def settled(self) -> bool:
        """Whether it is full of quick successes: another one in place of the oldest changes nothing."""
        return self._calls == self.size and self._failures == 0 and self._slow == 0


class TimeWindow:
    """The results of the last seconds, in slices of equal length that begin at multiples of that length.

    The slice that is under way and those before it make the window: it reaches back over at most ``seconds``,
    and over less than that by up to one slice. A moment that lies before one already seen counts as that one.

    Args:
        seconds: The length of the window.
        slots: The number of slices, at most 64.
    """

    __slots__ = ("_calls", "_failures", "_newest", "_slots", "_slow", "_sums", "_width")

    def __init__(self, seconds: float, slots: int = MAX_SLOTS) -> None:
        if not 1 <= slots <= MAX_SLOTS:
            raise ValueError(f"slots={slots!r}: must be between 1 and {MAX_SLOTS}")
        self._slots = slots
        self._width = seconds / slots
        self._newest = -sys.maxsize  # the number of the slice that is under way
        self.clear()

    def clear(self) -> None:
        """Forget every call."""
        self._sums = array("Q", bytes(8 * 3 * self._slots))  # calls, failures and slow calls of each slice
        self._calls = self._failures = self._slow = 0

    def record(self, now: float, failed: bool, slow: bool) -> None:
        """Count one result in the slice that is under way. O(1), but for slices to leave behind."""
        self._move_on(now)
        place = self._newest % self._slots * 3
        sums = self._sums
        sums[place] += 1
        sums[place + 1] += failed
        sums[place + 2] += slow
        self._calls += 1
        self._failures += failed
        self._slow += slow

    def counts(self, now: float) -> tuple[int, int, int]:
        """Calls, failures and slow calls in the window, once the slices of the past have been left out."""
        self._move_on(now)
        return self._calls, self._failures, self._slow

    def _move_on(self, now: float) -> None:
        """Begin the slices up to a moment, each in the place of one that is over; at most all of them."""
        present = int(now // self._width)
        if present > self._newest + self._slots:
            self._newest = present - self._slots  # all that is between them held nothing
        while self._newest < present:
            self._newest = newest = self._newest + 1
            place = newest % self._slots * 3
            sums = self._sums
            self._calls -= sums[place]
            self._failures -= sums[place + 1]
            self._slow -= sums[place + 2]
            sums[place] = sums[place + 1] = sums[place + 2] = 0

    @property
    def settled(self) -> bool:
        """Never: each call counts for a time of its own."""
        return False
