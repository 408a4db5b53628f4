"""One call for all threads that want the same at the same time: one makes it, the others wait for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any, Protocol, TypeAlias, TypeVar

from service_utils.clock import Clock, wait_for
from service_utils.forks import guard

__all__ = ["Done", "Ending", "Flight", "SingleFlight"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Key: TypeAlias = tuple[Hashable, Hashable]


class Ending(Enum):
    """What a call that has ended means for those who waited for it."""

    SHARED = "shared"  # what came of it is theirs too
    ALONE = "alone"  # each of them needs a call of his own
    AGAIN = "again"  # it says nothing about theirs: one of them makes it in its place


class Done:
    """Is set once, and lets all go on who wait for it.

    A ``threading.Event`` has a lock that those who wait and the one who sets it take in turn. A signal
    handler that interrupts one of them, or a fork, would find it taken by nobody who could release it. Here
    each who waits has a lock that no other waits for.
    """

    __slots__ = ("_over", "_waiting")

    def __init__(self) -> None:
        self._over = False
        self._waiting: set[threading.Lock] = set()

    def is_set(self) -> bool:
        """Whether it is."""
        return self._over

    def set(self) -> None:
        """Let all go on. It may be done again, by somebody who was interrupted."""
        self._over = True  # whoever comes too late to be found below sees this
        for each in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # it has been released before
                each.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for so many real seconds at most, or for any time; and tell whether it is set."""
        if self._over or (seconds is not None and seconds <= 0):
            return self._over
        own = threading.Lock()
        own.acquire()
        self._waiting.add(own)
        try:
            if not self._over:
                own.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._waiting.discard(own)
        return self._over


class Flight:
    """One call while it is under way.

    Attributes:
        key: What it is for, and what else must be the same for others to wait for it.
        by: The thread that makes it.
        waiting: How many others have begun to wait for it.
        ending: See :class:`Ending`; a call that is interrupted says nothing about the others'.
        result: What those who wait may take copies of; left to whoever leads.
    """

    __slots__ = ("by", "done", "ending", "key", "result", "waiting")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.by = threading.get_ident()
        self.done = Done()
        self.waiting = 0
        self.ending = Ending.AGAIN
        self.result: Any = None


class Turn(Protocol[T_co]):
    """What a caller does, as it turns out. Everything is called without a lock."""

    def lead(self, flight: Flight) -> T_co:
        """Make the call, and say in the flight how it ended; it is left to the others as it is then."""
        ...

    def follow(self, flight: Flight) -> T_co:
        """Take a copy of a shared result."""
        ...

    def alone(self) -> T_co:
        """Make a call for nobody else."""
        ...

    def patience(self) -> float | None:
        """Seconds that are left for waiting; None for any time."""
        ...


class _Leading(threading.local):
    """How many calls this thread is making for others. A thread that makes one does not wait for another's.

    Else two threads whose calls need each other's would wait for ever.
    """

    count = 0


_leading = _Leading()


class SingleFlight:
    """The calls that are under way. For any number of threads; a forked child has none but its own thread's.

    Args:
        clock: Whose seconds a caller's patience counts.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._flights: dict[Key, Flight] = {}
        self._under_way: set[Flight] = set()  # those that nobody joins any more too
        guard(self)

    def _renew_in_child(self) -> None:
        """After a fork: the calls of other threads will never end here.

        The one thread that is left may be waiting for one of them, with a signal handler in between that has
        forked.
        """
        mine = threading.get_ident()
        lost = {flight for flight in (*self._under_way, *self._flights.values()) if flight.by != mine}
        self._under_way -= lost
        self._flights = {key: flight for key, flight in self._flights.items() if flight not in lost}
        for flight in self._flights.values():
            flight.waiting = 0
        for flight in lost:
            if not flight.done.is_set():
                flight.ending = Ending.AGAIN
                flight.done.set()

    def run(self, key: Key, turn: Turn[T]) -> T:
        """Make a call, or wait for the one that another thread makes for the same key.

        Raises:
            Exception: Whatever the turn raises.
        """
        while True:
            mine: Flight | None = None
            try:
                with self._lock:
                    flight = self._flights.get(key)
                    if flight is None or flight.done.is_set():
                        flight = mine = self._flights[key] = Flight(key)
                        self._under_way.add(mine)
                    else:
                        flight.waiting += 1
                if mine is not None:
                    return self._lead(mine, turn)
            finally:
                # A signal can come in between; those who wait must not wait for nobody.
                if mine is not None:
                    try:
                        self._land(mine)
                    except BaseException:
                        self._land(mine)
                        raise
            if not self._wait(flight, turn) or flight.ending is Ending.ALONE:
                return turn.alone()
            if flight.ending is Ending.SHARED:
                return turn.follow(flight)

    def outdate(self, concerned: Callable[[Flight], bool]) -> None:
        """See that nobody joins calls that are under way any more."""
        with self._lock:
            for key, flight in list(self._flights.items()):
                if concerned(flight):
                    self._flights.pop(key, None)

    def _lead(self, flight: Flight, turn: Turn[T]) -> T:
        _leading.count += 1
        try:
            return turn.lead(flight)
        finally:
            _leading.count -= 1

    def _land(self, flight: Flight) -> None:
        """Let the others go on. May be done twice."""
        flight.done.set()
        with self._lock:
            self._under_way.discard(flight)
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            if not flight.waiting:
                flight.result = None  # an error would refer to the frames that refer to the flight

    def _wait(self, flight: Flight, turn: Turn[Any]) -> bool:
        """Whether the flight has ended while this thread waited for it."""
        if flight.done.is_set():
            return True
        if _leading.count or flight.by == threading.get_ident():  # the latter: a signal handler, a finalizer
            return False
        left = turn.patience()
        return flight.done.wait() if left is None else wait_for(flight.done.wait, left, self._clock)
