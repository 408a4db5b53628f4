"""What one attempt came to: a response or an exception in, a verdict out.

The table these functions follow:

======================================================  =======  =======================
result of an attempt                                     retried  the breaker sees
======================================================  =======  =======================
2xx, 3xx, 4xx other than 408 and 429                     no       success
409 with Retry-After, the request carried a key          yes      ignored
408, 429, 500, 502, 503, 504                             yes      failure
other 5xx                                                no       failure
refused, reset, DNS, TLS, truncated, undecodable, late   yes      failure
certificate not valid                                    no       failure
the caller's own mistake                                 no       ignored
longer than ``max_response_bytes``                       no       ignored
our own refusal                                          no       ignored
======================================================  =======  =======================
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator, Set
from dataclasses import dataclass

import requests
from requests import exceptions as rex
from urllib3 import exceptions as uex

from service_utils.calls import Outcome
from service_utils.clock import Clock
from service_utils.errors import ResponseTooLarge, ServiceError, is_caller_error
from service_utils.events import FailureKind
from service_utils.http.retry_after import parse_retry_after

__all__ = ["Verdict", "causes", "classify_error", "classify_response"]

_OVERLOADED = frozenset({408, 429})
_NOT_CLOSED_WORDS = "the connection was closed before the answer was complete"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt means.

    Attributes:
        outcome: What the breaker shall see if the call ends with it.
        transient: Whether another attempt may go better.
        failed: Whether the attempt counts as failed, for the log and the caller.
        kind: What sort of failure it was, or None.
        status: The HTTP status, or None.
        detail: The cause in words; None when nothing is wrong.
        retry_after: Seconds the service asked for, or None.
        never_sent: Whether the request certainly never reached the service.
        refused: Whether it was ours to refuse: the service has no part in it.
    """

    outcome: Outcome
    transient: bool = False
    failed: bool = False
    kind: FailureKind | None = None
    status: int | None = None
    detail: str | None = None
    retry_after: float | None = None
    never_sent: bool = False
    refused: bool = False


_OK = {status: Verdict(Outcome.SUCCESS, status=status) for status in range(100, 600)}


def classify_response(
    response: requests.Response, retry_statuses: Set[int], *, has_key: bool, clock: Clock
) -> Verdict:
    """The verdict on a complete response.

    Args:
        response: The response.
        retry_statuses: The statuses that count as transient failures.
        has_key: Whether the request carried an idempotency key.
        clock: Tells the time of day, for a Retry-After that is a date.
    """
    status = response.status_code
    if status < 400:
        return _OK.get(status) or Verdict(Outcome.SUCCESS, status=status)
    retry_after = parse_retry_after(response.headers.get("Retry-After"), clock.now())
    if status >= 500 or status in _OVERLOADED or status in retry_statuses:
        return Verdict(
            Outcome.FAILURE,
            transient=status in retry_statuses,
            failed=True,
            kind=FailureKind.STATUS,
            status=status,
            detail=f"status {status}",
            retry_after=retry_after,
        )
    if status == 409 and has_key and retry_after is not None:
        # Our own first attempt is still being worked on: neither an answer nor a failure of the service.
        detail = "status 409, an earlier attempt is still being worked on"
        return Verdict(
            Outcome.IGNORED,
            transient=True,
            kind=FailureKind.STATUS,
            status=status,
            detail=detail,
            retry_after=retry_after,
        )
    return _OK.get(status) or Verdict(Outcome.SUCCESS, status=status)


def classify_error(error: BaseException) -> Verdict:
    """The verdict on what was raised in place of a response."""
    if isinstance(error, ServiceError):
        return _classify_own(error)
    if _is_callers(error) or not isinstance(error, rex.RequestException | uex.HTTPError | OSError):
        return Verdict(Outcome.IGNORED, kind=FailureKind.CALLER, detail=type(error).__name__)
    return _classify_transport(error)


