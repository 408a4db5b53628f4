"""Members: the processes that count in a file, each in a slot of its own, and what those that have gone left.

A member lives as long as it holds the lock on its slot; the kernel frees that when it dies. What it counted
is then added to what is *folded*, once: the folded value says which incarnation of each slot it holds, so
that whoever is killed in the middle has added it or has not.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import MutableSequence, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from service_utils.integrations.shared_memory.layout import (
    FOLDED,
    FOLDED_COPIES,
    FOLDED_COPY,
    LAST_MEMBER,
    MEMBERS,
    SERVICES,
    SIZE,
    SLOT,
    SLOT_SERVICE,
    SLOTS,
    Damaged,
    TwoCopies,
)
from service_utils.integrations.shared_memory.locks import is_taken, let_go, take
from service_utils.integrations.shared_memory.segment import Segment
from service_utils.policies.store import StoreUnavailable
from service_utils.status import BUCKETS, WORDS, Word, Worker, add_counts

__all__ = ["Members", "Row"]

_INCARNATION, _PID, _SINCE, _END = range(4)  # words of a slot's header
_ROW_AT = SLOT_SERVICE  # the header has the room of a row
_WORD_BYTES = 8 * WORDS
_ROW_BYTES = _WORD_BYTES + 4 * 2 * BUCKETS
_MARKS = 8 * MEMBERS
_LARGEST = 2**64 - 1

Row = tuple[Sequence[float], Sequence[float]]
"""The words and buckets of one service."""


class Members:
    """The slots of one mapped file, as one process sees them.

    Whoever calls :meth:`join` or :meth:`fold_the_dead` has the file's lock.

    Args:
        segment: The file.

    Attributes:
        number: The slot of this process; None before :meth:`join`, or where all are taken.
    """

    def __init__(self, segment: Segment) -> None:
        self.number: int | None = None
        self._segment = segment
        self._memory = segment.memory
        self._folded = TwoCopies(segment.memory, FOLDED, FOLDED_COPIES, FOLDED_COPY, segment.header)
        self._known: tuple[int, bytes] = (-1, b"")
        self._last_member = memoryview(segment.memory)[LAST_MEMBER : LAST_MEMBER + 8].cast("Q")

    # -- coming and going ---------------------------------------------------------------------------

    def join(self, today: datetime) -> None:
        """Take a slot, if there is one."""
        for number in range(MEMBERS):
            if take(self._segment.descriptor, SIZE + number):
                self._fold(number)
                self._begin(number, today)
                self.number = number
                return

    def _begin(self, number: int, today: datetime) -> None:
        header, at = self._header(number), SLOTS + SLOT * number
        header[_INCARNATION] = 0
        self._memory[at + _ROW_AT : at + SLOT] = bytes(SLOT - _ROW_AT)
        header[_PID] = os.getpid()
        header[_SINCE] = int(today.timestamp() * 1e6)
        self._last_member[0] = self._last_member[0] + 1 & _LARGEST or 1
        header[_INCARNATION] = self._last_member[0]  # last: from here on it counts

    def some_are_dead(self) -> bool:
        """Whether there is something to fold. The file need not be locked for that."""
        return any(
            number != self.number
            and self._header(number)[_INCARNATION]
            and not is_taken(self._segment.descriptor, SIZE + number)
            for number in range(MEMBERS)
        )

    def fold_the_dead(self) -> None:
        """Add up what members have left behind that live no more.

        Raises:
            Damaged: What is folded is no such thing.
        """
        for number in range(MEMBERS):
            if number == self.number or not self._header(number)[_INCARNATION]:
                continue
            if take(self._segment.descriptor, SIZE + number):
                try:
                    self._fold(number)
                    self._header(number)[_INCARNATION] = 0
                finally:
                    let_go(self._segment.descriptor, SIZE + number)

    def _fold(self, number: int) -> None:
        incarnation = self._header(number)[_INCARNATION]
        version, data = self._read_folded()
        marks = array("Q", data[:_MARKS])
        if not incarnation or marks[number] == incarnation:
            return
        marks[number] = incarnation
        parts: list[bytes] = [marks.tobytes()]
        for service in range(SERVICES):
            words, buckets = _row_of(data, _MARKS + service * _ROW_BYTES)
            more_words, more_buckets = self._copy(number, service)
            if more_words[Word.BEGUN] or more_words[Word.TOTAL]:
                add_counts(words, buckets, more_words, more_buckets)
            parts += [words.tobytes(), buckets.tobytes()]
        self._folded.write(version, b"".join(parts))

    # -- counting -----------------------------------------------------------------------------------

    def row(self, service: int) -> tuple[MutableSequence[float], MutableSequence[float]] | None:
        """Where this process counts the calls of a service; None where it has no slot."""
        if self.number is None:
            return None
        at = SLOTS + SLOT * self.number + _ROW_AT + SLOT_SERVICE * service
        whole = memoryview(self._memory)
        words, buckets = whole[at : at + _WORD_BYTES], whole[at + _WORD_BYTES : at + _ROW_BYTES]
        row: Any = words.cast("d"), buckets.cast("f")  # in typeshed no memoryview is a sequence
        return cast(tuple[MutableSequence[float], MutableSequence[float]], row)

    def rows(self, service: int) -> tuple[list[Row], list[Worker]]:
        """What all have counted of a service, those that have gone first, and who lives.

        Raises:
            Damaged: What is folded is no such thing.
            StoreUnavailable: This process has just left the file.
        """
        while True:
            version, data = self._read_folded()
            marks = array("Q", data[:_MARKS])
            rows: list[Row] = [_row_of(data, _MARKS + service * _ROW_BYTES)]
            workers = []
            for number in range(MEMBERS):
                header = self._header(number)
                incarnation, pid, since = header[_INCARNATION], header[_PID], header[_SINCE]
                if not incarnation or marks[number] == incarnation:
                    continue
                words, buckets = self._copy(number, service)
                rows.append((words, buckets))
                if number == self.number or self._lives(number):
                    workers.append(_worker(pid, since, words))
            if self._folded.words[0] == version:  # else somebody has been folded meanwhile
                return rows, workers

    def _lives(self, number: int) -> bool:
        try:
            return is_taken(self._segment.descriptor, SIZE + number)
        except (OSError, ValueError):  # no descriptor any more: the store's thread has moved
            raise StoreUnavailable(f"{self._segment.path} has been left") from None

    def _copy(self, number: int, service: int) -> tuple[array[float], array[float]]:
        at = SLOTS + SLOT * number + _ROW_AT + SLOT_SERVICE * service
        return _row_of(self._memory[at : at + _ROW_BYTES], 0)

    def _header(self, number: int) -> memoryview:
        at = SLOTS + SLOT * number
        return memoryview(self._memory)[at : at + 8 * _END].cast("Q")

    def _read_folded(self) -> tuple[int, bytes]:
        """The folded value and its number. It is large and seldom another one."""
        version, data = self._known
        if self._folded.words[0] != version:
            version, found = self._folded.read()
            data = bytes(_MARKS + SERVICES * _ROW_BYTES) if found is None else found
            if len(data) != _MARKS + SERVICES * _ROW_BYTES:
                raise Damaged("what is folded has another length")
            self._known = version, data
        return version, data


def _row_of(data: bytes, at: int) -> tuple[array[float], array[float]]:
    return (
        array("d", data[at : at + _WORD_BYTES]),
        array("f", data[at + _WORD_BYTES : at + _ROW_BYTES]),
    )


def _worker(pid: int, since: int, words: Sequence[float]) -> Worker:
    in_flight = words[Word.BEGUN] - words[Word.TOTAL] - words[Word.DROPPED]
    try:
        return Worker(
            pid=pid,
            since=datetime.fromtimestamp(since / 1e6, UTC),
            requests=int(words[Word.TOTAL]),
            in_flight=max(int(in_flight), 0),
        )
    except (OverflowError, ValueError, OSError):
        raise Damaged("a member cannot have begun then, or counted that") from None
