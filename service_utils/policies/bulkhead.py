"""The bulkhead: how many calls may be under way at once, so that one slow service cannot hold every thread.

First come, first served: a slot that is given back goes to the one who has waited longest, and nobody who
comes later overtakes him.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from service_utils.clock import Clock, wait_for
from service_utils.errors import BulkheadFullError, DeadlineExceeded
from service_utils.events import BulkheadRejected, Listener, notify
from service_utils.forks import guard
from service_utils.policies.checks import (
    checked_clock,
    checked_label,
    checked_listeners,
    require_blocking,
    require_count,
    require_seconds,
)
from service_utils.policies.deadline import Deadline, require_deadline

__all__ = ["Bulkhead", "BulkheadConfig", "Slot"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadConfig:
    """The limits of a bulkhead.

    Attributes:
        max_concurrent: Calls that may be under way at once.
        max_wait: Seconds that a caller waits for a slot; 0 refuses at once, the default of resilience4j, too.

    Raises:
        TypeError: A value is no number.
        ValueError: A value is out of its range.
    """

    max_concurrent: int
    max_wait: float = 0.0

    def __post_init__(self) -> None:
        require_count("max_concurrent", self.max_concurrent)
        require_seconds("max_wait", self.max_wait)


class Slot:
    """A place in a bulkhead. Given back by :meth:`release`, or by ``with``."""

    __slots__ = ("__weakref__", "_bulkhead", "_come", "_epoch", "_heir")

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead
        self._epoch: object | None = None  # whose slot it is, as long as it is one
        self._come: Any = None  # a lock that is let go when the slot has come
        self._heir: Slot | None = None  # to whom it was handed over

    def release(self) -> None:
        """Give the slot back. From any thread; a second time does nothing."""
        try:
            self._bulkhead._give_back(self)
        except BaseException:  # a signal in this very moment
            self._bulkhead._give_back(self)
            raise

    def _arrived(self, seconds: float) -> bool:
        """Wait at most so many real seconds for it to come."""
        return bool(self._come.acquire(timeout=seconds))

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # twice, after a signal the first time
            self._come.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Bulkhead:
    """Lets a limited number of calls in at once. For any number of threads.

    No lock is held while a caller waits. A forked child begins with all slots free: those that were taken
    are its parent's.

    Args:
        max_concurrent: See :class:`BulkheadConfig`.
        max_wait: See :class:`BulkheadConfig`.
        name: Short name, for events.
        label: Display name, for errors and events; default: the name.
        clock: Whose seconds count.
        listeners: Told besides those of the process.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        max_concurrent: int,
        max_wait: float = 0.0,
        *,
        name: str = "bulkhead",
        label: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        self.config = BulkheadConfig(max_concurrent=max_concurrent, max_wait=max_wait)
        self.name, self.label = checked_label(name, label)
        self._clock = checked_clock(clock)
        self._listeners = checked_listeners(listeners)
        self._lock = threading.RLock()
        self._begin_process()
        guard(self)

    def _begin_process(self) -> None:
        self._epoch = object()  # to which the slots belong that are taken; those of another are nobody's
        self._free = self.config.max_concurrent
        self._waiting: deque[Slot] = deque()
        self._rejected = 0

    _renew_in_child = _begin_process

    def acquire(self, deadline: Deadline | None = None) -> Slot:
        """Take a slot, after a wait of at most ``max_wait`` where none is free.

        Args:
            deadline: When there is no sense in waiting on.

        Returns:
            The slot, to be given back by :meth:`Slot.release` or by ``with``.

        Raises:
            BulkheadFullError: No slot came free in time.
            DeadlineExceeded: The deadline passed before that.
            TypeError: ``deadline`` is no :class:`Deadline`.
        """
        require_deadline(deadline)
        slot = Slot(self)
        try:
            if not self._enter(slot):
                self._queue(slot, deadline)
        except BaseException:  # refused, interrupted or killed
            self._give_back(slot)
            raise
        return slot

    def _enter(self, slot: Slot) -> bool:
        """Take a free slot, or a place in the queue where one may wait. Returns whether it is a slot."""
        slot._come = come = threading.Lock()
        come.acquire()  # until somebody hands a slot over
        with self._lock:
            if self._free > 0:
                self._free -= 1
                slot._epoch = self._epoch  # no call since the line before: both, or none of it
                return True
            if self.config.max_wait > 0:
                self._waiting.append(slot)
            return False

    def _queue(self, slot: Slot, deadline: Deadline | None) -> None:
        """Wait for a slot to be handed over."""
        began, most = self._clock.monotonic(), self.config.max_wait
        left = most if deadline is None else min(deadline.remaining(), most)
        if most > 0 and wait_for(slot._arrived, left, self._clock):
            return
        with self._lock:
            if slot._epoch is self._epoch:  # it came in this very moment
                return
            self._give_back(slot)
            others = len(self._waiting)
            self._rejected += 1
        raise self._refusal(others, self._clock.monotonic() - began, late=left < most)

    def _refusal(self, others: int, waited: float, *, late: bool) -> BulkheadFullError | DeadlineExceeded:
        limit = self.config.max_concurrent
        event = BulkheadRejected(
            service=self.label,
            name=self.name,
            at=self._clock.monotonic(),
            max_concurrent=limit,
            waiting=others,
            waited=waited,
        )
        notify(self._listeners, event)
        taken = f"all {limit} slots are taken" if limit > 1 else "the only slot is taken"
        message = f"{self.label}: {taken}" + (f" and {others} callers wait" if others else "")
        if late:
            return DeadlineExceeded(f"{message}, and no time is left", service=self.label)
        return BulkheadFullError(message, service=self.label)

    def _give_back(self, slot: Slot) -> None:
        """Give back a slot, or a place in the queue; whoever has neither changes nothing."""
        with self._lock:
            if slot._epoch is self._epoch:
                self._hand_over_locked(slot)
            elif slot in self._waiting:
                self._waiting.remove(slot)
        heir = slot._heir
        if heir is not None:
            heir._wake()
            slot._heir = None  # or each slot would keep all that came after it

    def _hand_over_locked(self, slot: Slot) -> None:
        """A slot goes to the first in the queue, or is free. Without a call: no signal comes in between."""
        if self._waiting:
            slot._heir = heir = self._waiting[0]
            heir._epoch = slot._epoch
            slot._epoch = None
            del self._waiting[0]
        else:
            self._free += 1
            slot._epoch = None

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that holds a slot as long as it runs.

        Raises:
            BulkheadFullError: No slot came free in time.
            TypeError: Such a function would not run in here.
            Exception: Whatever the function raises.
        """
        require_blocking(func, "a slot")
        return self._inside(func, *args, **kwargs)

    def _inside(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        slot = self.acquire()
        try:
            return func(*args, **kwargs)
        finally:
            try:
                slot.release()
            except BaseException:  # a signal before it had begun
                slot.release()
                raise

    def __call__(self, func: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function: see :meth:`call`."""
        require_blocking(func, "a slot")

        @functools.wraps(func)
        def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._inside(func, *args, **kwargs)

        return limited

    def get_status(self) -> dict[str, Any]:
        """JSON-ready: ``max_concurrent, max_wait`` (seconds), ``in_flight, waiting, rejected``."""
        with self._lock:
            return {
                "max_concurrent": self.config.max_concurrent,
                "max_wait": self.config.max_wait,
                "in_flight": self.config.max_concurrent - self._free,
                "waiting": len(self._waiting),
                "rejected": self._rejected,
            }

    def __repr__(self) -> str:
        in_flight, limit = self.config.max_concurrent - self._free, self.config.max_concurrent
        return f"<Bulkhead {self.name!r} {in_flight}/{limit}>"
