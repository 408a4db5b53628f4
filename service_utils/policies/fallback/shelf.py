"""Where answers are kept: the most recently used ones, bounded in number, bytes and age."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from service_utils.forks import guard

__all__ = ["Kept", "Shelf"]


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that is kept. It is never handed out itself, only copies of it.

    Attributes:
        answer: The answer.
        size: Its bytes.
        began: When the call that fetched it began, in seconds of the clock.
        at: When the answer was there.
    """

    answer: Any
    size: int
    began: float
    at: float


class Shelf:
    """Keeps answers by key. For any number of threads; a forked child goes on with a copy.

    Args:
        max_entries: How many.
        max_bytes: How many bytes all of them together.
        max_age: Seconds after which one is of no use.
    """

    def __init__(self, max_entries: int, max_bytes: int, max_age: float) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._lock = threading.RLock()
        self._used: OrderedDict[Hashable, Kept] = OrderedDict()  # the one used last at the end
        self._came: dict[Hashable, None] = {}  # the one that came last at the end
        self._bytes = 0
        guard(self)

    def find(self, key: Hashable, now: float, age: float) -> Kept | None:
        """What is kept, if it is younger than ``age``."""
        with self._lock:
            kept = self._used.get(key)
            if kept is None or now - kept.at >= age:
                return None
            self._used.move_to_end(key)
            return kept

    def put(self, key: Hashable, kept: Kept) -> None:
        """Keep an answer in place of an older one; what has not been used for longest makes room."""
        with self._lock:
            self._drop_expired_locked(kept.at)
            before = self._used.get(key)
            if before is not None and before.began > kept.began:
                return  # an answer to a later call has overtaken this one
            self._drop_locked(key)
            if kept.size > self._max_bytes:
                return
            # Bytes are counted before they are there, and until they are gone: whoever is interrupted in
            # between leaves too high a count behind, and that is put right below.
            self._bytes += kept.size
            self._used[key] = kept
            self._came[key] = None
            self._make_room_locked()

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            for key in list(self._used):
                self._drop_locked(key)

    def discard(self, key: Hashable) -> None:
        """Forget the answer to one key, if there is one."""
        with self._lock:
            self._drop_locked(key)

    def counts(self, now: float) -> tuple[int, int]:
        """How many answers are kept, and how many bytes."""
        with self._lock:
            self._drop_expired_locked(now)
            return len(self._used), sum(kept.size for kept in self._used.values())

    def _drop_locked(self, key: Hashable) -> None:
        kept = self._used.pop(key, None)
        self._came.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size

    def _drop_expired_locked(self, now: float) -> None:
        """All answers have the same time to live, so the one that came first is the first to go."""
        while self._came:
            key = next(iter(self._came))
            kept = self._used.get(key)
            if kept is not None and now - kept.at < self._max_age:
                return
            self._came.pop(key, None)
            self._drop_locked(key)

    def _make_room_locked(self) -> None:
        if self._bytes > self._max_bytes:
            self._bytes = sum(kept.size for kept in self._used.values())
        while self._used and (self._bytes > self._max_bytes or len(self._used) > self._max_entries):
            self._drop_locked(next(iter(self._used)))