def _is_callers(error: BaseException) -> bool:
    # The same exception stands for a header that cannot be sent and for one of the answer that cannot be
    # read.
    received = isinstance(error, rex.InvalidHeader) and any(
        isinstance(cause, uex.InvalidHeader) for cause in causes(error)
    )
    return is_caller_error(error) and not received


def _classify_own(error: ServiceError) -> Verdict:
    if isinstance(error, ResponseTooLarge):
        return Verdict(Outcome.IGNORED, kind=FailureKind.BODY, detail=str(error))
    return Verdict(
        Outcome.IGNORED, kind=FailureKind.REFUSED, detail=str(error), never_sent=True, refused=True
    )


def _classify_transport(error: BaseException) -> Verdict:
    chain = tuple(causes(error))
    first = not getattr(error, "after_redirect", False)  # a redirect answers a request that did arrive
    if any(_is_late(cause) for cause in chain):
        unsent = first and any(
            isinstance(cause, rex.ConnectTimeout | uex.ConnectTimeoutError | uex.NewConnectionError)
            for cause in chain
        )
        detail = "could not connect in time" if unsent else "no complete answer in time"
        return _failure(FailureKind.TIMEOUT, detail, never_sent=unsent)
    if isinstance(error, rex.TooManyRedirects):
        return _failure(FailureKind.CONNECTION, "too many redirects", transient=False)
    if isinstance(error, rex.InvalidHeader):
        return _failure(FailureKind.BODY, "the head of the answer is malformed")
    if isinstance(error, rex.ContentDecodingError | uex.DecodeError):
        return _failure(FailureKind.BODY, "the body could not be decoded")
    if isinstance(error, rex.ChunkedEncodingError):
        return _failure(FailureKind.BODY, _NOT_CLOSED_WORDS)
    certificate = next((cause for cause in chain if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        detail = f"the certificate is not valid: {certificate.verify_message}"
        return _failure(FailureKind.CONNECTION, detail, transient=False, never_sent=first)
    unsent = first and any(isinstance(cause, uex.NewConnectionError | socket.gaierror) for cause in chain)
    return _failure(FailureKind.CONNECTION, _in_words(chain), never_sent=unsent)


def _is_late(cause: BaseException) -> bool:
    if isinstance(cause, uex.NewConnectionError):
        return False  # a time-out by descent alone: it stands for every failure to connect
    return isinstance(cause, rex.Timeout | uex.TimeoutError | TimeoutError)


def _failure(kind: FailureKind, detail: str, *, transient: bool = True, never_sent: bool = False) -> Verdict:
    return Verdict(
        Outcome.FAILURE, transient=transient, failed=True, kind=kind, detail=detail, never_sent=never_sent
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that is wrapped in it, outermost first, each once.

    ``__context__`` is left out: it may be an error the caller was already handling when the call began.
    """
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [current.__cause__, getattr(current, "reason", None), *current.args]
        waiting.extend(each for each in inner if isinstance(each, BaseException))


def _in_words(chain: tuple[BaseException, ...]) -> str:
    """The innermost cause that has words for people: no object's repr, no URL."""
    for cause in reversed(chain):
        if isinstance(cause, ssl.SSLError):
            return f"TLS failure: {cause.reason or 'handshake failed'}".replace("_", " ")
        if isinstance(cause, socket.gaierror):
            return f"host name not found ({cause.strerror})" if cause.strerror else "host name not found"
        if isinstance(cause, OSError) and isinstance(cause.errno, int) and cause.errno in errno.errorcode:
            return os.strerror(cause.errno)
    for cause in chain:
        if isinstance(cause, uex.NameResolutionError):
            return "host name not found"
        if isinstance(cause, uex.ProtocolError | uex.IncompleteRead):
            return _NOT_CLOSED_WORDS
        if isinstance(cause, uex.ProxyError):
            return "the proxy cannot be reached"
    text = str(chain[0])
    plain = len(chain) == 1 and 0 < len(text) <= 200 and "://" not in text and " object at 0x" not in text
    return text if plain else type(chain[0]).__name__
