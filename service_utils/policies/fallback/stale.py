"""``StaleCache``: the last good answer, for as long as the service gives none.

HTTP calls this ``stale-if-error`` (RFC 5861). It is no HTTP cache: how long an answer is fresh is said here,
not by the service, and nothing is asked whether it has changed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from service_utils.clock import Clock
from service_utils.events import Listener
from service_utils.policies.checks import (
    checked_clock,
    checked_listeners,
    require_count,
    require_seconds,
)
from service_utils.policies.fallback.answers import (
    Worth,
    error_for_another,
    is_response,
    size_of,
    worth_of_answer,
    worth_of_error,
)
from service_utils.policies.fallback.degraded import mark_degraded
from service_utils.policies.fallback.failures import (
    Catch,
    Failures,
    check_function,
    check_name,
    is_async,
    raise_if_failed,
    tell,
)
from service_utils.policies.fallback.reads import Reader, ReadKey, with_identity
from service_utils.policies.fallback.shelf import Kept, Shelf
from service_utils.policies.fallback.single_flight import Ending, Flight, SingleFlight
from service_utils.policies.fallback.stale_counts import StaleCounts

__all__ = ["StaleCache", "stale_age"]

P = ParamSpec("P")
T = TypeVar("T")

_READ = object()  # stands before the keys of get(), so that nobody's own key can be one of them
_CALL = object()
_ENDINGS = {Worth.PRIVATE: Ending.ALONE, Worth.OWN: Ending.AGAIN}


def stale_age(response: object) -> float | None:
    """How old a response is that a :class:`StaleCache` gave because the call failed, in seconds.

    Returns:
        None for every other answer, one that is still fresh included.
    """
    age = getattr(response, "_stale_age", None)
    return age if isinstance(age, float) else None


class StaleCache:
    """Answers with what was fetched before: while that is fresh, and then while the service fails.

    An answer is fresh for ``ttl`` seconds after it came; until then nobody is asked. For ``stale_for``
    seconds more it is the answer when the call fails or the circuit is open; then it is marked as degraded
    (``X-Degraded`` of the Flask extension), :func:`stale_age` tells its age, and the listeners get a
    ``FallbackUsed``. Threads that ask for the same at the same time wait for one call. Each caller gets a
    copy of his own.

    Of responses, 2xx are kept other than 206 (Partial Content), and other than those with
    ``Cache-Control: no-store`` or ``Vary: *``. A failure is a status of 408, 429 or 5xx, or an exception
    that ``catch`` names. Every other status is the service's answer: it is handed on or raised as it is,
    and what was kept is forgotten, lest somebody sees what is no longer his to see.

    For any number of threads. No lock is held while a call is made. A forked child keeps the answers, and
    waits for no call of its parent's.

    Args:
        ttl: Seconds an answer is fresh; 0 to ask each time.
        stale_for: Seconds after that in which it may stand in for a failed call.
        name: What it is called in log lines, metrics and degraded answers.
        max_entries: Answers kept at most; those not used for longest make room.
        max_bytes: Bytes they take at most, roughly. An answer that is longer is not kept.
        catch: Exactly the exceptions that count as failures: a type or a tuple of types. By default every
            ``requests.RequestException`` that is not the caller's own mistake.
        copy: Makes the copies of answers that are no responses: of :meth:`call` and :meth:`cached`. For
            values that nobody changes, ``lambda answer: answer`` is quicker.
        clock: Where the time comes from.
        listeners: Told of every stale answer, before those of the process.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        ttl: float,
        stale_for: float,
        *,
        name: str = "stale_cache",
        max_entries: int = 1024,
        max_bytes: int = 32 * 2**20,
        catch: Catch = None,
        copy: Callable[[Any], Any] = copy.deepcopy,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        require_seconds("ttl", ttl)
        require_seconds("stale_for", stale_for)
        check_name(name)
        require_count("max_entries", max_entries)
        require_count("max_bytes", max_bytes)
        if not callable(copy):
            raise TypeError(f"copy={copy!r}: must be a callable that takes an answer")
        self.ttl = float(ttl)
        self.stale_for = float(stale_for)
        self.name = name
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._failures = Failures(catch)
        self._copy = copy
        self._clock = checked_clock(clock)
        self._listeners = checked_listeners(listeners)
        self._shelf = Shelf(max_entries, max_bytes, self.ttl + self.stale_for)
        self._flights = SingleFlight(self._clock)
        self._counts = StaleCounts()

    def call(self, key: Hashable, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function, or answer with what it returned before.

        Args:
            key: What the answer is kept by. Whatever makes a difference must be in it: the arguments, and
                the user, if the answer is only for him.
            func: Any sync function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The function's own answer, or a copy of the one that is kept.

        Raises:
            Exception: The function's, when there is nothing to answer with instead.
            TypeError: The key cannot be hashed, the function is async, or its answer cannot be copied.
        """
        _check_sync("call", func)
        return cast(T, self._answer(_Ask(self, (_CALL, key), functools.partial(func, *args, **kwargs))))

    def cached(self, *, key: Callable[..., Hashable]) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Decorate a sync function, so that each call is a :meth:`call`.

        Args:
            key: Called with the function's arguments: what its answer is kept by, beside the function
                itself. Whatever makes a difference must be in it, the user included.

        Raises:
            TypeError: ``key`` cannot be called; or, when decorating, the function is async, a generator
                function, or cannot be called.
        """
        if not callable(key):
            raise TypeError(f"key={key!r}: must be a callable that takes the function's arguments")

        def decorate(func: Callable[P, T]) -> Callable[P, T]:
            check_function("StaleCache.cached", func)
            _check_sync("cached", func)

            @functools.wraps(func)
            def cached(*args: P.args, **kwargs: P.kwargs) -> T:
                kept_by = (func, key(*args, **kwargs))
                return cast(T, self._answer(_Ask(self, kept_by, functools.partial(func, *args, **kwargs))))

            return cached

        return decorate

    def get(self, client: Reader, path: str, *, identity: object = None, **kwargs: Any) -> Any:
        """GET by a client, or answer with what it got before for the same user.

        Answers are kept apart by all that is sent: address, query, cookies, every header, the credentials of
        ``auth=`` and of the token provider at this moment, less ``X-Request-ID``, trace context and time
        left; and by how it is sent (redirects, proxies, certificates). The key is a hash, so no credentials
        are kept. So one user gets another's answer only where the service itself could not tell them apart.
        A read of which that cannot be known beforehand is made as if there were no cache: one with ``hooks``,
        with a body that can be read only once, with an ``auth`` that waits for the service's answer (other
        than ``HTTPDigestAuth``), or while the token provider has no credentials.

        Args:
            client: A ``ResilientServiceClient``. Two clients never share an answer.
            path: As the client takes it.
            identity: What else tells users apart, such as an adapter that signs requests on their way: a
                str, bytes or int, or a callable that returns one.
            **kwargs: As the client takes them, but for ``stream``.

        Returns:
            The client's own answer, or a copy of the one that is kept with the ``.call`` of the call that
            fetched it; its ``.request`` has no credentials.

        Raises:
            requests.RequestException: The client's, when there is nothing to answer with instead.
            TypeError: The client is none, or ``identity`` is of another type.
            ValueError: ``stream`` was asked for: a body that is read piece by piece cannot be kept.
        """
        if not callable(getattr(client, "read_key", None)):
            raise TypeError(
                f"client={client!r}: must be a ResilientServiceClient; for others use call(key, func)"
            )
        if kwargs.get("stream"):
            raise ValueError(f"stream={kwargs['stream']!r}: a body that is left to the caller cannot be kept")
        key = client.read_key(path, kwargs)
        if key is None:
            self._counts.note("passed")
            return client.get(path, **kwargs)
        digest = key.digest if identity is None else with_identity(key.digest, identity)
        func = functools.partial(client.get, path, **key.bounded(kwargs))
        return self._answer(_Ask(self, (_READ, digest), func, key))

    def clear(self) -> None:
        """Forget all answers; those of calls that are under way will not be kept either."""
        self._flights.outdate(lambda flight: True)
        self._shelf.drop(lambda key: True)

    def forget(self, key: Hashable) -> None:
        """Forget what :meth:`call` keeps by this key; see :meth:`clear`."""
        kept_by = (_CALL, key)
        self._flights.outdate(lambda flight: flight.key[0] == kept_by)
        self._shelf.discard(kept_by)

    def get_status(self) -> dict[str, Any]:
        """A JSON-ready picture: settings, what is kept, and how often each kind of answer was given."""
        entries, size = self._shelf.counts(self._clock.monotonic())
        return {
            "name": self.name,
            "ttl": self.ttl,
            "stale_for": self.stale_for,
            "max_entries": self._max_entries,
            "max_bytes": self._max_bytes,
            "entries": entries,
            "bytes": size,
            **self._counts.snapshot(),
        }

    def __repr__(self) -> str:
        return f"StaleCache({self.ttl!r}, {self.stale_for!r}, name={self.name!r})"

    # -- one question, step by step -----------------------------------------------------------------

    def _answer(self, ask: _Ask) -> Any:
        kept = self._fresh(ask)
        if kept is not None:
            self._counts.note("hits")
            return ask.copy(kept.answer)
        try:
            answer = self._flights.run((ask.key, ask.limits), ask)
        except Exception as error:
            if worth_of_error(error) is Worth.SPENT or not self._failures.cover(error):
                raise
            stale = self._stale(ask, error)
            if stale is None:
                raise
            return stale[0]
        if worth_of_answer(answer) is Worth.FAILURE:
            stale = self._stale(ask, _error_of(answer))
            return answer if stale is None else stale[0]
        return answer

    def _fresh(self, ask: _Ask) -> Kept | None:
        return self._shelf.find(ask.key, self._clock.monotonic(), self.ttl)

    def _stale(self, ask: _Ask, first: Exception) -> tuple[Any] | None:
        """The answer in place of a failed call, if there is one; it is marked and told."""
        now = self._clock.monotonic()
        kept = self._shelf.find(ask.key, now, self.ttl + self.stale_for)
        if kept is None:
            return None
        answer = ask.copy(kept.answer)
        if is_response(answer):
            answer._stale_age = now - kept.at
        self._counts.note("stale")
        mark_degraded(self.name)
        tell(
            pattern="stale_cache",
            strategy=self.name,
            status="success",
            first=first,
            clock=self._clock,
            label=self.name,
            listeners=self._listeners,
        )
        return (answer,)

    def _fetch(self, ask: _Ask, flight: Flight | None) -> Any:
        """Make the call, and see to what becomes of its result."""
        self._counts.note("misses")
        began = self._clock.monotonic()
        try:
            answer = ask.func()
        except Exception as error:
            worth = worth_of_error(error)
            self._let_go(ask, worth, flight)
            if flight is not None:
                flight.ending = _ENDINGS.get(worth, Ending.SHARED)
                # Whoever gets the error itself may change the response in it meanwhile.
                carries = is_response(getattr(error, "response", None))
                flight.result = error_for_another(error, ask.copy) if carries else error
            raise
        worth = worth_of_answer(answer)
        self._let_go(ask, worth, flight)
        kept = None if worth is Worth.PRIVATE else ask.copy(answer)
        if worth is Worth.KEPT:
            size = size_of(kept, self._max_bytes)
            self._shelf.put(ask.key, Kept(kept, size, began, self._clock.monotonic()))
            if flight is not None and flight.outdated:  # asked afterwards: it may have come in between
                self._shelf.discard(ask.key)
        if flight is not None:
            flight.result, flight.ending = kept, _ENDINGS.get(worth, Ending.SHARED)
        return answer

    def _let_go(self, ask: _Ask, worth: Worth, flight: Flight | None) -> None:
        """Forget what was kept before, and see that no earlier call brings it back."""
        if worth not in (Worth.SPENT, Worth.PRIVATE):
            return
        self._flights.outdate(lambda other: other.key[0] == ask.key and other is not flight)
        self._shelf.discard(ask.key)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One caller's question. It is the :class:`~.single_flight.Turn` of the calls that are under way."""

    cache: StaleCache
    key: Hashable
    func: Callable[[], Any]
    read: ReadKey | None = None

    @property
    def limits(self) -> Hashable:
        return None if self.read is None else self.read.limits

    def lead(self, flight: Flight) -> Any:
        kept = self.cache._fresh(self)
        if kept is None:
            return self.cache._fetch(self, flight)
        # Another thread's call has ended since this one looked.
        self.cache._counts.note("hits")
        flight.result, flight.ending = kept.answer, Ending.SHARED
        return self.copy(kept.answer)

    def follow(self, flight: Flight) -> Any:
        self.cache._counts.note("coalesced")
        result = flight.result
        if isinstance(result, Exception):
            raise error_for_another(result, self.copy)
        return self.copy(result)

    def alone(self) -> Any:
        return self.cache._fetch(self, None)

    def patience(self) -> float | None:
        return None if self.read is None else self.read.patience()

    def copy(self, answer: Any) -> Any:
        """A copy for one caller."""
        if self.read is not None:
            return self.read.copy(answer)
        try:
            return self.cache._copy(answer)
        except Exception as error:
            kind = type(answer).__name__
            raise TypeError(
                f"an answer of type {kind} cannot be copied for each caller; give the cache copy="
            ) from error


def _error_of(answer: Any) -> Exception:
    """What a failed response would be as an error."""
    try:
        raise_if_failed(answer)
    except Exception as error:
        return error
    raise AssertionError("a failed response raises")


def _check_sync(method: str, func: object) -> None:
    if not callable(func):
        raise TypeError(f"func={func!r}: must be callable")
    if is_async(func):
        raise TypeError(f"{func!r}: is async, and StaleCache.{method}() takes sync functions alone")
