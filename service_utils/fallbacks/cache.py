"""Redis, or the memory of the process while that is away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from service_utils.calls import Outcome
from service_utils.clock import Clock
from service_utils.errors import CircuitOpenError
from service_utils.fallbacks.memory_cache import Key, MemoryCache, Value
from service_utils.forks import guard
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.checks import checked_clock
from service_utils.policies.fallback.failures import Catch, Failures, check_name, reason_of, sentence_of

__all__ = ["CacheWithFallback", "RedisLike"]

_logger = logging.getLogger("service_utils")

_AWAY = ("ConnectionError", "TimeoutError")  # of redis, by name: this package does not need that library
_MOST_CHANGED = 10_000  # keys whose old values are remembered
_BATCH = 100  # keys that one call forgets on its way

_METHODS = ("get", "set", "delete", "exists", "incr", "decr", "expire", "ttl")


class RedisLike(Protocol):
    """What is needed of a Redis client; ``redis.Redis`` has it. May be called from any thread."""

    def get(self, name: Any) -> Any: ...  # noqa: D102 - as redis has it, all of them
    def set(self, name: Any, value: Any) -> Any: ...  # noqa: D102
    def delete(self, *names: Any) -> Any: ...  # noqa: D102
    def exists(self, *names: Any) -> Any: ...  # noqa: D102
    def incr(self, name: Any, amount: int = 1) -> Any: ...  # noqa: D102
    def decr(self, name: Any, amount: int = 1) -> Any: ...  # noqa: D102
    def expire(self, name: Any, time: Any) -> Any: ...  # noqa: D102
    def ttl(self, name: Any) -> Any: ...  # noqa: D102


class _Away(Exception):
    """Redis cannot be reached."""


class CacheWithFallback:
    """Uses Redis, and a :class:`MemoryCache` while Redis cannot be reached. For any number of threads.

    For caches: what is in it may be gone at any moment, and each process has a memory of its own. What was
    set or deleted while Redis was away is deleted there, old values and all, before it is used again; what
    only the memory has is forgotten then. Counts and times to live that were changed in the memory are lost.

    Which of the two is used is up to a circuit breaker: while it is open Redis is not asked at all.

    Args:
        redis: The Redis client. Give it short time-outs and no retries (``socket_timeout=0.5``,
            ``retry=None``): calls wait for it.
        memory: What is used meanwhile.
        name: For log lines and the circuit.
        breaker: The circuit; by default one that opens after 3 failures in a row, for 10 seconds.
        catch: The exceptions that mean that Redis is away: a type or a tuple of types. By default
            ``OSError`` and whatever is called ConnectionError or TimeoutError, as redis' own are. All others
            pass: there Redis has answered.
        clock: Where the time of the default circuit comes from.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: ``name`` is empty.
    """

    def __init__(
        self,
        redis: RedisLike,
        memory: MemoryCache,
        *,
        name: str = "redis",
        breaker: CircuitBreaker | None = None,
        catch: Catch = None,
        clock: Clock | None = None,
    ) -> None:
        check_name(name)
        for each, what in ((redis, "redis"), (memory, "memory")):
            missing = [method for method in _METHODS if not callable(getattr(each, method, None))]
            if missing:
                raise TypeError(f"{what}={each!r}: must have a method {missing[0]}()")
        if breaker is not None and not isinstance(breaker, CircuitBreaker):
            raise TypeError(f"breaker={breaker!r}: must be a CircuitBreaker")
        Failures(catch)
        self.name = name
        self._clock = checked_clock(clock)
        self.breaker = breaker or CircuitBreaker(
            name, failure_threshold=3, recovery_timeout=10.0, clock=self._clock
        )
        self._redis: Any = redis
        self._memory = memory
        self._catch = catch
        self._lock = threading.RLock()
        self._changed: dict[
            Key, object
        ] = {}  # in the memory alone, so what Redis has is old; by whose change
        self._from_memory = 0
        self._away = self._lost = False
        guard(self)

    def _renew_in_child(self) -> None:
        self._from_memory = 0
        self._changed = {}  # the parent's, who has not died

    def get(self, key: Key) -> Any:
        """The value, or None."""
        return self._use("get", key)

    def set(
        self, key: Key, value: Value, ex: int | None = None, *, nx: bool = False, xx: bool = False
    ) -> Any:
        """Keep a value; see :meth:`MemoryCache.set`."""
        return self._use("set", key, value, _changes=(key,), ex=ex, nx=nx, xx=xx)

    def delete(self, *keys: Key) -> Any:
        """Forget keys; how many there were."""
        return self._use("delete", *keys, _changes=keys)

    def exists(self, *keys: Key) -> Any:
        """How many of these keys there are."""
        return self._use("exists", *keys)

    def incr(self, key: Key, amount: int = 1) -> Any:
        """Add to a number."""
        return self._use("incr", key, amount)

    def decr(self, key: Key, amount: int = 1) -> Any:
        """Take from a number."""
        return self._use("decr", key, amount)

    def expire(self, key: Key, seconds: int) -> Any:
        """Have a key live so many seconds from now; whether there is one."""
        return self._use("expire", key, seconds)

    def ttl(self, key: Key) -> Any:
        """Seconds it will live; -1 for ever, -2 if there is none."""
        return self._use("ttl", key)

    def get_status(self) -> dict[str, Any]:
        """A JSON-ready picture: what is used now, how often the memory was, and how many keys wait."""
        with self._lock:
            return {
                "name": self.name,
                "using": "memory" if self._away else "redis",
                "circuit": self.breaker.state.value,
                "from_memory": self._from_memory,
                "changed_meanwhile": len(self._changed),
                "entries_in_memory": len(self._memory),
            }

    def __repr__(self) -> str:
        return f"CacheWithFallback({self.name!r}, using={'memory' if self._away else 'redis'})"

    def _use(self, method: str, *args: Any, _changes: tuple[Key, ...] = (), **kwargs: Any) -> Any:
        try:
            answer = self._ask_redis(method, args, kwargs)
        except (_Away, CircuitOpenError) as error:
            why = error.__cause__ if isinstance(error, _Away) else error
        else:
            if self._away:
                self._come_back()
            return answer
        self._note_away(why or ConnectionError(), _changes)
        use: Callable[..., Any] = getattr(self._memory, method)
        return use(*args, **kwargs)

    def _ask_redis(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What Redis says.

        Raises:
            CircuitOpenError: It is not asked.
            _Away: It said nothing; the cause is why.
        """
        permit, began = None, self._clock.monotonic()
        outcome, failure = Outcome.IGNORED, None  # an interrupted call says nothing
        try:
            permit = self.breaker.acquire()
            self._forget_changed()
            answer = getattr(self._redis, method)(*args, **kwargs)
            outcome = Outcome.SUCCESS
        except CircuitOpenError:
            raise
        except Exception as error:
            outcome = Outcome.FAILURE if self._means_away(error) else Outcome.SUCCESS
            if outcome is Outcome.SUCCESS:
                raise
            failure = sentence_of(error)
            raise _Away from error
        finally:
            if permit is not None:
                self.breaker.record(permit, outcome, self._clock.monotonic() - began, error=failure)
        return answer

    def _note_away(self, why: BaseException, changes: tuple[Key, ...]) -> None:
        with self._lock:
            known, self._away = self._away, True
            self._from_memory += 1
            for key in changes:
                self._changed.pop(key, None)
                self._changed[key] = object()
            lost = list(self._changed)[: max(len(self._changed) - _MOST_CHANGED, 0)]
            for key in lost:
                del self._changed[key]
            lose, self._lost = bool(lost) and not self._lost, self._lost or bool(lost)
        if not known:
            _logger.warning("[%s] Cache in memory only (%s)", self.name, reason_of(why))
        if lose:
            text = "[%s] More than %d keys changed in memory only: old values of the others may come back"
            _logger.warning(text, self.name, _MOST_CHANGED)

    def _forget_changed(self) -> None:
        """Delete from Redis what has been changed without it, so that no old value comes back."""
        while self._changed:
            with self._lock:
                batch = dict(list(self._changed.items())[:_BATCH])
            self._redis.delete(*batch)
            with self._lock:
                for key, change in batch.items():
                    if self._changed.get(key) is change:
                        del self._changed[key]

    def _come_back(self) -> None:
        with self._lock:
            was, self._away, self._lost = self._away, False, False
        if was:
            self._memory.clear()
            _logger.info("[%s] Cache in Redis again", self.name)

    def _means_away(self, error: Exception) -> bool:
        if self._catch is not None:
            return isinstance(error, self._catch)
        names = {kind.__name__ for kind in type(error).__mro__}
        return isinstance(error, OSError) or not names.isdisjoint(_AWAY)
