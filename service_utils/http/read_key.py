"""What tells one read from another: a hash of all that the service would see of it.

Answers that are kept must never reach another user. There is no list of headers that identify a user, and
there cannot be one: an API key may travel in any. So a read is prepared as it would be sent, and everything
in it counts but what is known to be different in each call.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from service_utils.clock import Clock
from service_utils.errors import RequestException
from service_utils.http.context import BoundContext
from service_utils.http.copies import copied_response
from service_utils.http.headers import REQUEST_ID_HEADER, TIME_LEFT_HEADER
from service_utils.http.options import SendOptions, SessionSettings
from service_utils.http.outgoing import RequestMaker
from service_utils.http.response import FastResponse
from service_utils.http.token_keeper import TokenKeeper
from service_utils.policies.checks import require_seconds
from service_utils.policies.deadline import Deadline

__all__ = ["ReadKey", "ReadKeys"]

# Of one call alone, and nothing that a service may answer differently for.
_PER_CALL = frozenset({REQUEST_ID_HEADER.lower(), TIME_LEFT_HEADER.lower(), "traceparent", "tracestate"})
_OF_THE_CALL = frozenset({"path_params", "idempotency_key", "timeout", "deadline", "retry"})

# A key of this process: who has the hash, and guesses a token, cannot see whether he is right.
_SECRET = os.urandom(32)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class ReadKey:
    """What :class:`~service_utils.policies.fallback.StaleCache` needs to know of a read.

    Attributes:
        digest: The same for two reads only if the service cannot tell them apart.
        limits: The time-out and the retry policy of this call.
        deadline: The call's own, or None.
        inbound: That of the inbound request, or None.
    """

    digest: bytes
    limits: Hashable
    deadline: Deadline | None
    inbound: Deadline | None
    _again: Callable[[bytes], bytes] = field(repr=False)
    _unmistakable: bool

    def patience(self) -> float | None:
        """Seconds until the first of the deadlines; None without one."""
        left = [each.remaining() for each in (self.deadline, self.inbound) if each is not None]
        return min(left, default=None)

    def bounded(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with the deadline that began when the key was made."""
        return dict(arguments) if self.deadline is None else {**arguments, "deadline": self.deadline}

    def lasting(self, secret: bytes, *, known: bool) -> bytes | None:
        """Like ``digest``, but the same in every process that has the secret, and for every client alike.

        Args:
            secret: What it is hashed with.
            known: Whether the caller says otherwise whom the client speaks as.

        Returns:
            None where another client could look the same and speak as somebody else: its session was given to
            it, and may sign requests on their way.
        """
        return self._again(secret) if known or self._unmistakable else None

    def copy(self, response: Any) -> FastResponse:
        """See :func:`~service_utils.http.copies.copied_response`."""
        return copied_response(response)


class ReadKeys:
    """Makes the keys of one client's reads. For any number of threads.

    Args:
        requests: Makes the requests.
        session: Tells the settings of the session that sends them.
        tokens: The client's credentials, or None.
        deadline: Seconds of a call that brings none, or None.
        clock: Where deadlines begin.
    """

    __slots__ = ("_clock", "_deadline", "_number", "_requests", "_session", "_tokens")

    def __init__(
        self,
        requests: RequestMaker,
        session: Callable[[], tuple[object, ...]],
        tokens: TokenKeeper | None,
        deadline: float | None,
        clock: Clock,
    ) -> None:
        self._requests = requests
        self._session = session
        self._tokens = tokens
        self._deadline = deadline
        self._clock = clock
        # Another client may have other certificates, another session and other settings.
        self._number = next(_numbers)

    def key_of(self, path: str, arguments: Mapping[str, Any], inbound: BoundContext) -> ReadKey | None:
        """The key of a GET, or None where it cannot be known before the call what it will be.

        So it is for a call that will be refused for its arguments, for one whose body can be read only once
        or whose answer goes through hooks (an ``auth`` that waits for the service's answer has one), and as
        long as there are no credentials.
        """
        if arguments.get("hooks") or arguments.get("files") or not _readable_twice(arguments):
            return None
        try:
            deadline = self._deadline_of(arguments.get("deadline"))
            outgoing = self._requests.make(
                "GET",
                path,
                arguments.get("path_params"),
                arguments.get("idempotency_key"),
                None,
                inbound,
                {name: value for name, value in arguments.items() if name not in _OF_THE_CALL},
            )
            credentials = {} if self._tokens is None else self._tokens.headers()[0]
            request = outgoing.next_request(credentials, None)
        except (LookupError, TypeError, ValueError, RequestException):
            return None  # the call itself will fail, and say why
        hooks: Any = request.hooks
        if not isinstance(request.body, bytes | str | None) or any(hooks.values()):
            return None
        session = self._session()
        digest = _digest_of(_parts(self._number, request, outgoing.options, session), _SECRET)
        limits = repr(arguments.get("timeout")), id(arguments.get("retry"))
        unmistakable = isinstance(session, SessionSettings) and session.client is not None

        def again(secret: bytes) -> bytes:
            return _digest_of(_parts("any", request, outgoing.options, session), secret[:64])

        return ReadKey(digest, limits, deadline, inbound.deadline, again, unmistakable)

    def _deadline_of(self, given: Any) -> Deadline | None:
        if isinstance(given, Deadline):
            return given
        if given is not None:
            require_seconds("deadline", given)
        seconds = self._deadline if given is None else given
        return None if seconds is None else Deadline(self._clock.monotonic() + seconds, self._clock)


def _readable_twice(arguments: Mapping[str, Any]) -> bool:
    """Whether a look at the query and the body leaves them as they are: no iterators, no files."""
    return all(_is_plain(arguments.get(name)) for name in ("params", "data", "cookies", "headers"))


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return not hasattr(value, "__next__") and not hasattr(value, "read")


def _parts(
    number: object, request: requests.PreparedRequest, options: SendOptions, session: tuple[object, ...]
) -> Iterator[object]:
    yield number
    yield request.method
    yield request.url
    yield request.body
    headers: dict[str, object] = {}
    for name, value in (request.headers or {}).items():
        headers[str(_text_of(name)).lower()] = value
    for name in sorted(headers.keys() - _PER_CALL):
        yield name
        yield headers[name]
    yield options.allow_redirects
    yield repr(sorted((options.proxies or {}).items()))
    yield repr((options.verify, options.cert))
    yield repr(session)


def _text_of(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _digest_of(parts: Iterable[object], secret: bytes, new: Callable[..., Any] = hashlib.blake2b) -> bytes:
    digest = new(key=secret, digest_size=32)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        # Kind and length stand before each, so that no two lists of parts look alike.
        digest.update(b"%s %d:" % (type(part).__name__.encode(), len(data)))
        digest.update(data)
    result: bytes = digest.digest()
    return result
