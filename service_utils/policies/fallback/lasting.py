"""Answers that outlive the process: what a cache asks of a store, and how it gets on without one.

A store keeps times of the day, since several processes and their restarts have nothing else in common. That
clock can jump: an answer that seems to come from the future is left alone, for nobody knows how old it is.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from service_utils.clock import Clock
from service_utils.forks import guard
from service_utils.policies.fallback.failures import sentence_of

__all__ = ["AnswerStore", "Lasting", "LastingAnswers", "LastingKey", "function_key", "plain_key"]

T = TypeVar("T")
LastingKey: TypeAlias = Callable[[bytes], bytes | None]
"""Makes the key of a question under a store's secret; None if no other process could know it again."""

_PAUSE = 60.0  # seconds a store that failed is left alone
_MOST_OWED = 1024  # answers to be forgotten that are remembered one by one

_logger = logging.getLogger("service_utils")


@dataclass(frozen=True, slots=True)
class Lasting:
    """What a store knows of a question.

    Attributes:
        answer: The answer, an object of the caller's own; None where it is gone.
        began: When the call that brought it began, in seconds since 1970.
        at: When it came.
        gone: There is no answer: those of calls that began until ``at`` hold no longer.
    """

    answer: Any
    began: float
    at: float
    gone: bool = False


class AnswerStore(Protocol):
    """Where answers outlive the process; shared by all that use it. May be called from any thread.

    Any method may do I/O, and raise any ``Exception``: the cache goes on without the store then. Answers of
    different caches, by their names, have nothing to do with each other.
    """

    def secret(self) -> bytes:
        """What keys are hashed with: the same for all who share the store, and known to nobody else."""
        ...

    def find(self, cache: str, key: bytes) -> Lasting | None:
        """What is known of a question."""
        ...

    def keep(self, cache: str, key: bytes, answer: Lasting, expires: float) -> None:
        """Keep an answer until a time of the day, unless something is known that began later.

        What cannot be kept, for its type or length, is left out.
        """
        ...

    def forget(self, cache: str, key: bytes | None, at: float, expires: float) -> None:
        """Forget the answer to one question, or to all of the cache.

        Those of calls that began until ``at`` hold no longer. That is to be known until ``expires``, when
        nobody uses such an answer any more.
        """
        ...


class LastingAnswers:
    """One cache's use of a store. For any number of threads.

    A store that fails is told once in a warning and left alone for a minute; meanwhile there is no more than
    what the process remembers. What was to be forgotten then is forgotten as soon as the store can be used.

    Args:
        store: The store.
        cache: The cache's name.
        max_age: Seconds until an answer is of no use at all.
        clock: Where the time comes from.
    """

    def __init__(self, store: AnswerStore, cache: str, max_age: float, clock: Clock) -> None:
        self._store = store
        self._cache = cache
        self._max_age = max_age
        self._clock = clock
        self._lock = threading.RLock()
        self._paused_until = -math.inf
        self._failing = False
        self._owed: dict[bytes | None, float] = {}
        guard(self)

    @property
    def failing(self) -> bool:
        """Whether the store could not be used when it was last tried."""
        return self._failing

    def find(self, key_of: LastingKey) -> Lasting | None:
        """What is known of a question, with times on the monotonic clock. May do I/O."""
        found = self._try(lambda: self._find(key_of))
        if found is None:
            return None
        now, today = self._times()
        if found.at > today and not found.gone:
            return None
        if found.gone:
            return Lasting(None, now, now + min(found.at - today, 0.0), gone=True)
        if today - found.at >= self._max_age:
            return None
        return Lasting(found.answer, now - (today - found.began), now - (today - found.at))

    def keep(self, key_of: LastingKey, answer: Any, began: float, at: float) -> None:
        """Keep an answer. May do I/O.

        Args:
            key_of: Makes its key.
            answer: The answer; it is only read.
            began: When its call began, on the monotonic clock.
            at: When it came.
        """
        now, today = self._times()
        lasting = Lasting(answer, today - (now - began), today - (now - at))

        def keep() -> None:
            key = key_of(self._store.secret())
            if key is not None:
                self._store.keep(self._cache, key, lasting, lasting.at + self._max_age)

        self._try(keep)

    def forget(self, key_of: LastingKey | None) -> None:
        """Forget the answer to one question, or to all of the cache. May do I/O."""
        at = self._times()[1]
        key: bytes | None = None

        def forget() -> None:
            nonlocal key
            if key_of is not None:
                key = key_of(self._store.secret())
                if key is None:
                    return
            self._store.forget(self._cache, key, at, at + self._max_age)

        if self._try(forget, default=_FAILED) is _FAILED:
            with self._lock:
                full = len(self._owed) >= _MOST_OWED
                self._owed[None if full else key] = at  # without a key it is all of them

    def _find(self, key_of: LastingKey) -> Lasting | None:
        key = key_of(self._store.secret())
        return None if key is None else self._store.find(self._cache, key)

    def _try(self, do: Callable[[], T], default: Any = None) -> T | Any:
        """Do something with the store, if it can be used."""
        if self._clock.monotonic() < self._paused_until:
            return default
        try:
            self._pay()
            done = do()
        except Exception as error:
            self._note_failure(error)
            return default
        self._failing = False
        return done

    def _pay(self) -> None:
        """Forget what should have been forgotten while that was not possible."""
        while self._owed:
            with self._lock:
                key, at = next(iter(self._owed.items()))
            self._store.forget(self._cache, key, at, at + self._max_age)
            with self._lock:
                if self._owed.get(key) == at:
                    del self._owed[key]

    def _note_failure(self, error: Exception) -> None:
        with self._lock:
            known, self._failing = self._failing, True
            self._paused_until = self._clock.monotonic() + _PAUSE
        if not known:
            _logger.warning(
                "[%s] Last good answers are kept in memory only: %s", self._cache, sentence_of(error)
            )

    def _times(self) -> tuple[float, float]:
        return self._clock.monotonic(), self._clock.now().timestamp()


_FAILED = object()


def plain_key(kind: str, key: Hashable) -> LastingKey:
    """The lasting key of a key that is plain: of str, bytes, numbers, None, and tuples of them."""
    written = _written(key)

    def hashed(secret: bytes) -> bytes | None:
        if written is None:
            return None
        return hashlib.blake2b(kind.encode() + b":" + written, key=secret[:64], digest_size=32).digest()

    return hashed


def function_key(func: Callable[..., Any], key: Hashable) -> LastingKey:
    """The lasting key of a call of a function; none for one that has no name of its own in its module."""
    name = f"{getattr(func, '__module__', None)}.{getattr(func, '__qualname__', '<')}"
    return plain_key("function", (name, key) if "<" not in name else _Unknown())


class _Unknown:
    """Something that has no lasting key."""


def _written(key: Any) -> bytes | None:
    """A plain key in bytes: no two that differ look alike. None for any other."""
    kind = type(key)
    if kind is tuple:
        parts = [_written(part) for part in key]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            return None
        text = b"".join(b"%d:" % len(part) + part for part in whole)
    elif kind is bytes:
        text = key
    elif kind is str:
        text = key.encode("utf-8", "surrogatepass")
    elif kind in (int, float, bool, type(None)):
        text = repr(key).encode()
    else:
        return None
    return kind.__name__.encode() + b":" + text
