"""Stores: where the breakers of several processes keep what they know of a circuit together.

What is shared is small: state, spell, open time, probe leases and the pause that a Retry-After asked for.
Each breaker counts its own results and decides by itself, at full speed; it tells the store what it
*intends*, and the store fences: a trip by the version it was decided on, a probe by a lease that expires. No
lock of a store is held over a call.

A store may answer from a copy that a thread of its own keeps fresh, and may be away: it then raises
:class:`StoreUnavailable`, and each breaker goes on alone until the cell changes again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, MutableSequence, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias, runtime_checkable

from service_utils.events import CircuitState
from service_utils.forks import guard
from service_utils.policies.permit import Report
from service_utils.policies.record import BLANK, Asking, CircuitRecord, Lease, Trip
from service_utils.policies.tally import SET_ANEW

__all__ = ["BreakerStore", "Cell", "Intents", "MemoryBreakerStore", "StoreUnavailable", "Told", "drifted"]


class StoreUnavailable(Exception):
    """The store cannot be asked at present; breakers go on alone."""


Told: TypeAlias = Callable[[], object]


class Cell:
    """Where a member sees without a call that something has changed: ``words[0]`` is another number.

    A store may put other ``words`` in its place at any time. Whoever reads takes any number but the one he
    knows for a change, and asks.

    Attributes:
        words: The number.
        failures: Where this member notes how many failures speak against the circuit, and in which spell, for
            the others' status.
    """

    __slots__ = ("__weakref__", "failures", "words")

    def __init__(self, words: Sequence[int]) -> None:
        self.words = words
        self.failures: MutableSequence[float] = [0, 0]


@runtime_checkable
class BreakerStore(Protocol):
    """Intents of breakers. All methods may be called from any thread, and take microseconds.

    Each of them, :meth:`cell` and :meth:`calendar` apart, raises :class:`StoreUnavailable` while the store is
    away. A record's times are on the monotonic clock of the breakers; where members do not share one the
    store converts.
    """

    def cell(self, name: str, told: Told | None = None) -> Cell:
        """Where changes of a circuit show.

        Args:
            name: The circuit's.
            told: A method to be called soon after a change, in any thread, so that listeners hear of it
                though nobody asks; the store refers to its object weakly.
        """
        ...

    def read(self, name: str) -> CircuitRecord:
        """What is known of a circuit. Its ``version`` is the cell's number at that moment."""
        ...

    def trip(self, name: str, expected_version: int, trip: Trip) -> CircuitRecord:
        """Open a closed circuit, if its version is still that; returns what it is then in either case."""
        ...

    def lease_probe(self, name: str, asking: Asking) -> tuple[CircuitRecord, Lease | None]:
        """Ask to probe; see :meth:`CircuitRecord.leased`."""
        ...

    def report(self, name: str, token: int, report: Report, asking: Asking) -> CircuitRecord:
        """Give a lease back with its result; see :meth:`CircuitRecord.reported`."""
        ...

    def override(self, name: str, state: CircuitState, reason: str, asking: Asking) -> CircuitRecord:
        """Go to a state by hand."""
        ...

    def hold(self, name: str, generation: int, until: float) -> CircuitRecord:
        """Keep an open circuit open at least until then, in this spell only."""
        ...

    def recover(self, name: str, generation: int, asking: Asking) -> CircuitRecord:
        """Close an open circuit whose service is known to be well, in this spell only."""
        ...

    def pause(self, name: str, until: float, seconds: float) -> CircuitRecord:
        """Have all callers stay away until then, as the service asked for so many seconds; 0.0 ends that."""
        ...

    def calendar(self, now: float, today: datetime) -> tuple[float, datetime]:
        """A moment on both clocks, by which all members tell the time of day of others.

        Never raises. It is another one only after the wall clock has been set anew.
        """
        ...


