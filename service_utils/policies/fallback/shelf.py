"""Where answers are kept: the most recently used ones, bounded in number, bytes and age.

What is dropped is let go only when the lock is free again: an answer may be the last thing that holds
something whose end runs code of a user.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from service_utils.forks import guard

__all__ = ["Fetching", "Kept", "Shelf"]


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


class Fetching:
    """A call that may bring an answer.

    Attributes:
        key: What it is for.
        began: When it began, in seconds of the clock.
        outdated: Whether something newer is known by now, so that its answer must not be kept.
        by: The thread that makes it.
    """

    __slots__ = ("began", "by", "key", "outdated")

    def __init__(self, key: Hashable, began: float) -> None:
        self.key = key
        self.began = began
        self.outdated = False
        self.by = threading.get_ident()


_EVERY = object()


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
        self._fetching: set[Fetching] = set()
        self._bytes = 0
        guard(self)

    def _renew_in_child(self) -> None:
        mine = threading.get_ident()
        self._fetching = {each for each in self._fetching if each.by == mine}

    def begin(self, fetching: Fetching) -> None:
        """Take note of a call that is under way."""
        with self._lock:
            self._fetching.add(fetching)

    def end(self, fetching: Fetching) -> None:
        """It is under way no longer."""
        with self._lock:
            self._fetching.discard(fetching)

    def find(self, key: Hashable, now: float, age: float) -> Kept | None:
        """What is kept, if it is younger than ``age``."""
        with self._lock:
            kept = self._used.get(key)
            if kept is None or now - kept.at >= age:
                return None
            self._used.move_to_end(key)
            return kept

    def put(self, fetching: Fetching, kept: Kept) -> None:
        """Keep an answer in place of an older one; what has not been used for longest makes room."""
        key = fetching.key
        dropped: list[Kept] = []
        with self._lock:
            self._drop_expired_locked(kept.at, dropped)
            before = self._used.get(key)
            if fetching.outdated or (before is not None and before.began > kept.began):
                return  # something newer has overtaken this one
            self._drop_locked(key, dropped)
            if kept.size > self._max_bytes:
                return
            # Bytes are counted before they are there, and until they are gone: whoever is interrupted in
            # between leaves too high a count behind, and that is put right below.
            self._bytes += kept.size
            self._used[key] = kept
            self._came[key] = None
            self._make_room_locked(dropped)

    def outdate(self, key: Hashable = _EVERY, *, but: Fetching | None = None) -> None:
        """Forget the answer to one key, or to all, and do not keep what calls under way will bring.

        Args:
            key: Which one; all of them when left out.
            but: A call that knows already.
        """
        dropped: list[Kept] = []
        with self._lock:
            for each in tuple(self._fetching):
                if each is not but and (key is _EVERY or each.key == key):
                    each.outdated = True
            for kept in list(self._used) if key is _EVERY else [key]:
                self._drop_locked(kept, dropped)

    def counts(self, now: float) -> tuple[int, int]:
        """How many answers are kept, and how many bytes."""
        dropped: list[Kept] = []
        with self._lock:
            self._drop_expired_locked(now, dropped)
            return len(self._used), sum(kept.size for kept in self._used.values())

    def _drop_locked(self, key: Hashable, dropped: list[Kept]) -> None:
        kept = self._used.pop(key, None)
        self._came.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size
            dropped.append(kept)

    def _drop_expired_locked(self, now: float, dropped: list[Kept]) -> None:
        """All answers have the same time to live, so the one that came first is the first to go."""
        while self._came:
            key = next(iter(self._came))
            kept = self._used.get(key)
            if kept is not None and now - kept.at < self._max_age:
                return
            self._came.pop(key, None)
            self._drop_locked(key, dropped)

    def _make_room_locked(self, dropped: list[Kept]) -> None:
        if self._bytes > self._max_bytes:
            self._bytes = sum(kept.size for kept in self._used.values())
        while self._used and (self._bytes > self._max_bytes or len(self._used) > self._max_entries):
            self._drop_locked(next(iter(self._used)), dropped)
