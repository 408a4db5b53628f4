"""What a cache makes of an answer or an error: may it be kept, may it be shared, is it a failure."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from service_utils.calls import EndReason
from service_utils.errors import DeadlineExceeded, RateLimitedError, is_caller_error
from service_utils.policies.fallback.failures import record_of

__all__ = ["Worth", "error_for_another", "is_response", "size_of", "worth_of_answer", "worth_of_error"]

E = TypeVar("E", bound=Exception)

_PARTIAL, _REQUEST_TIMEOUT, _TOO_MANY = 206, 408, 429
_OVERHEAD = 2048  # bytes of a response besides its body, roughly: objects, record, request
_OPAQUE = (type, type(sys), type(len), type(lambda: None))


class Worth(Enum):
    """What becomes of the result of a call, and of the answer that was kept before."""

    KEPT = "kept"  # good: it takes the place of the one before
    SPENT = "spent"  # an answer, but only for those who asked now; the one before is true no longer
    PRIVATE = "private"  # an answer for a single caller; the one before is true no longer
    FAILURE = "failure"  # the service failed: the one before may answer in its place
    OWN = "own"  # a limit or mistake of this caller, which says nothing about the others' calls


def worth_of_answer(answer: object) -> Worth:
    """What becomes of something that a call returned. Whatever is no response of an HTTP client is kept."""
    if not is_response(answer):
        return Worth.KEPT
    status: int = answer.status_code  # type: ignore[attr-defined]
    if _failed(status):
        return Worth.FAILURE
    headers = getattr(answer, "headers", None) or {}
    if "no-store" in _words(headers, "Cache-Control") or "*" in _words(headers, "Vary"):
        return Worth.PRIVATE
    return Worth.KEPT if 200 <= status < 300 and status != _PARTIAL else Worth.SPENT


def worth_of_error(error: Exception) -> Worth:
    """What becomes of an error that a call ended with."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and 400 <= status < 500 and not _failed(status):
        return Worth.SPENT
    record = record_of(error)
    own = record is not None and record.ended in (EndReason.CALLER_ERROR, EndReason.DEADLINE)
    if own or isinstance(error, DeadlineExceeded | RateLimitedError) or is_caller_error(error):
        return Worth.OWN
    return Worth.FAILURE


def is_response(answer: object) -> bool:
    """Whether it is a response of an HTTP client, known by what it can do."""
    status = getattr(answer, "status_code", None)
    if isinstance(status, bool) or not isinstance(status, int):
        return False
    return callable(getattr(answer, "raise_for_status", None))


def _failed(status: int) -> bool:
    return status >= 500 or status in (_REQUEST_TIMEOUT, _TOO_MANY)


def _words(headers: Mapping[str, str], name: str) -> set[str]:
    """The members of a list in a header, without their arguments."""
    text = headers.get(name) or ""
    return {member.partition("=")[0].strip().lower() for member in str(text).split(",")}


def error_for_another(error: E, copied: Callable[[Any], Any]) -> E:
    """The same error as an object of its own, for another thread to raise.

    Args:
        error: The error.
        copied: Makes the copy of the response that it may carry.
    """
    twin: E
    try:
        twin = copy.copy(error)
    except Exception:  # the arguments of its constructor are not those of its base
        twin = type(error).__new__(type(error), *error.args)
        vars(twin).update(vars(error))
    response = getattr(error, "response", None)
    if is_response(response):
        twin.response = copied(response)  # type: ignore[attr-defined]
    twin.__cause__ = error.__cause__
    return twin


def size_of(answer: Any, limit: int) -> int:
    """The bytes that an answer takes in memory: those of a response's body and head, else of all it holds.

    Args:
        answer: The answer.
        limit: How many are of interest; counting ends soon after it.
    """
    if is_response(answer):
        headers = getattr(answer, "headers", None) or {}
        head = sum(len(str(name)) + len(str(value)) for name, value in headers.items())
        return _OVERHEAD + head + len(getattr(answer, "content", None) or b"")
    total, seen, pending = 0, set[int](), [answer]
    while pending and total <= limit:
        each = pending.pop()
        if id(each) in seen or isinstance(each, _OPAQUE):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each, 64)
        pending.extend(_parts_of(each))
    return total


def _parts_of(thing: Any) -> list[Any]:
    if isinstance(thing, str | bytes | bytearray | int | float):
        return []
    parts: list[Any] = []
    if isinstance(thing, Mapping):
        parts += [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        parts += thing
    parts += getattr(thing, "__dict__", {}).values()
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        parts += [getattr(thing, name) for name in names if hasattr(thing, name)]
    return parts
