"""How the mapped file is laid out: where each part begins, and how two copies keep a value whole.

The file is never longer or shorter than :data:`SIZE`::

    header     layout, boot id, nonce, with a checksum; the number of the member that came last
    records    one for each service: its number, its name, two copies of the circuit, the last error
    notes      the same for other small values that the host shares
    folded     what members that have gone had counted, two copies
    slots      one for each member: who it is, then its row of counts for each service

**Two copies.** A value's *number* (a word of 64 bits) says which of the two holds: the one of its lowest bit.
A writer, who has the file's lock, fills the other one and then writes the number one higher. So whoever is
killed has changed nothing or everything, and a reader needs no lock: the copy he reads says its number and
has a checksum. The upper 24 bits of a number are the file's nonce: it differs from that of any file before.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass

__all__ = [
    "FOLDED",
    "FOLDED_COPIES",
    "FOLDED_COPY",
    "HEADER",
    "LAST_MEMBER",
    "LAYOUT",
    "LONGEST_NAME",
    "MEMBERS",
    "NOTE",
    "NOTES",
    "NOTE_COUNT",
    "RECORD",
    "RECORDS",
    "SERVICES",
    "SIZE",
    "SLOT",
    "SLOTS",
    "SLOT_SERVICE",
    "Damaged",
    "Header",
    "Place",
    "TwoCopies",
]

LAYOUT = 1
"""Another number whenever anything here or in the values changes."""

SERVICES = 64
"""Circuits a file has room for."""
MEMBERS = 64
"""Processes that can count in it at once."""
NOTE_COUNT = 8

HEADER = 4096
LAST_MEMBER = 1024  # where the number of the member is that came last
RECORD = 2048
SLOT_SERVICE = 1024
SLOT = SLOT_SERVICE * (1 + SERVICES)

RECORDS = HEADER
NOTES = RECORDS + SERVICES * RECORD
NOTE = 4096
FOLDED = NOTES + NOTE_COUNT * NOTE
FOLDED_COPIES = FOLDED + 64
FOLDED_COPY = 1024 + SERVICES * SLOT_SERVICE
SLOTS = FOLDED + 4096 + 2 * FOLDED_COPY
SIZE = SLOTS + MEMBERS * SLOT

_MAGIC = b"svcutils"
_HEADER = struct.Struct("<8sIQ36sI")
_COPY = struct.Struct("<QI")  # number and length, before the value; its checksum comes after it
_CRC = struct.Struct("<I")
_NAME_AT = 64
LONGEST_NAME = 160
_COPIES_AT = 256
_COPY_SIZE = 640
_ERROR_AT = _COPIES_AT + 2 * _COPY_SIZE
_NOTE_COPY_SIZE = (NOTE - _COPIES_AT) // 2
_READS = 1000  # a reader is overtaken by as many writers only where the file is damaged


class Damaged(Exception):
    """What is in the file cannot have been written by us."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        nonce: Tells it from all others, 24 bits and never 0.
        boot: When the machine was started, as its boot id: monotonic times of before mean nothing.
    """

    nonce: int
    boot: str

    def packed(self) -> bytes:
        """As it is written, :data:`HEADER` bytes at most."""
        start = _HEADER.pack(_MAGIC, LAYOUT, self.nonce, self.boot.encode("ascii")[:36], SIZE)
        return start + _CRC.pack(zlib.crc32(start))

    @classmethod
    def unpacked(cls, data: bytes) -> Header:
        """Read it.

        Raises:
            Damaged: It is no header of ours, or of another layout.
        """
        end = _HEADER.size + _CRC.size
        if len(data) < end or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
            raise Damaged("no header of ours")
        magic, layout, nonce, boot, size = _HEADER.unpack_from(data)
        if magic != _MAGIC or layout != LAYOUT or size != SIZE or not 0 < nonce < 1 << 24:
            raise Damaged(f"layout {layout}, not {LAYOUT}")
        return cls(nonce, boot.rstrip(b"\0").decode("ascii", "replace"))

    @property
    def first(self) -> int:
        """The number of a value that nobody has written yet."""
        return self.nonce << 40


class TwoCopies:
    """A value that is whole at any moment, whoever is killed.

    Args:
        memory: The mapped file.
        number_at: Where its number is, in bytes.
        copies_at: Where the first copy is; the second follows it.
        size: The room of one copy.
        header: The file's.
    """

    __slots__ = ("_copies_at", "_first", "_memory", "_room", "_seed", "_size", "words")

    def __init__(self, memory: mmap.mmap, number_at: int, copies_at: int, size: int, header: Header) -> None:
        self.words = memoryview(memory)[number_at : number_at + 8].cast("Q")
        self._memory = memory
        self._copies_at = copies_at
        self._size = size
        self._room = size - _COPY.size - _CRC.size
        self._first = header.first
        self._seed = header.nonce

    def read(self) -> tuple[int, bytes | None]:
        """Its number, and the value; None when it has never been written.

        Raises:
            Damaged: Neither this file nor any like it was written by us.
        """
        memory, words = self._memory, self.words
        for _ in range(_READS):
            number = words[0]
            if number == self._first:
                return number, None
            at = self._copies_at + (number & 1) * self._size
            data = memory[at : at + self._size]
            says, length = _COPY.unpack_from(data)
            if says == number and length <= self._room:
                end = _COPY.size + length
                if _CRC.unpack_from(data, end)[0] == zlib.crc32(data[:end], self._seed):
                    return number, data[_COPY.size : end]
        raise Damaged("a value does not match its checksum")

    def write(self, known: int, value: bytes) -> bool:
        """Put another value in the place of the one of that number. The writer has the file's lock.

        Returns:
            False, and nothing is changed, where a signal handler of this very thread came between.

        Raises:
            ValueError: The value is too long.
        """
        if len(value) > self._room:
            raise ValueError(f"a value of {len(value)} bytes: there is room for {self._room}")
        number = known + 1
        data = _COPY.pack(number, len(value)) + value
        data += _CRC.pack(zlib.crc32(data, self._seed))
        memory, words = self._memory, self.words
        start = self._copies_at + (number & 1) * self._size
        end = start + len(data)
        if words[0] != known:
            return False
        memory[start:end] = data  # no call since the line before, so nobody of this thread came between
        if words[0] != known:
            return False
        words[0] = number
        return True


class Place:
    """One record: the value, the name it belongs to and, of a circuit, the last error.

    Args:
        memory: The mapped file.
        at: Where it begins.
        header: The file's.
        note: Whether it is that of a note.
    """

    def __init__(self, memory: mmap.mmap, at: int, header: Header, *, note: bool = False) -> None:
        size = _NOTE_COPY_SIZE if note else _COPY_SIZE
        self.value = TwoCopies(memory, at, at + _COPIES_AT, size, header)
        self._memory = memory
        self._head = memoryview(memory)[at + _NAME_AT : at + _NAME_AT + 8].cast("Q")
        self._name_at = at + _NAME_AT + 8
        self._error_at = at + _ERROR_AT
        self._error_room = RECORD - _ERROR_AT
        self._seed = header.nonce

    def name(self) -> bytes:
        """The name it belongs to; empty when it is nobody's.

        Raises:
            Damaged: It is no name of ours.
        """
        head = self._head[0]
        length = head & 0xFFFF
        if length == 0:
            return b""
        name = self._memory[self._name_at : self._name_at + min(length, LONGEST_NAME)]
        if length > LONGEST_NAME or zlib.crc32(name, self._seed) != head >> 32:
            raise Damaged("a name does not match its checksum")
        return name

    def take(self, name: bytes) -> None:
        """Have it belong to a name. The writer has the file's lock."""
        self._memory[self._name_at : self._name_at + len(name)] = name
        self._head[0] = zlib.crc32(name, self._seed) << 32 | len(name)  # a single word, and last

    def note_error(self, moment: float, text: str) -> None:
        """Keep the last error, as much of it as there is room. The writer has the file's lock."""
        value = struct.pack("<d", moment) + text.encode("utf-8", "backslashreplace")[: self._error_room - 32]
        data = _COPY.pack(0, len(value)) + value
        data += _CRC.pack(zlib.crc32(data, self._seed))
        self._memory[self._error_at : self._error_at + len(data)] = data

    def last_error(self) -> tuple[float, str] | None:
        """When it was, and what; None when there was none or one is being written."""
        data = self._memory[self._error_at : self._error_at + self._error_room]
        _, length = _COPY.unpack_from(data)
        end = _COPY.size + length
        if length < 8 or end + _CRC.size > len(data):
            return None
        if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end], self._seed):
            return None
        moment = struct.unpack_from("<d", data, _COPY.size)[0]
        return moment, data[_COPY.size + 8 : end].decode("utf-8", "ignore")
