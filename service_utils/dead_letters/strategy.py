"""What becomes of a letter after it was tried: pure decisions, from the answer or error alone.

======================================================  ===============================================
what the replay came to                                  what becomes of the letter
======================================================  ===============================================
2xx, 303                                                 delivered
408, 429, 5xx, what the client retries besides           back-off; a Retry-After is its lower bound
no answer: refused, reset, late, truncated, TLS          back-off
refused on our side: circuit, bulkhead, rate, no token   later, and it was no attempt
409 with Retry-After, the letter has a key               later, and it was no attempt (see below)
401                                                      dead: the client has refreshed its token by then
403                                                      once more with a refreshed token, then dead
409, 413, 422                                            dead, the answer is kept
other 4xx, a redirect that leads elsewhere               dead
cannot be sent at all (bad path, bad header)             dead
======================================================  ===============================================

A 409 with Retry-After means that an attempt with the same key is still being worked on. It costs no attempt
during the letter's first hour; a receiver that never comes to an end is counted from then on.

Every back-off counts an attempt; when the letter's ``max_retries`` are used up it is dead instead.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Final, TypeAlias

import requests

from service_utils.calls import CallRecord
from service_utils.clock import Clock
from service_utils.dead_letters.letter import describe_error
from service_utils.errors import DeadlineExceeded, ServiceUnavailable, TokenError
from service_utils.events import FailureKind
from service_utils.http.classify import classify_error
from service_utils.http.retry_after import parse_retry_after

__all__ = [
    "MAX_RESPONSE_BYTES",
    "Dead",
    "Decision",
    "Delivered",
    "Refresh",
    "RetryLater",
    "Unsent",
    "decide_error",
    "decide_handler_error",
    "decide_response",
]

MAX_RESPONSE_BYTES: Final = 64 * 2**10

_TRANSIENT = frozenset({408, 429})
_WORTH_KEEPING = frozenset({409, 413, 422})  # what they say helps whoever mends the letter
_SEE_OTHER = 303  # RFC 9110, section 15.4.4: done, and the result is to be found elsewhere
_STILL_RUNNING_FOR = 3600.0  # seconds after a letter was kept in which its first attempt may still be running


@dataclass(frozen=True, slots=True)
class Delivered:
    """It has arrived."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """It was tried in vain and may do better later.

    Attributes:
        detail: Why, in words.
        status: The HTTP status, or None.
        at_least: Seconds the service wants to be left alone.
    """

    detail: str
    status: int | None = None
    at_least: float = 0.0


@dataclass(frozen=True, slots=True)
class Unsent:
    """Nothing was tried, or nothing new was learned: it waits, and no attempt is counted.

    Attributes:
        detail: Why, in words.
        at_least: Seconds after which trying makes sense; 0.0 when nobody knows.
        status: The HTTP status, or None.
    """

    detail: str
    at_least: float = 0.0
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Refresh:
    """It was turned away with credentials that may be out of date: once more with fresh ones."""


@dataclass(frozen=True, slots=True)
class Dead:
    """Sending it again would change nothing: it rests until a person decides.

    Attributes:
        detail: Why, in words.
        status: The HTTP status, or None.
        response: The first :data:`MAX_RESPONSE_BYTES` of the answer's body, where it tells what is wrong with
            the letter.
    """

    detail: str
    status: int | None = None
    response: bytes | None = None


Decision: TypeAlias = Delivered | RetryLater | Unsent | Refresh | Dead


def decide_response(
    response: requests.Response,
    *,
    clock: Clock,
    has_key: bool,
    age: float,
    refreshed: bool = False,
    retry_statuses: Set[int] = frozenset(),
) -> Decision:
    """What becomes of a letter that was answered.

    Args:
        response: The answer, whole.
        clock: Tells the time of day, for a Retry-After that is a date.
        has_key: Whether it was sent with an idempotency key.
        age: Seconds since it was kept.
        refreshed: Whether its credentials were refreshed already on account of a 403.
        retry_statuses: What the client retries.
    """
    status = response.status_code
    if 200 <= status < 300 or status == _SEE_OTHER:
        return Delivered()
    detail = f"status {status}"
    retry_after = parse_retry_after(response.headers.get("Retry-After"), clock.now())
    if status >= 500 or status in _TRANSIENT or status in retry_statuses:
        return RetryLater(detail, status, retry_after or 0.0)
    if status == 409 and has_key and retry_after is not None:
        detail += ", an earlier attempt is still being worked on"
        if age < _STILL_RUNNING_FOR:
            return Unsent(detail, retry_after, status)
        return RetryLater(detail, status, retry_after)
    if status == 403 and not refreshed:
        return Refresh()
    if status in _WORTH_KEEPING:
        return Dead(detail, status, response.content[:MAX_RESPONSE_BYTES])
    if status < 400:
        return Dead(f"{detail}, a redirect that leads elsewhere", status)
    return Dead(detail, status)


def decide_error(error: Exception) -> Decision:
    """What becomes of a letter that brought no answer.

    Args:
        error: What the client raised. One that carries an answer is for :func:`decide_response`.
    """
    if isinstance(error, ServiceUnavailable | TokenError):
        return Unsent(str(error), _seconds(error.retry_after))
    record = getattr(error, "call", None)
    attempts = record.attempts if isinstance(record, CallRecord) else ()
    if isinstance(error, DeadlineExceeded) and not (error.sent or attempts):
        return Unsent("no time was left for it")
    if not isinstance(error, requests.RequestException):
        wrong = isinstance(error, ValueError | TypeError)
        return Dead(_unsendable(error)) if wrong else RetryLater(type(error).__name__)
    verdict = classify_error(error)
    if verdict.kind is FailureKind.CALLER:
        return Dead(_unsendable(error))
    said = attempts[-1].error if attempts else None
    return RetryLater(said or verdict.detail or type(error).__name__)


def decide_handler_error(error: Exception, *, clock: Clock, age: float) -> Decision:
    """What becomes of a message whose handler has raised.

    A handler that knows when trying again makes sense says so by a number as ``.retry_after`` of what it
    raises. What it lets out of a call to a service counts as if that service had been sent the message: a
    refusal on our own side is no attempt, a 4xx is the end.

    Args:
        error: What it raised.
        clock: Tells the time of day, for a Retry-After that is a date.
        age: Seconds since the message was kept.
    """
    response = getattr(error, "response", None)
    if isinstance(error, requests.RequestException) and isinstance(response, requests.Response):
        return decide_response(response, clock=clock, has_key=False, age=age, refreshed=True)
    if isinstance(error, ServiceUnavailable | TokenError):
        return decide_error(error)
    text = describe_error(error) or type(error).__name__
    return RetryLater(text, at_least=_seconds(getattr(error, "retry_after", None)))


def _unsendable(error: Exception) -> str:
    # Its text may hold a header's or the body's contents.
    return f"it cannot be sent as it is ({type(error).__name__})"


def _seconds(value: object) -> float:
    """A number of seconds that somebody has asked for; 0.0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return max(float(value), 0.0)
