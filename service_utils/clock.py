"""The clock: the only place of the package that asks the operating system for the time or sleeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeAlias, cast, runtime_checkable

__all__ = ["SYSTEM", "Clock", "Ready", "SystemClock", "wait_for"]

_GLANCE = 0.02  # seconds between two looks at a clock that can only sleep

Ready: TypeAlias = Callable[[float], bool]
"""Blocks for at most so many real seconds until something is there, and tells whether it is."""


@runtime_checkable
class Clock(Protocol):
    """What every ``clock=`` argument takes. All methods may be called from any thread."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes backwards; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """The time of day in UTC, for people. No decision may rest on it: it can jump."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for so many seconds; zero or less returns at once."""
        ...

    async def async_sleep(self, seconds: float) -> None:
        """The same for a coroutine, without blocking its event loop."""
        ...


class SystemClock:
    """The machine's own clock."""

    __slots__ = ()

    # The very function: it is asked several times in each call, and a method round it takes twice as long.
    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""
        if seconds > 0:
            time.sleep(seconds)

    def wait(self, ready: Ready, seconds: float) -> bool:
        """See :func:`wait_for`."""
        return ready(min(max(seconds, 0.0), threading.TIMEOUT_MAX))

    async def async_sleep(self, seconds: float) -> None:
        """Suspend the calling coroutine."""
        import asyncio  # loaded late: most users of this synchronous package never need it

        await asyncio.sleep(max(seconds, 0.0))


SYSTEM = SystemClock()


def wait_for(ready: Ready, seconds: float, clock: Clock) -> bool:
    """Block the calling thread until something is there, but only so many seconds of a clock.

    A clock may know how to do that, by a method ``wait(ready, seconds)``; ours do. Any other is looked at now
    and then meanwhile.

    Args:
        ready: Called with real seconds, such as ``threading.Event().wait``.
        seconds: The most to wait, on the clock; zero or less only looks.
        clock: Whose seconds count.

    Returns:
        Whether it was there.
    """
    wait = getattr(clock, "wait", None)
    if wait is not None:
        return cast(bool, wait(ready, seconds))
    ends = clock.monotonic() + seconds
    while (left := ends - clock.monotonic()) > 0:
        if ready(min(left, _GLANCE)):
            return True
    return ready(0.0)
