"""``StaleCache``: the last good answer, for as long as the service gives none.

HTTP calls this ``stale-if-error`` (RFC 5861). It is no HTTP cache: how long an answer is fresh is said here,
not by the service, and nothing is asked whether it has changed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ParamSpec, TypeVar, cast

from service_utils.clock import Clock
from service_utils.events import Listener
from service_utils.policies.checks import (
    checked_clock,
    checked_listeners,
    require_count,
    require_seconds,
)
from service_utils.policies.fallback.failures import (
    Catch,
    Failures,
    check_function,
    check_name,
    is_async,
)
from service_utils.policies.fallback.last_answers import LastAnswers
from service_utils.policies.fallback.lasting import (
    AnswerStore,
    LastingAnswers,
    LastingKey,
    function_key,
    plain_key,
)
from service_utils.policies.fallback.questions import Limits, Question
from service_utils.policies.fallback.reads import Reader, ReadKey, with_identity

__all__ = ["StaleCache", "stale_age"]

P = ParamSpec("P")
T = TypeVar("T")

_READ = object()  # stands before the keys of get(), so that nobody's own key can be one of them
_CALL = object()
_NAME = "stale_cache"


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
    ``FallbackUsed``. Threads that ask for the same at the same time wait for one call, unless they are making
    one for others already: waiting there could be a circle. Each caller gets a copy of his own.

    Of responses, 2xx are kept other than 206 (Partial Content), and other than those with
    ``Cache-Control: no-store`` or ``Vary: *``. A failure is a status of 408, 429 or 5xx, or an exception
    that ``catch`` names. Every other status is the service's answer: it is handed on or raised as it is,
    and what was kept is forgotten, lest somebody sees what is no longer his to see.

    For any number of threads. No lock is held while a call is made. A forked child keeps the answers, and
    waits for no call of its parent's.

    With a ``store`` the answers outlive the process, and all processes that share the store share them: a
    fresh one is not asked for again, a stale one stands in wherever the call failed, and what one process
    has forgotten stands in nowhere. (An answer that is still fresh in the memory of another process is given
    there until its ``ttl`` is over.) Kept so are the responses of :meth:`get` by a client that has made its
    own session, and of :meth:`call` and :meth:`cached` what is plain JSON, by keys of strings, bytes, numbers
    and tuples of them. Whatever is wrong with the store, the calls do not feel it.

    Args:
        ttl: Seconds an answer is fresh; 0 to ask each time.
        stale_for: Seconds after that in which it may stand in for a failed call.
        name: What it is called in log lines, metrics and degraded answers, and what a store keeps its
            answers by: with a store it needs a name of its own.
        max_entries: Answers kept at most; those not used for longest make room.
        max_bytes: Bytes they take at most, roughly. An answer that is longer is not kept.
        catch: Exactly the exceptions that count as failures: a type or a tuple of types. By default every
            ``requests.RequestException`` that is not the caller's own mistake.
        copy: Makes the copies of answers that are no responses: of :meth:`call` and :meth:`cached`. For
            values that nobody changes, ``lambda answer: answer`` is quicker.
        clock: Where the time comes from.
        listeners: Told of every stale answer, before those of the process.
        store: Where answers outlive the process, such as
            :class:`service_utils.fallbacks.sqlite_answers.SQLiteAnswers`; None for memory alone.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        ttl: float,
        stale_for: float,
        *,
        name: str = _NAME,
        max_entries: int = 1024,
        max_bytes: int = 32 * 2**20,
        catch: Catch = None,
        copy: Callable[[Any], Any] = copy.deepcopy,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
        store: AnswerStore | None = None,
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
        self._copy = copy
        _check_store(store, name)
        clock, max_age = checked_clock(clock), self.ttl + self.stale_for
        self._answers = LastAnswers(
            Limits(self.ttl, max_age, max_entries, max_bytes),
            name,
            Failures(catch),
            clock,
            checked_listeners(listeners),
            None if store is None else LastingAnswers(store, name, max_age, clock),
        )

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
        made = functools.partial(func, *args, **kwargs)
        return cast(T, self._answers.to(self._call_question((_CALL, key), made, plain_key("call", key))))

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
                kept_by = key(*args, **kwargs)
                made = functools.partial(func, *args, **kwargs)
                lasting = function_key(func, kept_by)
                return cast(T, self._answers.to(self._call_question((func, kept_by), made, lasting)))

            return cached

        return decorate

    def get(self, client: Reader, path: str, *, identity: object = None, **kwargs: Any) -> Any:
        """GET by a client, or answer with what it got before for the same user.

        Answers are kept apart by all that is sent: address, query, cookies, every header, the credentials of
        ``auth=`` and of the token provider at this moment, less ``X-Request-ID``, trace context and time
        left; and by how it is sent (redirects, proxies, certificates). The key is a hash, so no credentials
        are kept (those in a query stay in the answer's ``url``: they belong into headers). So one user gets
        another's answer only where the service itself could not tell them apart.

        A read of which that cannot be known beforehand is made as if there were no cache: one with hooks (an
        ``auth`` that waits for the service's answer, as ``HTTPDigestAuth`` does, has one), with a body that
        can be read only once, or while the token provider has no credentials. The provider is asked each
        time, for a fresh answer too.

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
            self._answers.counts.note("passed")
            return client.get(path, **kwargs)
        told = identity is not None
        if callable(identity):
            identity = identity()
        digest = with_identity(key.digest, identity) if told else key.digest
        asked = functools.partial(client.get, path, **key.bounded(kwargs))
        lasting = functools.partial(_lasting_read, key, told, identity)
        return self._answers.to(Question((_READ, digest), asked, key.copy, key.limits, key.patience, lasting))

    def clear(self) -> None:
        """Forget all answers; those of calls that are under way will not be kept either."""
        self._answers.clear()

    def forget(self, key: Hashable) -> None:
        """Forget what :meth:`call` keeps by this key; see :meth:`clear`."""
        self._answers.forget((_CALL, key), plain_key("call", key))

    def get_status(self) -> dict[str, Any]:
        """A JSON-ready picture: settings, what is kept, and how often each kind of answer was given."""
        return {"name": self.name, "ttl": self.ttl, "stale_for": self.stale_for, **self._answers.status()}

    def __repr__(self) -> str:
        return f"StaleCache({self.ttl!r}, {self.stale_for!r}, name={self.name!r})"

    def _call_question(self, key: Hashable, func: Callable[[], Any], lasting: LastingKey) -> Question:
        return Question(key, func, self._copied, lasting=lasting)

    def _copied(self, answer: Any) -> Any:
        try:
            return self._copy(answer)
        except Exception as error:
            kind = type(answer).__name__
            raise TypeError(
                f"an answer of type {kind} cannot be copied for each caller; give the cache copy="
            ) from error


def _check_sync(method: str, func: object) -> None:
    if not callable(func):
        raise TypeError(f"func={func!r}: must be callable")
    if is_async(func):
        raise TypeError(f"{func!r}: is async, and StaleCache.{method}() takes sync functions alone")


def _check_store(store: object, name: str) -> None:
    if store is None:
        return
    if not all(callable(getattr(store, method, None)) for method in ("secret", "find", "keep", "forget")):
        raise TypeError(f"store={store!r}: must be an AnswerStore, such as SQLiteAnswers(path)")
    if name == _NAME:
        raise ValueError(
            f"name={name!r}: a cache with a store needs a name of its own, to tell answers apart"
        )


def _lasting_read(key: ReadKey, told: bool, identity: object, secret: bytes) -> bytes | None:
    """A read's lasting key; ``told`` is whether the caller has said who the user is."""
    digest = key.lasting(secret, known=told)
    return with_identity(digest, identity) if told and digest is not None else digest
