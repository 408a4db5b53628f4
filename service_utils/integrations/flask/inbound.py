"""What an app does around each request: it binds the caller's context and marks degraded answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeAlias

from flask import Flask, Response, g, request
from flask.globals import request_ctx
from werkzeug.datastructures import Headers

from service_utils.clock import Clock
from service_utils.errors import TokenError
from service_utils.http.context import (
    ContextToken,
    bind_context,
    new_request_id,
    trace_headers,
    unbind_context,
    valid_request_id,
)
from service_utils.integrations.flask.problems import problem
from service_utils.integrations.flask.tokens import Verdict, judge_request
from service_utils.policies.deadline import Deadline
from service_utils.policies.fallback import collect_degradations

__all__ = ["Inbound"]

_logger = logging.getLogger("service_utils")

_REQUEST_ID = "X-Request-ID"
_TIME_LEFT = "X-Request-Timeout-Ms"
_DEGRADED = "X-Degraded"
_MILLISECONDS = re.compile(r"[0-9]{1,18}")
_LONGEST_BELIEVED = 60.0  # seconds

_STATES = "_service_utils_inbound"


@dataclass(slots=True)
class _State:
    """What is open for one request, and has to be closed with it."""

    request_id: str | None = None
    deadline: Deadline | None = None
    bind: Callable[[], ContextToken] | None = None
    degradations: list[str] = field(default_factory=list)
    closing: ExitStack = field(default_factory=ExitStack)
    closed: bool = False

    def close(self) -> None:
        """Take back what was bound for the request."""
        self.closed = True
        try:
            self.closing.close()
        except ValueError:
            # contextvars says so in another context than the request's, as that of a thread whose garbage
            # collector closes an abandoned stream. Nothing is bound there.
            return


# Keyed by request context: requests that run inside one another in one thread can share their `g`.
_States: TypeAlias = dict[object, _State]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """The hooks of one app.

    Attributes:
        context: Whether id, deadline and trace are bound.
        degraded_header: Whether degraded answers carry ``X-Degraded: true``.
        request_deadline: Seconds a request has at most; None: as many as a believed caller gives it.
        trust_deadline: Whether every caller is believed, not only those with a valid internal token.
        clock: What deadlines are measured with.
    """

    context: bool
    degraded_header: bool
    request_deadline: float | None
    trust_deadline: bool
    clock: Clock

    def mount(self, app: Flask) -> None:
        """Put the hooks round all others, whatever was registered before: those see the context, too."""
        app.before_request_funcs.setdefault(None, []).insert(0, self._begin)
        app.after_request_funcs.setdefault(None, []).insert(0, self._finish)
        app.teardown_request_funcs.setdefault(None, []).insert(0, _close)
        # Should another teardown function raise, Flask runs no further ones but these.
        app.teardown_appcontext_funcs.insert(0, _close_all)

    def _begin(self) -> Response | None:
        state = _State()
        states: _States = g.setdefault(_STATES, {})
        states[request_ctx._get_current_object()] = state  # type: ignore[attr-defined]
        if self.degraded_header:
            state.degradations = state.closing.enter_context(collect_degradations())
        if self.context:
            self._bind(state)
        if state.deadline is not None and state.deadline.expired:
            return problem(504, detail="The request arrived with no time left.")
        return None

    def _bind(self, state: _State) -> None:
        headers = request.headers
        received = headers.get(_REQUEST_ID)
        state.request_id = received if received and valid_request_id(received) else new_request_id()
        limits = [limit for limit in (self.request_deadline, self._time_left(headers)) if limit is not None]
        seconds = min(limits, default=None)  # a caller may shorten our own limit, never lengthen it
        state.deadline = None if seconds is None else Deadline.after(seconds, self.clock)
        trace = trace_headers(headers.get("traceparent"), headers.get("tracestate"))
        state.bind = partial(bind_context, request_id=state.request_id, deadline=state.deadline, trace=trace)
        state.closing.callback(unbind_context, state.bind())

    def _time_left(self, headers: Headers) -> float | None:
        """The seconds the caller gives us, or None when it does not say, says nonsense or is not believed."""
        text = headers.get(_TIME_LEFT, "")
        if not _MILLISECONDS.fullmatch(text) or not (self.trust_deadline or _shows_valid_token()):
            return None
        return min(int(text) / 1000.0, _LONGEST_BELIEVED)

    def _finish(self, response: Response) -> Response:
        states: _States = g.get(_STATES, {})
        state = states.get(request_ctx._get_current_object())  # type: ignore[attr-defined]
        if state is None:
            return response  # the request failed before any hook could run
        if state.request_id is not None:
            response.headers[_REQUEST_ID] = state.request_id
        if state.degradations:
            response.headers[_DEGRADED] = "true"
        if state.bind is not None and response.is_streamed and not response.direct_passthrough:
            response.response = _Body(response.response, state, state.bind)
        return response


class _Body:
    """A streamed body that is made within the context of its request, which may have ended by then.

    The context is there for each step alone: nothing is left behind in whatever thread takes the steps, and
    nothing when the caller hangs up in the middle.
    """

    def __init__(self, chunks: Iterable[Any], state: _State, bind: Callable[[], ContextToken]) -> None:
        self._chunks = chunks
        self._steps = iter(chunks)
        self._state = state
        self._bind = bind

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._bound():
            return next(self._steps)

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            with self._bound():
                close()

    @contextmanager
    def _bound(self) -> Iterator[None]:
        closed, token = self._state.closed, self._bind()
        try:
            yield
        finally:
            # Where stream_with_context holds the request open (before Flask 3.1.2) the last step ends it, and
            # that has brought back what was bound before the request.
            if self._state.closed == closed:
                unbind_context(token)


def _shows_valid_token() -> bool:
    try:
        return judge_request() is Verdict.ACCEPTED
    except TokenError as error:
        _logger.error("No caller's %s is believed: %s", _TIME_LEFT, error)
        return False


def _close(_error: BaseException | None) -> None:
    states: _States = g.get(_STATES, {})
    state = states.pop(request_ctx._get_current_object(), None)  # type: ignore[attr-defined]
    if state is not None:
        state.close()


def _close_all(_error: BaseException | None) -> None:
    states: _States = g.pop(_STATES, {})
    for state in reversed(states.values()):
        state.close()
