"""The thread that keeps a monitor up to date: it looks now and then, and when a circuit changes its state."""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

from service_utils.clock import Clock, wait_for
from service_utils.events import CircuitChanged, Event, subscribe

__all__ = ["Watch"]

_logger = logging.getLogger("service_utils")


class Watched(Protocol):
    """What the thread needs of a monitor."""

    def look(self) -> float | None:
        """Bring the level up to date; returns the moment at which it will change by itself, or None."""
        ...

    def look_at_all(self) -> float | None:
        """The same, and health is asked first."""
        ...


class Watch:
    """One spell from ``start()`` to ``stop()``: a subscription to the events of the process, and a thread.

    Whoever tells of a circuit only rings a bell here, which never makes him wait. The bell is a queue that a
    signal handler or the garbage collector may ring while it is being rung.

    The thread keeps no monitor alive: it ends when that is dropped.

    Args:
        monitor: Whom to keep up to date.
        clock: Where the time comes from.
        interval: Seconds between two looks at all.
    """

    ignores_refusals = True
    ignores_rejections = True

    def __init__(self, monitor: Watched, clock: Clock, interval: float) -> None:
        self._monitor = weakref.ref(monitor, lambda _: self.end())
        self._clock = clock
        self._interval = interval
        self._next_tick = clock.monotonic()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._rung = False
        self._ended = False
        self._thread: threading.Thread | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def begin(self) -> None:
        """Listen, and start the thread.

        Raises:
            RuntimeError: The system gives us no more threads.
        """
        self._unsubscribe = subscribe(self)
        self._thread = threading.Thread(target=self._run, name="degradation-monitor", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Listen no more, and have the thread end soon."""
        self._ended = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        self.ring()

    def join(self, timeout: float) -> bool:
        """Wait for the thread, unless it is the one that asks. Returns whether it has ended."""
        thread = self._thread
        if thread is None or thread.ident is None:
            return True  # it never ran; should it just be about to, it finds that it is over
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    @property
    def ended(self) -> bool:
        """Whether it is over, or will be as soon as the thread notices."""
        return self._ended

    def wants_routine(self) -> bool:
        """Calls that go well are none of its business."""
        return False

    def __call__(self, event: Event) -> None:
        """Ring when a circuit changes its state."""
        if isinstance(event, CircuitChanged):
            self.ring()

    def ring(self, *, all_of_it: bool = False) -> None:
        """Have the thread look at once, also ask health if that is wanted. Never blocks."""
        if all_of_it:
            self._next_tick = self._clock.monotonic()
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def _run(self) -> None:
        try:
            while (wait := self._round()) is not None:
                wait_for(self._heard, wait, self._clock)
        finally:
            self.end()

    def _heard(self, seconds: float) -> bool:
        """Whether the bell rings within so many real seconds."""
        heard = False
        with contextlib.suppress(Empty):
            self._bell.get(timeout=seconds)
            heard = True
        self._rung = False  # before the next look: who rings from now on is heard after it
        return heard

    def _round(self) -> float | None:
        """Look once. Returns the seconds until the next time, or None to end."""
        monitor = None if self._ended else self._monitor()
        if monitor is None:
            return None
        due = None
        now = self._clock.monotonic()
        look = monitor.look
        if now >= self._next_tick:
            self._next_tick = now + self._interval
            look = monitor.look_at_all
        try:
            due = look()
        except Exception:  # whatever it is, the next look may go well
            _logger.exception("The degradation level could not be brought up to date")
        moments = [self._next_tick] if due is None else [self._next_tick, due]
        return max(min(moments) - self._clock.monotonic(), 0.0)
