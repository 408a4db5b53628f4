"""Tenants of a mapped file: the circuits and the notes that a process keeps in it, under their names."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Sequence
from hashlib import sha256

from service_utils.integrations.shared_memory.layout import LONGEST_NAME, Place
from service_utils.integrations.shared_memory.members import Members
from service_utils.integrations.shared_memory.segment import Segment
from service_utils.integrations.shared_memory.values import packed, unpacked
from service_utils.policies.record import BLANK, CircuitRecord
from service_utils.policies.store import Cell, Told
from service_utils.status import CallCounters, Counts, Word

__all__ = ["Circuit", "Note", "Tenant"]


class Tenant:
    """What a process keeps of one place in the file, whichever file that is.

    Moving in and out is done by :class:`~service_utils.integrations.shared_memory.home.Home` with its lock.

    Args:
        name: The name.

    Attributes:
        cell: Where changes show.
        place: The place in the present file, or None.
        no_room_in: The file that had no place for it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.cell = Cell([0])
        self.place: Place | None = None
        self.no_room_in: Segment | None = None
        self._announced = 0
        self._listening: list[weakref.WeakMethod[Told]] = []

    def places(self, segment: Segment) -> Sequence[Place]:
        """The places of its kind."""
        raise NotImplementedError

    def listen(self, told: Told) -> None:
        """Have a method called soon after each change; its object is referred to weakly."""
        self._listening.append(weakref.WeakMethod(told))

    def announce(self, *, always: bool) -> None:
        """Tell those who listen, if something has changed."""
        number = self.cell.words[0]
        if number == self._announced and not always:
            return
        self._announced = number
        for each in tuple(self._listening):
            told = each()
            if told is None:
                self._listening.remove(each)
            else:
                told()

    def find_place(self, segment: Segment) -> tuple[int, Place] | None:
        """Its place, or the first that is nobody's, which is taken; the file is locked.

        Raises:
            Damaged: What stands there are no names of ours.
        """
        wanted = self.name.encode("utf-8", "backslashreplace")
        if len(wanted) > LONGEST_NAME:
            wanted = sha256(wanted).hexdigest().encode()
        for index, place in enumerate(self.places(segment)):
            found = place.name()
            if not found:
                place.take(wanted)
            if not found or found == wanted:
                return index, place
        return None

    def move_in(self, index: int, place: Place, members: Members) -> None:
        """Live there from now on, with all that is known; the file is locked.

        Raises:
            Damaged: What stands there is nothing of ours.
        """
        self._carry_over(place)
        self.no_room_in = None
        self.place = place
        self.cell.words = place.value.words

    def move_out(self) -> None:
        """Live nowhere; what was mapped is let go."""
        self.place = None
        self.cell.words = [self.cell.words[0]]

    def distrust(self) -> None:
        """Take nothing along from the present file that has no checksum."""

    def begin_in_child(self) -> None:
        """Begin in a forked child: whoever looks has to ask."""
        self.place = self.no_room_in = None
        self.cell.words = [0]

    def _carry_over(self, place: Place) -> None:
        raise NotImplementedError


