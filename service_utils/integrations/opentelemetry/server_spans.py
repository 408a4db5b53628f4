"""A span for each request of a Flask app, where no other instrumentation makes one."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, g, request
from flask.globals import request_ctx
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider

from service_utils.http.context import unbind_context
from service_utils.integrations.opentelemetry.attributes import KNOWN_METHODS, Attributes, method_attributes
from service_utils.integrations.opentelemetry.client_spans import bind_own_trace, tracer_of

__all__ = ["instrument_flask"]

_MARK = "service_utils.opentelemetry"
_SPANS = "_service_utils_server_spans"


def instrument_flask(app: Flask, tracer_provider: TracerProvider | None = None) -> None:
    """Have each request of an app make a server span, within the trace of its caller (``traceparent``).

    A request that has a span already, such as by ``opentelemetry-instrumentation-flask``, gets no second one.

    Args:
        app: The app, before its first request.
        tracer_provider: Makes the spans; None for the process's own.

    Raises:
        ValueError: The app has this already.
    """
    if _MARK in app.extensions:
        raise ValueError(f"app={app!r}: makes server spans already")
    hooks = app.extensions[_MARK] = _Hooks(tracer_of(tracer_provider))
    app.before_request_funcs.setdefault(None, []).append(hooks.begin)
    app.after_request_funcs.setdefault(None, []).append(hooks.answer)
    app.teardown_request_funcs.setdefault(None, []).append(hooks.end)


class _Hooks:
    """Open spans are kept by request context: requests that run inside one another can share their ``g``."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self) -> None:
        here = otel_context.get_current()
        if trace.get_current_span(here).get_span_context().is_valid:
            return
        route = request.url_rule.rule if request.url_rule is not None else None
        word = request.method if request.method in KNOWN_METHODS else "HTTP"
        span = self._tracer.start_span(
            f"{word} {route}" if route else word,
            context=propagate.extract(request.headers, here),
            kind=SpanKind.SERVER,
            attributes=_attributes(route),
        )
        inside = otel_context.attach(trace.set_span_in_context(span, here))
        # Log lines and calls of this request are of this span from now on.
        g.setdefault(_SPANS, {})[_key()] = (span, inside, bind_own_trace())

    def answer(self, response: Response) -> Response:
        open_ones: dict[object, Any] = g.get(_SPANS, {})
        if _key() in open_ones:
            span = open_ones[_key()][0]
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 500:
                span.set_attribute("error.type", str(response.status_code))
                span.set_status(Status(StatusCode.ERROR))
        return response

    def end(self, error: BaseException | None) -> None:
        open_ones: dict[object, Any] = g.get(_SPANS, {})
        found = open_ones.pop(_key(), None)
        if found is None:
            return
        span, inside, bound = found
        if error is not None:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        unbind_context(bound)
        otel_context.detach(inside)
        span.end()


def _key() -> object:
    return request_ctx._get_current_object()  # type: ignore[attr-defined]


def _attributes(route: str | None) -> Attributes:
    host, _, port = request.host.rpartition(":") if ":" in request.host else (request.host, "", "")
    found: Attributes = {
        **method_attributes(request.method),
        "url.scheme": request.scheme,
        "url.path": request.path,
        "server.address": host,
        "client.address": request.remote_addr or "",
    }
    if port.isdigit():
        found["server.port"] = int(port)
    if route is not None:
        found["http.route"] = route
    return found
