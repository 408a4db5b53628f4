"""What the failure patterns have in common: what counts as a failure, how it is put into words and told."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard

from service_utils.calls import CallRecord, EndReason, attach_call
from service_utils.clock import Clock
from service_utils.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceeded,
    RateLimitedError,
    RequestException,
    ResponseTooLarge,
    ServiceError,
    ServiceUnavailable,
    TokenError,
    is_caller_error,
)
from service_utils.events import FallbackUsed, Listener, notify

__all__ = [
    "Catch",
    "Failures",
    "check_function",
    "check_name",
    "is_async",
    "name_of",
    "raise_if_failed",
    "reason_of",
    "record_of",
    "sentence_of",
    "tell",
]

Catch: TypeAlias = type[Exception] | tuple[type[Exception], ...] | None

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (CircuitOpenError, "circuit open"),
    (BulkheadFullError, "bulkhead full"),
    (RateLimitedError, "rate limited"),
    (ServiceUnavailable, "service unavailable"),
    (DeadlineExceeded, "deadline exceeded"),
    (TokenError, "no token"),
    (ResponseTooLarge, "answer too large"),
)
# By name, because no policy imports an HTTP library; and so the words are right for other libraries' errors
# too.
_REASONS_BY_NAME = (
    ("Timeout", "timeout"),
    ("TimeoutError", "timeout"),
    ("ConnectionError", "connection failed"),
)

# requests quotes whole URLs in its errors, with the user's password and the keys in the query.
_USERINFO = re.compile(r"(?<=://)[^\s/?#@]*@")
_QUERY = re.compile(r"\?[^\s?=]+=[^\s)'\"]*")


class _Response(Protocol):
    status_code: int

    def raise_for_status(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Failures:
    """Which exceptions a pattern steps in for.

    Args:
        catch: Exactly these types; None for every ``requests.RequestException`` but the caller's own
            mistakes.

    Raises:
        TypeError: ``catch`` is neither an ``Exception`` type nor a tuple of them.
    """

    catch: Catch = None

    def __post_init__(self) -> None:
        types = self.catch if isinstance(self.catch, tuple) else (self.catch,)
        for each in types:
            known = isinstance(each, type) and issubclass(each, Exception)
            if not (known or self.catch is None):
                raise TypeError(f"catch={self.catch!r}: must be an Exception type or a tuple of them")

    def cover(self, error: Exception) -> bool:
        """Whether this error is one of them."""
        if self.catch is not None:
            return isinstance(error, self.catch)
        if not isinstance(error, RequestException) or is_caller_error(error):
            return False
        record = record_of(error)
        return record is None or record.ended is not EndReason.CALLER_ERROR


def record_of(error: object) -> CallRecord | None:
    """The record of the client's call that an error came from, if it came from one."""
    for carrier in (error, getattr(error, "response", None)):
        record = getattr(carrier, "call", None)
        if isinstance(record, CallRecord):
            return record
    return None


def reason_of(error: BaseException) -> str:
    """Why something failed, in the words of a log line, such as ``circuit open`` or ``status 503``."""
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return f"status {status}"
    names = {kind.__name__ for kind in type(error).__mro__}
    return next((words for name, words in _REASONS_BY_NAME if name in names), type(error).__name__)


def sentence_of(error: BaseException) -> str:
    """What the error says, or at least what it is; less the secrets that the URLs in it may hold."""
    text = _QUERY.sub("?...", _USERINFO.sub("", str(error)))
    return text or type(error).__name__


def raise_if_failed(result: object) -> None:
    """Raise for a response whose status is 400 or above; every other result, a 3xx included, is an answer.

    A response is known by what it can do (``status_code`` and ``raise_for_status``), so that those of other
    HTTP libraries count too, and those an application makes for its own callers do not.

    Raises:
        Exception: What the response's own ``raise_for_status`` raises, or a ServiceError when that lets it
            pass.
    """
    if not _is_failed_response(result):
        return
    try:
        result.raise_for_status()
    except Exception as error:
        _carry_record(result, error)
        if all(isinstance(each, str) for each in error.args):
            error.args = (sentence_of(error),)  # requests quotes the URL with the keys in its query
        raise
    silent = ServiceError(f"the service answered with status {result.status_code}")
    silent.response = result  # type: ignore[assignment]
    _carry_record(result, silent)
    raise silent


def _is_failed_response(result: object) -> TypeGuard[_Response]:
    status = getattr(result, "status_code", None)
    if isinstance(status, bool) or not isinstance(status, int):
        return False
    return status >= 400 and callable(getattr(result, "raise_for_status", None))


def _carry_record(response: object, error: Exception) -> None:
    record = record_of(response)
    if record is not None and getattr(error, "call", None) is None:
        attach_call(error, record)


def tell(
    *,
    pattern: str,
    strategy: str,
    status: str,
    first: BaseException,
    clock: Clock,
    label: str,
    service: str | None = None,
    detail: str | None = None,
    listeners: Iterable[Listener] = (),
) -> None:
    """Tell the process's listeners that a pattern stepped in.

    Args:
        pattern: ``fail_open``, ``fail_closed``, ``best_effort``, ``chain`` or ``stale_cache``.
        strategy: What answered instead, or what was given up.
        status: ``success``, ``failure`` or ``skipped``.
        first: What the first choice failed with.
        clock: Where the time of the event is read.
        label: Stands for the service when the error names none.
        service: Stands for the service whatever the error names.
        detail: The sentence of another error than the first.
        listeners: Told before them.
    """
    record = record_of(first)
    if service is None:
        service = _service_of(first, record) or label
    notify(
        listeners,
        FallbackUsed(
            service=service,
            name=record.name if record is not None else _slug(service),
            at=clock.monotonic(),
            pattern=pattern,
            strategy=strategy,
            status=status,
            reason=reason_of(first),
            detail=sentence_of(first) if detail is None else detail,
        ),
    )


def _service_of(error: BaseException, record: CallRecord | None) -> str:
    service = getattr(error, "service", None)
    if isinstance(service, str) and service:
        return service
    return record.service if record is not None else ""


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-") or "unnamed"


def is_async(func: object) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, a partial or an object with such a call."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


def name_of(func: Callable[..., Any]) -> str:
    """The function's own name, for people; a partial has that of its function, an object that of its type."""
    inner = func
    while not hasattr(inner, "__name__") and hasattr(inner, "func"):
        inner = inner.func
    name = getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(inner).__name__


def check_function(pattern: str, func: object) -> None:
    """Refuse what a decorator cannot guard.

    Raises:
        TypeError: It cannot be called, or is a generator function: that fails long after the call is over.
    """
    if not callable(func):
        raise TypeError(f"{func!r}: {pattern} decorates functions and other callables")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(
            f"{func!r}: {pattern} cannot guard a generator function, which only begins when iterated"
        )


def check_name(name: object, argument: str = "name") -> None:
    """Require a name for people and metric labels.

    Raises:
        TypeError: It is no str.
        ValueError: It is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"{argument}={name!r}: must be a str")
    if not name.strip():
        raise ValueError(f"{argument}={name!r}: must not be empty")
