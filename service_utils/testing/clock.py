"""FakeClock: time that moves only when a test says so."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

__all__ = ["FakeClock"]

_GLANCE = 0.005  # real seconds between two looks at the time
_NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(slots=True, eq=False)
class _Sleeper:
    due: float
    wake: Callable[[], object] | None = None  # None: a thread, which watches for its turn itself


class FakeClock:
    """A clock for ``clock=`` arguments under test. May be shared by any number of threads.

    In the thread that made the clock nobody else could move the time, so there ``sleep`` and ``async_sleep``
    do it themselves and return at once. In any other thread they wait until :meth:`advance` has reached their
    time; those that are due leave in the order of their due times, and all see the time after the whole step.

    Args:
        start: What :meth:`monotonic` says at first, in seconds.
        now: What :meth:`now` says at first, an aware datetime; 2024-01-01 00:00 UTC when left out.
        auto_advance: True: every thread that sleeps moves the time itself; False: none does, all wait for
            :meth:`advance`; None: the rule above.
        patience: Real seconds after which a sleeper whom nobody wakes raises RuntimeError, lest a test hangs.

    Raises:
        ValueError: A number is not finite, ``patience`` is not above 0, or ``now`` is naive.
    """

    def __init__(
        self,
        start: float = 0.0,
        now: datetime | None = None,
        *,
        auto_advance: bool | None = None,
        patience: float = 30.0,
    ) -> None:
        if not patience > 0:
            raise ValueError(f"patience={patience!r}: must be a number > 0")
        self._changed = threading.Condition()
        self._start = self._monotonic = _finite("start", start)
        self._now_at_start = _aware_utc(now if now is not None else _NEW_YEAR)
        self._maker = threading.current_thread()
        self._auto_advance = auto_advance
        self._patience = patience
        self._waiting: list[_Sleeper] = []  # by due time
        self._leaving: list[_Sleeper] = []  # threads whose time has come and who have not run yet
        self._slept: list[float] = []

    def monotonic(self) -> float:
        """Seconds: ``start`` and all that the time has moved since."""
        with self._changed:
            return self._monotonic

    def now(self) -> datetime:
        """The time of day in UTC; it moves with :meth:`monotonic`."""
        with self._changed:
            return self._now_at_start + timedelta(seconds=self._monotonic - self._start)

    def set_now(self, now: datetime) -> None:
        """Set the time of day alone, as an operator or NTP does; :meth:`monotonic` stays and nobody wakes.

        Raises:
            ValueError: ``now`` is naive.
        """
        moment = _aware_utc(now)
        with self._changed:
            self._now_at_start = moment - timedelta(seconds=self._monotonic - self._start)

    def sleep(self, seconds: float) -> None:
        """Move the time on by so many seconds, or wait until somebody has; zero or less returns at once.

        Raises:
            ValueError: ``seconds`` is not finite.
            RuntimeError: Nobody advanced the clock far enough for ``patience`` real seconds.
        """
        self._note(seconds)
        if seconds <= 0:
            return
        if self._moves_itself():
            self.advance(seconds)
        else:
            self._wait_for_turn(seconds)

    def wait(self, ready: Callable[[float], bool], seconds: float) -> bool:
        """Wait for something for at most so many seconds of this clock; see ``service_utils.clock.wait_for``.

        Where nobody else could move the time, it moves by ``seconds`` at once unless the thing is there.

        Raises:
            ValueError: ``seconds`` is not finite.
            RuntimeError: Neither did it come nor was the clock advanced for ``patience`` real seconds.
        """
        _finite("seconds", seconds)
        if ready(0.0):
            return True
        if seconds <= 0:
            return False
        if self._moves_itself():
            self.advance(seconds)
            return ready(0.0)
        with self._changed:
            sleeper = self._add_locked(seconds)
        try:
            for _ in range(math.ceil(self._patience / _GLANCE)):
                if ready(_GLANCE):
                    return True
                if sleeper in self._leaving:
                    return ready(0.0)
        finally:
            with self._changed:
                self._remove_locked(sleeper)
        raise self._forgotten(seconds)

    async def async_sleep(self, seconds: float) -> None:
        """The same for a coroutine; its event loop runs on meanwhile.

        Raises:
            ValueError: ``seconds`` is not finite.
            RuntimeError: Nobody advanced the clock far enough for ``patience`` real seconds.
        """
        self._note(seconds)
        if seconds > 0 and not self._moves_itself():
            await self._wait_in_loop(seconds)
            return
        if seconds > 0:
            self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Move the time on and wake everybody whose time has come. Does not wait until they have run.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
        """
        if _finite("seconds", seconds) < 0:
            raise ValueError(f"seconds={seconds!r}: must be >= 0, time does not go backwards")
        with self._changed:
            self._monotonic += seconds
            due = [each for each in self._waiting if each.due <= self._monotonic]
            del self._waiting[: len(due)]
            self._leaving += [each for each in due if each.wake is None]
            self._changed.notify_all()
        for each in due:
            if each.wake is not None:
                each.wake()

    @property
    def sleepers(self) -> int:
        """How many threads and coroutines wait for a time that has not come yet."""
        with self._changed:
            return len(self._waiting)

    @property
    def slept(self) -> list[float]:
        """The seconds every ``sleep`` and ``async_sleep`` so far has asked for, in that order."""
        with self._changed:
            return list(self._slept)

    def wait_for_sleepers(self, n: int, timeout: float = 5.0) -> None:
        """Block until at least ``n`` threads and coroutines wait for their time.

        Args:
            n: How many.
            timeout: Real seconds to wait at most.

        Raises:
            TimeoutError: There were fewer all the time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) >= n, timeout):
                raise TimeoutError(
                    f"{len(self._waiting)} instead of {n} sleepers after {timeout} real seconds"
                )

    def __repr__(self) -> str:
        return f"FakeClock(monotonic={self.monotonic()!r}, sleepers={self.sleepers})"

    def _note(self, seconds: float) -> None:
        _finite("seconds", seconds)
        with self._changed:
            self._slept.append(seconds)

    def _moves_itself(self) -> bool:
        if self._auto_advance is not None:
            return self._auto_advance
        return threading.current_thread() is self._maker

    def _wait_for_turn(self, seconds: float) -> None:
        with self._changed:
            sleeper = self._add_locked(seconds)
            try:
                in_time = self._changed.wait_for(lambda: self._leaving[:1] == [sleeper], self._patience)
            finally:
                self._remove_locked(sleeper)
        if not in_time:
            raise self._forgotten(seconds)

    async def _wait_in_loop(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        with self._changed:
            sleeper = self._add_locked(seconds, partial(_wake_coroutine, loop, woken))
        try:
            await asyncio.wait_for(woken, self._patience)
        except TimeoutError:
            raise self._forgotten(seconds) from None
        finally:
            with self._changed:
                self._remove_locked(sleeper)

    def _add_locked(self, seconds: float, wake: Callable[[], object] | None = None) -> _Sleeper:
        sleeper = _Sleeper(self._monotonic + seconds, wake)
        self._waiting.append(sleeper)
        self._waiting.sort(key=lambda each: each.due)
        self._changed.notify_all()
        return sleeper

    def _remove_locked(self, sleeper: _Sleeper) -> None:
        for queue in (self._waiting, self._leaving):
            if sleeper in queue:
                queue.remove(sleeper)
        self._changed.notify_all()

    def _forgotten(self, seconds: float) -> RuntimeError:
        thread = threading.current_thread().name
        return RuntimeError(
            f"{thread} sleeps {seconds!r} s on a FakeClock that nobody has advanced that far "
            f"in {self._patience:g} real seconds"
        )


def _wake_coroutine(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_resolve, woken)
    except RuntimeError:
        return  # the loop was closed with the coroutine still in it: nobody is left to wake


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


def _finite(argument: str, seconds: float) -> float:
    if not math.isfinite(seconds):
        raise ValueError(f"{argument}={seconds!r}: must be a finite number of seconds")
    return seconds


def _aware_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"now={moment!r}: must be an aware datetime")
    return moment.astimezone(UTC)
