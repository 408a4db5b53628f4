"""A cache in the memory of the process, with the manners of Redis: for when that is away."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import TypeAlias

from service_utils.clock import Clock
from service_utils.forks import guard
from service_utils.policies.checks import checked_clock, require_count, require_number

__all__ = ["Key", "MemoryCache", "Value"]

Key: TypeAlias = str | bytes
Value: TypeAlias = str | bytes | int | float

_OVERHEAD = 200  # bytes of an entry besides key and value, roughly
_NEVER = math.inf
_MOST, _LEAST = 2**63 - 1, -(2**63)

_Entry: TypeAlias = tuple[bytes, float]  # the value, and when it is over


class MemoryCache:
    """Keys and values as Redis has them: bytes, or text with ``decode_responses=True``.

    What has not been used for longest makes room. For any number of threads; a forked child goes on with a
    copy.

    Args:
        max_entries: Entries kept at most.
        max_bytes: Bytes they take at most, roughly. What alone is longer is not kept.
        decode_responses: Whether :meth:`get` gives text; have it as the Redis client has it.
        clock: Where the time comes from.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A limit is below 1.
    """

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 32 * 2**20,
        decode_responses: bool = False,
        clock: Clock | None = None,
    ) -> None:
        require_count("max_entries", max_entries)
        require_count("max_bytes", max_bytes)
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._decode = decode_responses
        self._clock = checked_clock(clock)
        self._lock = threading.RLock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # the one used last at the end
        self._bytes = 0
        guard(self)

    def get(self, key: Key) -> str | bytes | None:
        """The value, or None."""
        with self._lock:
            entry = self._find_locked(_bytes_of("key", key))
        if entry is None:
            return None
        return entry[0].decode("utf-8", "surrogateescape") if self._decode else entry[0]

    def set(
        self,
        key: Key,
        value: Value,
        ex: float | None = None,
        *,
        px: int | None = None,
        nx: bool = False,
        xx: bool = False,
    ) -> bool | None:
        """Keep a value, in place of the one before and its time to live.

        Args:
            key: The key.
            value: A number is kept as its digits.
            ex: Seconds it lives; for ever when left out.
            px: The same in milliseconds.
            nx: Only if there is none.
            xx: Only if there is one.

        Returns:
            True; None if it was not kept, for ``nx``, ``xx`` or its length.

        Raises:
            TypeError: Key or value is of another type.
            ValueError: The time to live is not above 0, or given twice.
        """
        name, content = _bytes_of("key", key), _content_of(value)
        if ex is not None and px is not None:
            raise ValueError(f"ex={ex!r}, px={px!r}: give one of them")
        seconds = px / 1000 if px is not None else ex
        if seconds is not None:
            require_number("ex", seconds)
            if not 0 < seconds < math.inf:
                raise ValueError(f"ex={seconds!r}: must be a number of seconds > 0")
        with self._lock:
            there = self._find_locked(name) is not None
            if (nx and there) or (xx and not there):
                return None
            return self._put_locked(name, content, self._moment_in(seconds)) or None

    def delete(self, *keys: Key) -> int:
        """Forget keys; how many there were."""
        names = [_bytes_of("key", key) for key in keys]
        with self._lock:
            return sum(self._find_locked(name) is not None and self._drop_locked(name) for name in names)

    def exists(self, *keys: Key) -> int:
        """How many of these keys there are; one that is named twice counts twice."""
        names = [_bytes_of("key", key) for key in keys]
        with self._lock:
            return sum(self._find_locked(name) is not None for name in names)

    def incr(self, key: Key, amount: int = 1) -> int:
        """Add to a number, which is 0 where there is none, at one stroke. The time to live stays.

        Raises:
            ValueError: The value is no integer, or would not fit 64 bits.
        """
        if isinstance(amount, bool) or not isinstance(amount, int):
            raise TypeError(f"amount={amount!r}: must be an integer")
        name = _bytes_of("key", key)
        with self._lock:
            content, over = self._find_locked(name) or (b"0", _NEVER)
            number = _number_in(content) + amount
            if not _LEAST <= number <= _MOST:
                raise ValueError("increment or decrement would overflow")
            self._put_locked(name, b"%d" % number, over)
            return number

    def decr(self, key: Key, amount: int = 1) -> int:
        """Take from a number; see :meth:`incr`."""
        return self.incr(key, -amount)

    def expire(self, key: Key, seconds: float) -> bool:
        """Have a key live so many seconds from now, none to forget it; whether there is one."""
        require_number("seconds", seconds)
        if math.isnan(seconds):
            raise ValueError(f"seconds={seconds!r}: must be a number of seconds")
        name = _bytes_of("key", key)
        with self._lock:
            entry = self._find_locked(name)
            if entry is None:
                return False
            if seconds <= 0:
                return self._drop_locked(name)
            self._entries[name] = entry[0], self._moment_in(seconds)
            return True

    def ttl(self, key: Key) -> int:
        """Seconds it will live, rounded; -1 for ever, -2 if there is none."""
        name = _bytes_of("key", key)
        with self._lock:
            entry = self._find_locked(name)
        if entry is None:
            return -2
        return -1 if entry[1] == _NEVER else int(entry[1] - self._clock.monotonic() + 0.5)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def __len__(self) -> int:
        """How many entries are kept, those included whose time is over and whom nobody has asked for."""
        return len(self._entries)

    def __repr__(self) -> str:
        return f"MemoryCache(entries={len(self._entries)})"

    def _moment_in(self, seconds: float | None) -> float:
        return _NEVER if seconds is None else self._clock.monotonic() + seconds

    def _find_locked(self, name: bytes) -> _Entry | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry[1] <= self._clock.monotonic():
            self._drop_locked(name)
            return None
        self._entries.move_to_end(name)
        return entry

    def _put_locked(self, name: bytes, content: bytes, over: float) -> bool:
        self._drop_locked(name)
        size = _size_of(name, content)
        if size > self._max_bytes:
            return False
        # Counted before it is there: whoever is interrupted in between leaves too high a count behind, and
        # that is put right below.
        self._bytes += size
        self._entries[name] = content, over
        if self._bytes > self._max_bytes:
            self._bytes = sum(_size_of(key, entry[0]) for key, entry in self._entries.items())
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._drop_locked(next(iter(self._entries)))
        return True

    def _drop_locked(self, name: bytes) -> bool:
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        self._bytes -= _size_of(name, entry[0])
        return True


def _size_of(name: bytes, content: bytes) -> int:
    return _OVERHEAD + len(name) + len(content)


def _bytes_of(what: str, text: object) -> bytes:
    if isinstance(text, str):
        return text.encode("utf-8", "surrogateescape")
    if isinstance(text, bytes):
        return text
    raise TypeError(f"{what} of type {type(text).__name__}: must be str or bytes")


def _content_of(value: object) -> bytes:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value).encode()
    return _bytes_of("value", value)


def _number_in(content: bytes) -> int:
    try:
        text = content.decode("ascii")
        number = int(text)
    except ValueError:
        number, text = 0, ""
    if str(number) != text:  # int() takes more than Redis does: blanks, underscores, plus signs
        raise ValueError("value is not an integer or out of range")
    return number
