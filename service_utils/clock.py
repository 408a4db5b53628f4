"""The clock: the only place of the package that asks the operating system for the time or sleeps."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

__all__ = ["SYSTEM", "Clock", "SystemClock"]


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

    async def async_sleep(self, seconds: float) -> None:
        """Suspend the calling coroutine."""
        import asyncio  # loaded late: most users of this synchronous package never need it

        await asyncio.sleep(max(seconds, 0.0))


SYSTEM = SystemClock()
