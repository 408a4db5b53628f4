"""A span for each call of a client, from its first check to its answer: waiting and retries are within."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import requests
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service_utils import __version__
from service_utils.calls import CallRecord
from service_utils.client import ResilientServiceClient
from service_utils.clock import SYSTEM
from service_utils.events import DeadLetterAdded, Event, FallbackUsed, subscribe
from service_utils.http.context import bind_context, bound_context, current_trace, unbind_context
from service_utils.integrations.opentelemetry.attributes import (
    attempt_attributes,
    call_attributes,
    ending_attributes,
    span_name,
)

__all__ = ["instrument", "tracer_of"]

_NAME = "service_utils"
_BILLION = 1_000_000_000
_W3C = TraceContextTextMapPropagator()

_lock = threading.Lock()
_undo: Callable[[], None] | None = None


def instrument(tracer_provider: TracerProvider | None = None) -> Callable[[], None]:
    """Have each call of each client in this process make a client span.

    The span's parent is the span of this moment; where there is none, the trace that the inbound request came
    with. The service is told the span's own context (``traceparent``), in the same way by all attempts. Each
    attempt is an event of the span, as are a fallback that is used and a dead letter that is kept.

    Switched off, nothing of it costs anything: it takes the place of a method. Calling it again changes the
    provider.

    Args:
        tracer_provider: Makes the spans; None for the process's own.

    Returns:
        The function that ends it.
    """
    global _undo
    tracer = tracer_of(tracer_provider)
    with _lock:
        if _undo is not None:
            _undo()
        _undo = undo = _put_in_place(tracer)

    def end() -> None:
        global _undo
        with _lock:
            if _undo is undo:
                undo()
                _undo = None

    return end


def tracer_of(provider: TracerProvider | None) -> Tracer:
    """The package's tracer."""
    return trace.get_tracer(_NAME, __version__, tracer_provider=provider)


def _put_in_place(tracer: Tracer) -> Callable[[], None]:
    plain = ResilientServiceClient.request
    unsubscribe = subscribe(_Listener())

    @functools.wraps(plain)
    def request(self: ResilientServiceClient, method: Any, path: Any, **kwargs: Any) -> requests.Response:
        # A wrong argument is refused by the call itself, which says what is wrong.
        if not isinstance(method, str) or not isinstance(path, str):
            return plain(self, method, path, **kwargs)
        return _Traced(tracer, self, method, path).run(functools.partial(plain, self, method, path, **kwargs))

    ResilientServiceClient.request = request  # type: ignore[method-assign]

    def undo() -> None:
        unsubscribe()
        ResilientServiceClient.request = plain  # type: ignore[method-assign]

    return undo


class _Traced:
    """One call and its span."""

    def __init__(self, tracer: Tracer, client: ResilientServiceClient, method: str, path: str) -> None:
        self._client = client
        self._began = SYSTEM.now().timestamp()
        self._span = tracer.start_span(
            span_name(method, path),
            context=_parent(),
            kind=SpanKind.CLIENT,
            attributes=call_attributes(client, method, path),
            start_time=int(self._began * _BILLION),
        )

    def run(self, call: Callable[[], requests.Response]) -> requests.Response:
        """Make the call within the span, which ends with it whatever happens."""
        span = self._span
        inside = otel_context.attach(trace.set_span_in_context(span))
        bound = bind_own_trace()
        try:
            response = call()
        except BaseException as error:
            self._failed(error)
            raise
        else:
            self._answered(response)
            return response
        finally:
            unbind_context(bound)
            otel_context.detach(inside)
            span.end()

    def _answered(self, response: requests.Response) -> None:
        record = getattr(response, "call", None)
        if not self._span.is_recording() or not isinstance(record, CallRecord):
            return
        self._tell(record)
        if response.status_code >= 400:
            self._span.set_attribute("error.type", str(response.status_code))
            self._span.set_status(Status(StatusCode.ERROR))

    def _failed(self, error: BaseException) -> None:
        span = self._span
        if not span.is_recording():
            return
        record = getattr(error, "call", None)
        if isinstance(record, CallRecord):
            self._tell(record)
        answer = getattr(error, "response", None)
        kind = type(error).__qualname__ if answer is None else str(answer.status_code)
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))

    def _tell(self, record: CallRecord) -> None:
        """The attempts as events, each at its end, and how the call ended."""
        span = self._span
        at = self._began
        for attempt in record.attempts:
            at += attempt.delay + attempt.duration
            span.add_event("attempt", attempt_attributes(attempt), timestamp=int(at * _BILLION))
        span.set_attributes(ending_attributes(record, self._client.breaker.known_state.value))


def _parent() -> otel_context.Context:
    """Where the span belongs: to the span of this moment, else to the trace of the inbound request."""
    here = otel_context.get_current()
    if trace.get_current_span(here).get_span_context().is_valid:
        return here
    return propagate.extract(current_trace(), here)


def bind_own_trace() -> Any:
    """Have outbound requests carry the current span's context, beside what is bound already.

    Returns:
        The token for :func:`~service_utils.http.context.unbind_context`.
    """
    headers: dict[str, str] = {}
    _W3C.inject(headers)
    bound = replace(bound_context(), trace=headers or bound_context().trace)
    return bind_context(request_id=bound.request_id, deadline=bound.deadline, trace=bound.trace)


class _Listener:
    """Puts what happens round a call into the span it happens in."""

    ignores_refusals = True
    ignores_rejections = True

    def wants_routine(self) -> bool:
        """Calls tell of themselves."""
        return False

    def __call__(self, event: Event) -> None:
        span: Span = trace.get_current_span()
        if not span.is_recording():
            return
        if isinstance(event, FallbackUsed):
            told = {
                "service_utils.pattern": event.pattern,
                "service_utils.strategy": event.strategy,
                "service_utils.status": event.status,
                "service_utils.service": event.name,
            }
            span.add_event("fallback", told)
        elif isinstance(event, DeadLetterAdded):
            span.add_event(
                "dead letter",
                {"service_utils.letter_id": event.letter_id, "service_utils.service": event.name},
            )
