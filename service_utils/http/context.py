"""What belongs to the inbound request and travels with outbound calls: its id, its deadline and its trace.

Whoever receives a request binds them, the client reads them at each call. They live in one context variable,
so that threads and tasks never see each other's. A new thread starts without them: :func:`propagate` and
:class:`ContextThreadPoolExecutor` carry them (and every other context variable) along.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, Token, copy_context
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeAlias, TypeVar

from service_utils.policies.deadline import Deadline, on_lowering

__all__ = [
    "BoundContext",
    "ContextThreadPoolExecutor",
    "ContextToken",
    "bind_context",
    "bound_context",
    "current_deadline",
    "current_request_id",
    "current_trace",
    "new_request_id",
    "propagate",
    "trace_headers",
    "unbind_context",
    "valid_request_id",
    "valid_traceparent",
    "valid_tracestate",
]

P = ParamSpec("P")
T = TypeVar("T")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

# https://www.w3.org/TR/trace-context/: versions after 00 may append fields, so only 00 has a fixed length.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?")
_TRACESTATE_MEMBER = re.compile(
    r"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_TRACESTATE_MAX_MEMBERS = 32


@dataclass(frozen=True, slots=True)
class BoundContext:
    """What is bound at one moment; everything is optional.

    Attributes:
        request_id: Sent on as ``X-Request-ID``.
        deadline: The moment by which the inbound request must be answered.
        trace: Headers sent on as they are: ``traceparent`` and ``tracestate``.
    """

    request_id: str | None = None
    deadline: Deadline | None = None
    trace: Mapping[str, str] | None = None


ContextToken: TypeAlias = Token[BoundContext]

_NOTHING = BoundContext()
_bound: ContextVar[BoundContext] = ContextVar("service_utils_inbound", default=_NOTHING)


def bind_context(
    *,
    request_id: str | None = None,
    deadline: Deadline | None = None,
    trace: Mapping[str, str] | None = None,
) -> ContextToken:
    """Bind a request's id, deadline and trace for this thread or task, in place of whatever was bound before.

    What is left out is unbound, not inherited: nothing of an earlier request can linger.

    Args:
        request_id: Must pass :func:`valid_request_id`.
        deadline: The moment by which the request must be answered.
        trace: Headers such as those of :func:`trace_headers`.

    Returns:
        The token for :func:`unbind_context`.

    Raises:
        ValueError: The request id is malformed.
    """
    if request_id is not None and not valid_request_id(request_id):
        raise ValueError(f"request_id={request_id!r}: must be 1 to 128 characters of A-Z a-z 0-9 . _ -")
    return _bound.set(BoundContext(request_id, deadline, dict(trace) if trace else None))


def unbind_context(token: ContextToken) -> None:
    """Bring back what was bound before :func:`bind_context` gave out this token.

    From another context than the one it was bound in (an abandoned generator that the garbage collector
    closes in some other thread, say) there is nothing to bring back, and nothing is changed.

    Raises:
        RuntimeError: The token was used before.
    """
    try:
        _bound.reset(token)
    except ValueError:
        # contextvars says so when the token is of another context.
        return


bound_context: Callable[[], BoundContext] = _bound.get
"""All that is bound at this moment."""


def _lower(deadline: Deadline) -> None:
    """Bind a deadline beside what is bound already, if it is the earlier one; the clocks may be different."""
    bound = _bound.get()
    if bound.deadline is None or deadline.remaining() < bound.deadline.remaining():
        _bound.set(replace(bound, deadline=deadline))


on_lowering(_lower)


def current_request_id() -> str | None:
    """The id of the inbound request, or None outside of one."""
    return _bound.get().request_id


def current_deadline() -> Deadline | None:
    """The moment by which the inbound request must be answered, or None."""
    return _bound.get().deadline


def current_trace() -> dict[str, str]:
    """The trace headers to pass on: ``traceparent`` and ``tracestate``, as far as there are any."""
    return dict(_bound.get().trace or ())


def new_request_id() -> str:
    """A new request id: 128 random bits of the operating system, in hexadecimal digits."""
    return os.urandom(16).hex()


def valid_request_id(text: str | None) -> bool:
    """Whether the text may be used as a request id: 1 to 128 characters of ``A-Z a-z 0-9 . _ -``."""
    return text is not None and _REQUEST_ID.fullmatch(text) is not None


def trace_headers(traceparent: str | None, tracestate: str | None = None) -> dict[str, str]:
    """The trace headers to pass on, of those received: valid ones, and no ``tracestate`` on its own."""
    if traceparent is None or not valid_traceparent(traceparent):
        return {}
    headers = {"traceparent": traceparent}
    if tracestate is not None and valid_tracestate(tracestate):
        headers["tracestate"] = tracestate
    return headers


def valid_traceparent(text: str) -> bool:
    """Whether the text is a W3C ``traceparent``: lower-case hex, version not ff, no id of zeros alone."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return False
    version, trace_id, parent_id, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return False
    return trace_id.strip("0") != "" and parent_id.strip("0") != ""


def valid_tracestate(text: str) -> bool:
    """Whether the text is a W3C ``tracestate``: 1 to 32 ``key=value`` members, no key twice."""
    members = [member for member in (part.strip(" \t") for part in text.split(",")) if member]
    matches = [_TRACESTATE_MEMBER.fullmatch(member) for member in members]
    keys = {match.group(1) for match in matches if match is not None}
    return 0 < len(members) <= _TRACESTATE_MAX_MEMBERS and len(keys) == len(members)


def propagate(func: Callable[P, T]) -> Callable[P, T]:
    """Tie a function to the context of this moment, so that it may be called from any thread.

    Each call runs in a copy of its own: many threads may call it at once, and what one changes in its context
    neither the others nor the caller see.

    Raises:
        TypeError: ``func`` cannot be called, or is a coroutine function; those need no help, tasks carry
            their context along.
    """
    if not callable(func):
        raise TypeError(f"func={func!r}: must be callable")
    if inspect.iscoroutinefunction(func):
        raise TypeError(
            f"func={func!r}: is a coroutine function, and tasks carry their context along by themselves"
        )
    context = copy_context()

    @functools.wraps(func)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.copy().run(func, *args, **kwargs)

    return run


class ContextThreadPoolExecutor(ThreadPoolExecutor):
    """A thread pool whose tasks see the context of the moment they were submitted (or mapped) in."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule ``fn(*args, **kwargs)`` in a copy of the caller's context.

        Raises:
            TypeError: As :func:`propagate`.
            RuntimeError: The pool is shut down.
        """
        return super().submit(propagate(fn), *args, **kwargs)
