"""Moments of a write at which a process can be made to kill itself.

What is laid round the code that writes lies below it: the system calls, and the memory that a value is copied
to. So the code itself runs as it stands, down to the statement at which it dies.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from service_utils.integrations.shared_memory.layout import FOLDED_COPIES, Place, TwoCopies
from service_utils.integrations.shared_memory.members import Members

__all__ = ["FOLDING", "JOINING", "MAKING", "NAMING", "POINTS", "WRITING", "Death"]

WRITING = (
    "before the lock",
    "after the lock",
    "before the copy",
    "half a copy",
    "before the number",
    "after the number",
    "before the unlock",
    "after the unlock",
)
NAMING = ("naming: half a name", "naming: before the head", "naming: after the head")
JOINING = (
    "joining: slot locked",
    "joining: before the slot is void",
    "joining: slot void",
    "joining: slot half written",
    "joining: before the incarnation",
    "joining: after the incarnation",
)
FOLDING = (
    "folding: before the copy",
    "folding: half a copy",
    "folding: before the number",
    "folding: after the number",
    "folding: before the slot is void",
    "folding: after the slot is void",
)
MAKING = (
    "making: before the room",
    "making: after the room",
    "making: half a header",
    "making: after the header",
    "making: half an anchor",
    "making: before the anchor's name",
    "making: after the anchor's name",
)
POINTS = (*WRITING, *NAMING, *JOINING, *FOLDING, *MAKING)

_INCARNATION, _SINCE = 0, 2  # words of a slot's header
_MAGIC = b"svcutils"


class Death:
    """Kills this process at a point.

    Args:
        point: Which of :data:`POINTS`.
        after: How often it is passed before.
        last_words: Told the point just before.

    Attributes:
        armed: Whether it kills.
        thread: The only thread in which it does; None for any.
    """

    def __init__(self, point: str, after: int, last_words: Callable[[str], object]) -> None:
        assert point in POINTS, point
        self.armed = False
        self.thread: int | None = None
        self._point = point
        self._left = after
        self._last_words = last_words
        self._context = threading.local()

    def at(self, point: str) -> None:
        """Say that this point has been reached."""
        if self.armed and point == self._point and self.thread in (None, threading.get_ident()):
            self._left -= 1
            if self._left < 0:
                self._last_words(point)
                os.kill(os.getpid(), signal.SIGKILL)

    def lay(self) -> None:
        """Lay it round what writes in this process."""
        self._round_locks()
        self._round_values()
        self._round_names()
        self._round_members()
        self._round_making()

    def _round_locks(self) -> None:
        flock, lock_bytes, held = fcntl.flock, fcntl.fcntl, set[int]()

        def locking(descriptor: int, operation: int) -> None:
            if operation & fcntl.LOCK_EX:
                self.at("before the lock")
                flock(descriptor, operation)
                held.add(descriptor)
                self.at("after the lock")
            elif descriptor in held:
                self.at("before the unlock")
                flock(descriptor, operation)
                held.discard(descriptor)
                self.at("after the unlock")
            else:
                flock(descriptor, operation)

        def locking_bytes(descriptor: int, command: int, argument: Any = 0) -> Any:
            answer = lock_bytes(descriptor, command, argument)
            if command == fcntl.F_OFD_SETLK and self._joins:
                self.at("joining: slot locked")
            return answer

        fcntl.flock, fcntl.fcntl = locking, locking_bytes

    def _round_values(self) -> None:
        write = TwoCopies.write

        def writing(value: Any, known: int, data: bytes) -> bool:
            kind = "folding: " if value._copies_at == FOLDED_COPIES else ""
            memory, words = value._memory, value.words
            try:
                value._memory = Steps(memory, self, kind, "before the copy", "half a copy", "")
                value.words = Steps(words, self, kind, "before the number", "", "after the number")
                return write(value, known, data)
            finally:
                value._memory, value.words = memory, words

        TwoCopies.write = writing

    def _round_names(self) -> None:
        take = Place.take

        def taking(place: Any, name: bytes) -> None:
            memory, head = place._memory, place._head
            try:
                place._memory = Steps(memory, self, "naming: ", "", "half a name", "")
                place._head = Steps(head, self, "naming: ", "before the head", "", "after the head")
                take(place, name)
            finally:
                place._memory, place._head = memory, head

        Place.take = taking

    @property
    def _joins(self) -> bool:
        return getattr(self._context, "joins", False)

    def _round_members(self) -> None:
        join, begin, header = Members.join, Members._begin, Members._header

        def joining(members: Any, *arguments: Any) -> None:
            self._context.joins = True
            try:
                join(members, *arguments)
            finally:
                self._context.joins = False

        def beginning(members: Any, *arguments: Any) -> None:
            self._context.begins = True
            try:
                begin(members, *arguments)
            finally:
                self._context.begins = False

        def heading(members: Any, number: int) -> Any:
            words = header(members, number)
            if getattr(self._context, "begins", False):
                return _Slot(words, self)
            if not self._joins:
                return Steps(
                    words, self, "folding: ", "before the slot is void", "", "after the slot is void"
                )
            return words

        Members.join, Members._begin, Members._header = joining, beginning, heading

    def _round_making(self) -> None:
        fallocate, pwrite, write, replace = os.posix_fallocate, os.pwrite, os.write, os.replace

        def falling(descriptor: int, *arguments: int) -> None:
            self.at("making: before the room")
            fallocate(descriptor, *arguments)
            self.at("making: after the room")

        def writing_at(descriptor: int, data: bytes, at: int) -> int:
            if at:
                return pwrite(descriptor, data, at)
            pwrite(descriptor, data[: len(data) // 2], at)
            self.at("making: half a header")
            written = pwrite(descriptor, data, at)
            self.at("making: after the header")
            return written

        def writing(descriptor: int, data: bytes) -> int:
            if not data.startswith(_MAGIC):
                return write(descriptor, data)
            half = write(descriptor, data[: len(data) // 2])
            self.at("making: half an anchor")
            return half + write(descriptor, data[half:])

        def replacing(*arguments: Any) -> None:
            self.at("making: before the anchor's name")
            replace(*arguments)
            self.at("making: after the anchor's name")

        os.posix_fallocate, os.pwrite, os.write, os.replace = falling, writing_at, writing, replacing


class Steps:
    """Memory that is written in steps, between which one can die."""

    def __init__(self, memory: Any, death: Death, kind: str, before: str, half: str, after: str) -> None:
        self._memory = memory
        self._at = death.at
        self._before, self._half, self._after = (kind + each for each in (before, half, after))

    def __getitem__(self, where: Any) -> Any:
        return self._memory[where]

    def __setitem__(self, where: Any, value: Any) -> None:
        self._at(self._before)
        if isinstance(where, slice):
            middle = where.start + len(value) // 2
            self._memory[where.start : middle] = value[: len(value) // 2]
            self._at(self._half)
        self._memory[where] = value
        self._at(self._after)


class _Slot:
    """The header of a slot that somebody moves into."""

    def __init__(self, words: Any, death: Death) -> None:
        self._words = words
        self._at = death.at

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        void = index == _INCARNATION and not value
        if void:
            self._at("joining: before the slot is void")
        elif index == _INCARNATION:
            self._at("joining: before the incarnation")
        self._words[index] = value
        if void:
            self._at("joining: slot void")
        elif index == _SINCE:
            self._at("joining: slot half written")
        elif index == _INCARNATION:
            self._at("joining: after the incarnation")