class Intents:
    """A store's intents, each one step on a record. What is left to a store is to make a step atomic."""

    def change(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
        """Take one step on a record, alone: no other member's comes between. Returns the record then.

        The step may be taken several times, on newer records. Where it returns what it was given nothing is
        changed; else the version is another one afterwards.
        """
        raise NotImplementedError

    def trip(self, name: str, expected_version: int, trip: Trip) -> CircuitRecord:
        """See :class:`BreakerStore`, as for all that follow."""
        return self.change(name, lambda record: record.tripped(expected_version, trip))

    def lease_probe(self, name: str, asking: Asking) -> tuple[CircuitRecord, Lease | None]:
        """Ask to probe."""
        leased: list[Lease | None] = [None]

        def step(record: CircuitRecord) -> CircuitRecord:
            record, leased[0] = record.leased(asking)
            return record

        return self.change(name, step), leased[0]

    def report(self, name: str, token: int, report: Report, asking: Asking) -> CircuitRecord:
        """Give a lease back."""
        return self.change(name, lambda record: record.reported(token, report, asking))

    def override(self, name: str, state: CircuitState, reason: str, asking: Asking) -> CircuitRecord:
        """Go to a state by hand."""
        return self.change(name, lambda record: record.overridden(state, reason, asking))

    def hold(self, name: str, generation: int, until: float) -> CircuitRecord:
        """Keep an open circuit open."""
        return self.change(name, lambda record: record.held(generation, until))

    def recover(self, name: str, generation: int, asking: Asking) -> CircuitRecord:
        """Close an open circuit."""
        return self.change(name, lambda record: record.recovered(generation, asking))

    def pause(self, name: str, until: float, seconds: float) -> CircuitRecord:
        """Have all callers stay away, or come back."""
        return self.change(name, lambda record: record.paused(until, seconds) if until else record.resumed())


def drifted(calendar: tuple[float, datetime], now: float, today: datetime) -> bool:
    """Whether a moment on both clocks is no longer true, because the wall clock has been set anew."""
    then, day = calendar
    return abs((today - day).total_seconds() - (now - then)) >= SET_ANEW


class MemoryBreakerStore(Intents):
    """Circuits that several breakers of one process share: two clients of a service, say. For any thread.

    Whoever has changed a circuit tells the others, in his own thread.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._records: dict[str, CircuitRecord] = {}
        self._cells: dict[str, tuple[list[int], list[weakref.WeakMethod[Told]]]] = {}
        self._calendar: tuple[float, datetime] | None = None
        guard(self)

    def _renew_in_child(self) -> None:
        """Nothing is under way in a forked child: the probes are the parent's own."""
        for name, record in tuple(self._records.items()):
            if record.leases:
                after = record._replace(version=record.version + 1, leases=())
                self._records[name] = after
                self._cells[name][0][0] = after.version

    def cell(self, name: str, told: Told | None = None) -> Cell:
        """Where changes of a circuit show."""
        with self._lock:
            words, listening = self._cells.setdefault(name, ([0], []))
            if told is not None:
                listening[:] = [each for each in listening if each() is not None]
                listening.append(weakref.WeakMethod(told))
            return Cell(words)

    def read(self, name: str) -> CircuitRecord:
        """What is known of a circuit."""
        return self._records.get(name, BLANK)

    def change(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
        """Take one step."""
        listening: tuple[weakref.WeakMethod[Told], ...] = ()
        with self._lock:
            words, others = self._cells.setdefault(name, ([0], []))
            while True:
                before = self._records.setdefault(name, BLANK)
                after = step(before)
                if after is before:
                    return after
                after = after._replace(version=before.version + 1)
                if self._records[name] is before:  # no signal handler has come between; nor will it here
                    self._records[name] = after
                    words[0] = after.version
                    break
            listening = tuple(others)
        for each in listening:
            told = each()
            if told is not None:
                told()
        return after

    def calendar(self, now: float, today: datetime) -> tuple[float, datetime]:
        """A moment on both clocks."""
        known = self._calendar
        if known is None or drifted(known, now, today):
            known = self._calendar = now, today
        return known

    def __repr__(self) -> str:
        return f"<MemoryBreakerStore of {len(self._records)} circuits>"
