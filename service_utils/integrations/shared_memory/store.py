"""SharedMemoryStore: one circuit, one count and one leader for all processes of a host, in a mapped file."""

from __future__ import annotations

import logging
import math
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service_utils.clock import SYSTEM
from service_utils.integrations.shared_memory.home import Home
from service_utils.integrations.shared_memory.keeper import Keeper
from service_utils.integrations.shared_memory.locks import SUPPORTED
from service_utils.integrations.shared_memory.office import Office
from service_utils.integrations.shared_memory.segment import Files
from service_utils.integrations.shared_memory.tenants import Circuit, Note, Tenant
from service_utils.policies.record import CircuitRecord
from service_utils.policies.store import Cell, Intents, StoreUnavailable, Told, drifted
from service_utils.status import CallCounters, Host, Word, merged_buckets

__all__ = ["SharedMemoryStore"]

_logger = logging.getLogger("service_utils")

_LOOK_EVERY = 0.25  # seconds
_FOLD_EVERY = 1.0
_TRIES = 100  # a signal handler of the same thread comes between so often at most
_CALENDAR = struct.Struct("<dq")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SharedMemoryStore(Intents):
    """Circuits, counts and a leader that all processes of one host share through a file.

    Reading is a look into mapped memory: no lock and no system call. Whoever changes something locks the file
    for some microseconds. Nothing is opened before the first use in a process, and a forked child opens
    everything anew, so that a store can be made before the workers are forked, or inherited in use.

    Next to the file ``path``, which is small, stand ``<path>.<six hex digits>``, which is the mapped one, and
    ``<path>.lock``. All are made as they are needed, readable by their owner alone. Files of another layout,
    of before the machine was started, of another owner, or damaged ones are replaced, never repaired: what
    the living members know they write into the new file. While there can be no file each process goes on
    with circuits of its own, and says so once.

    There is room for 64 services and 64 processes. Further services have circuits of their own in each
    process; further processes share the circuits but not the counts. A daemon thread per process looks after
    the file from the first use on; it calls the listeners of changes that other processes have made. All
    methods may be called from any thread.

    Args:
        path: The file, on a local disk; better still in memory, such as below ``/dev/shm`` or ``/run``.

    Raises:
        RuntimeError: The system has no locks that belong to an opening of a file; Linux has.
        TypeError: ``path`` is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not SUPPORTED:
            raise RuntimeError(
                "SharedMemoryStore needs Linux, where a lock can belong to an opening of a file"
            )
        self.path = Path(os.path.abspath(os.fspath(path)))
        self._circuits: dict[str, Circuit] = {}
        self._notes: dict[str, Note] = {}
        self._calendar: tuple[float, datetime] | None = None
        files = Files(self.path)
        self._office = Office(files)
        self._home = Home(files, self._tenants, self._begin)
        self._keeper: Keeper | None = None
        self._look_at = self._fold_at = 0.0
        self._was_away, self._absences = True, 0

    def _tenants(self) -> list[Tenant]:
        return [*self._circuits.values(), *self._notes.values()]

    def _begin(self) -> None:
        """Begin in this process."""
        if self._keeper is not None and self._keeper.runs:
            return
        self._keeper = Keeper(self)
        try:
            self._keeper.start()
        except RuntimeError as error:  # no more threads: the file works, but nobody looks after it
            self._home.say("Shared state %s is not looked after: %s", self.path, error)

    def close(self) -> None:
        """Leave: locks and descriptors are given up, breakers go on alone. Safe to call twice."""
        if self._keeper is not None:
            self._keeper.end()
        self._office.leave()
        self._home.close()
        self._home.speak()

    def __repr__(self) -> str:
        return f"<SharedMemoryStore {str(self.path)!r} of {len(self._circuits)} circuits>"

    # -- intents of breakers --------------------------------------------------------------------------

    def cell(self, name: str, told: Told | None = None) -> Cell:
        """Where changes of a circuit show."""
        circuit = self._circuit(name)
        if told is not None:
            circuit.listen(told)
        return circuit.cell

    def read(self, name: str) -> CircuitRecord:
        """What is known of a circuit."""
        circuit = self._circuit(name)
        place = self._home.place_of(circuit)
        with self._home.doubting():
            return circuit.read(place)

    def change(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
        """Take one step, alone."""
        circuit = self._circuit(name)
        self._home.place_of(circuit)
        try:
            with self._home.lock, self._home.locked(), self._home.doubting():
                place = self._home.place_of(circuit)  # it may have moved before it was locked
                for _ in range(_TRIES):
                    before = circuit.read(place)
                    after = step(before)
                    if after is before:
                        return before
                    written = circuit.write(place, before, after)
                    if written is not None:
                        return written
        finally:
            self._home.speak()
        raise StoreUnavailable(f"{self.path} has been changed by somebody without its lock")

    def _circuit(self, name: str) -> Circuit:
        circuit = self._circuits.get(name)
        return self._circuits.setdefault(name, Circuit(name)) if circuit is None else circuit

    # -- notes ----------------------------------------------------------------------------------------

    def watch(self, note: str, told: Told | None = None) -> Cell:
        """Where changes of a note show.

        Args:
            note: Its name; there is room for eight, of which one is the store's own.
            told: See :meth:`cell`.
        """
        tenant = self._note(note)
        if told is not None:
            tenant.listen(told)
        return tenant.cell

    def post(self, note: str, value: bytes) -> None:
        """Put a small value where all members find it.

        Args:
            note: Its name.
            value: At most 1,900 bytes.

        Raises:
            StoreUnavailable: The store is away, or full.
            ValueError: The value is too long.
        """
        tenant = self._note(note)
        self._home.place_of(tenant)
        try:
            with self._home.lock, self._home.locked(), self._home.doubting():
                place = self._home.place_of(tenant)
                for _ in range(_TRIES):
                    if tenant.write(place, value):
                        return
        finally:
            self._home.speak()
        raise StoreUnavailable(f"{self.path} has been changed by somebody without its lock")

    def posted(self, note: str) -> bytes | None:
        """The value of a note, or None.

        Raises:
            StoreUnavailable: The store is away.
        """
        tenant = self._note(note)
        place = self._home.place_of(tenant)
        with self._home.doubting():
            return tenant.read(place)

    def _note(self, name: str) -> Note:
        note = self._notes.get(name)
        return self._notes.setdefault(name, Note(name)) if note is None else note

    def calendar(self, now: float, today: datetime) -> tuple[float, datetime]:
        """A moment on both clocks."""
        with suppress(StoreUnavailable, OverflowError, struct.error):  # else each has its own
            value = self.posted("calendar")
            if value is not None:
                then, microseconds = _CALENDAR.unpack(value)
                self._calendar = then, _EPOCH + timedelta(microseconds=microseconds)
            if self._calendar is None or drifted(self._calendar, now, today):
                self.post("calendar", _CALENDAR.pack(now, (today - _EPOCH) // timedelta(microseconds=1)))
        if self._calendar is None or drifted(self._calendar, now, today):
            self._calendar = now, today
        return self._calendar

    # -- counts ---------------------------------------------------------------------------------------

    def share_counts(self, name: str, counters: CallCounters) -> None:
        """Have a client's counts be part of those of its service, once the circuit has been looked at."""
        self._circuit(name).add(counters)

    def host(self, name: str) -> Host | None:
        """What all processes have counted; None while that cannot be known."""
        circuit = self._circuit(name)
        try:
            place = self._home.place_of(circuit)
            seat = circuit.seat
            if seat is None or circuit.row is None:
                return None
            self._keep_error(circuit)
            members, index = seat
            with self._home.doubting():
                generation = circuit.read(place).generation
                rows, workers = members.rows(index)
            error = place.last_error()
        except StoreUnavailable:
            return None
        now, today = SYSTEM.monotonic(), SYSTEM.now()
        calendar = self.calendar(now, today)
        words = [sum(each) for each in zip(*(words for words, _ in rows), strict=True)]
        buckets = merged_buckets(rows, now)
        if not all(map(math.isfinite, (*words, *buckets))):
            self._home.doubt()
            return None
        last_success, last_failure = (
            _moment(max(words[each] for words, _ in rows), calendar)
            for each in (Word.LAST_SUCCESS, Word.LAST_FAILURE)
        )
        # Whoever has not noticed yet that the circuit has changed its state still tells of the spell before.
        up_to_date = [row for row, _ in rows[1:] if row[Word.SPELL] == generation]
        words[Word.FAILURES] = max((row[Word.FAILURES] for row in up_to_date), default=0)
        return Host(
            words=words,
            buckets=buckets,
            workers=sorted(workers),
            last_error=None if error is None else error[1],
            last_success=last_success,
            last_failure=last_failure,
        )

    def _keep_error(self, circuit: Circuit) -> None:
        if circuit.place is None or not circuit.has_error:
            return
        with self._home.lock, self._home.locked():
            place = circuit.place  # it may have moved before it was locked
            if place is not None:
                circuit.keep_error(place)

    # -- the leader -----------------------------------------------------------------------------------

    def leads(self) -> bool:
        """Whether this process is the leader of its host; asking makes it a candidate. Costs nothing."""
        if not self._office.wanted:
            self._office.wanted = True
            self._home.begin()
        return self._office.held

    def stand(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        """Have one function called when this process becomes the leader, and the other when it is no more.

        They are called one after the other in a thread of their own; one that raises when it is to begin is
        called again. Another process takes over within a second of a leader's death. A forked child has to
        stand by itself.
        """
        self._office.candidates.append((begin, end))
        self._office.wanted = True
        self._home.begin()

    # -- what the thread does -------------------------------------------------------------------------

    def tick(self) -> None:
        """One round of the thread: tell of changes, look after the file, the office and the dead."""
        away, absences = self._home.stuck or self._home.segment is None, self._home.absences
        # Also once when it is back, be it after a moment: they have something to tell.
        always = away or self._was_away or absences != self._absences
        for tenant in self._tenants():
            tenant.announce(always=always)
        self._was_away, self._absences = away, absences
        now = SYSTEM.monotonic()
        if now >= self._look_at or self._home.doubted:
            self._look_at = now + _LOOK_EVERY
            self._home.look()
            self._office.seek(alone=self._home.segment is None)
            self._keep_errors()
        if now >= self._fold_at:
            self._fold_at = now + _FOLD_EVERY
            self._fold()
        self._home.speak()

    def _keep_errors(self) -> None:
        with suppress(StoreUnavailable):  # that has been said
            for circuit in list(self._circuits.values()):
                self._keep_error(circuit)

    def _fold(self) -> None:
        members = self._home.members
        if members is None or not members.some_are_dead():
            return
        with suppress(StoreUnavailable), self._home.lock, self._home.locked(), self._home.doubting():
            if self._home.members is members:
                members.fold_the_dead()


def _moment(seconds: float, calendar: tuple[float, datetime]) -> datetime | None:
    """The time of day of a moment, as :class:`Word` has it."""
    if not seconds:
        return None
    then, day = calendar
    try:
        return day + timedelta(seconds=seconds - then)
    except (OverflowError, ValueError):
        return None  # of a clock that is not the system's