class Circuit(Tenant):
    """A circuit, and the counts of its service.

    Attributes:
        known: The record as last seen.
        seat: The members of the present file, and the number of its row among theirs; None without a file.
        row: Where this process counts for all to see; None where it has no slot.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.known: CircuitRecord = BLANK
        self.seat: tuple[Members, int] | None = None
        self.row: Counts | None = None
        self._counters: list[weakref.ref[CallCounters]] = []
        self._error_kept = 0.0

    def places(self, segment: Segment) -> Sequence[Place]:
        """Those of circuits."""
        return segment.places

    def read(self, place: Place) -> CircuitRecord:
        """What stands there.

        Raises:
            Damaged: Nothing of ours.
        """
        number, data = place.value.read()
        record = self.known = BLANK._replace(version=number) if data is None else unpacked(number, data)
        return record

    def write(self, place: Place, before: CircuitRecord, after: CircuitRecord) -> CircuitRecord | None:
        """Put a record in another's place; the file is locked. None where somebody came between."""
        if not place.value.write(before.version, packed(after)):
            return None
        self.known = after._replace(version=before.version + 1)
        return self.known

    def move_in(self, index: int, place: Place, members: Members) -> None:
        """Live there, and count there."""
        super().move_in(index, place, members)
        self.seat = members, index
        self._error_kept = 0.0  # in this file it may be the last of all
        row = members.row(index)
        if row is None:
            self._count_alone()
            return
        words, buckets = row
        counts = Counts() if self.row is None else self.row
        counts.go_on_in(words, buckets)
        words[Word.FAILURES : Word.SPELL + 1] = array("d", self.cell.failures)
        self.cell.failures = words[Word.FAILURES : Word.SPELL + 1]
        self.row = counts
        self.attach()

    def move_out(self) -> None:
        """Live nowhere, and count alone."""
        super().move_out()
        self.seat = None
        self._count_alone()

    def distrust(self) -> None:
        """Count from nothing again."""
        self._count_alone()
        self.cell.failures = [0, 0]

    def begin_in_child(self) -> None:
        """Begin in a forked child; its counters have begun anew themselves."""
        super().begin_in_child()
        self.seat = self.row = None
        self.cell.failures = [0, 0]

    def add(self, counters: CallCounters) -> None:
        """Have the counts of one more client be part of it."""
        self._counters.append(weakref.ref(counters))
        self.attach()

    def attach(self) -> None:
        """Have all counters count in the row, if there is one."""
        row = self.row
        if row is None:
            return
        for each in self._alive():
            if each.counts is not row:
                own, each.counts = each.counts, row
                own.go_on_in(row.words, row.buckets)

    def keep_error(self, place: Place) -> None:
        """Write the last error of this process down for the others, if it is the last of all."""
        moment, text = self._last_error()
        known = place.last_error()
        if known is None or known[0] < moment:
            place.note_error(moment, text)
        self._error_kept = moment

    @property
    def has_error(self) -> bool:
        """Whether there is one that has not been written down."""
        return self._last_error()[0] > self._error_kept

    def _last_error(self) -> tuple[float, str]:
        errors = [each.last_error for each in self._alive()]
        return max((each for each in errors if each is not None), default=(0.0, ""))

    def _count_alone(self) -> None:
        if self.row is None:
            return
        self.row = None
        self.cell.failures = list(self.cell.failures)
        for each in self._alive():
            each.counts = Counts()

    def _alive(self) -> list[CallCounters]:
        """The counters of this process; those that are gone are forgotten."""
        alive = []
        for each in tuple(self._counters):
            counters = each()
            if counters is None:
                self._counters.remove(each)
            else:
                alive.append(counters)
        return alive

    def _carry_over(self, place: Place) -> None:
        """Write what was known in another file, unless others know something newer."""
        known = self.known
        number, data = place.value.read()
        if known.version >> 40 == number >> 40 or not (known.generation or known.pause_until):
            return
        there = BLANK if data is None else unpacked(number, data)
        if data is not None and (there.changed_at or 0.0) >= (known.changed_at or 0.0):
            return
        newer = known._replace(
            generation=max(known.generation, there.generation) + (data is not None),
            last_token=max(known.last_token, there.last_token),
        )
        place.value.write(number, packed(newer))


class Note(Tenant):
    """A small value that the members share.

    Attributes:
        known: The value as last seen.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.known: bytes | None = None

    def places(self, segment: Segment) -> Sequence[Place]:
        """Those of notes."""
        return segment.notes

    def read(self, place: Place) -> bytes | None:
        """What stands there.

        Raises:
            Damaged: Nothing of ours.
        """
        value = place.value.read()[1]
        if value is not None:
            self.known = value
        return value

    def write(self, place: Place, value: bytes) -> bool:
        """Put another value there; the file is locked. False where somebody came between.

        Raises:
            Damaged: What stands there is nothing of ours.
            ValueError: The value is too long.
        """
        number, found = place.value.read()
        if found != value and not place.value.write(number, value):
            return False
        self.known = value
        return True

    def _carry_over(self, place: Place) -> None:
        number, found = place.value.read()
        if found is None and self.known is not None:
            place.value.write(number, self.known)
