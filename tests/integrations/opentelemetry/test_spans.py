"""Spans of calls and of requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from flask import Flask, jsonify
from opentelemetry import trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service_utils import CircuitOpenError, ResilientServiceClient
from service_utils.events import DeadLetterAdded, FallbackUsed, subscribe
from service_utils.events.telling import notify
from service_utils.http.context import bind_context, current_trace, unbind_context
from service_utils.integrations.flask import ServiceUtils
from service_utils.integrations.opentelemetry import instrument, instrument_flask
from service_utils.policies.backoff import fixed
from service_utils.policies.retry import RetryPolicy
from service_utils.registry import ServiceRegistry
from service_utils.testing import Answer, FaultServer

INBOUND = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """What has been exported so far."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def one(self) -> ReadableSpan:
        (found,) = self.all()
        return found


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Calls are traced during the test."""
    found = Spans()
    end = instrument(found.provider)
    yield found
    end()


@pytest.fixture
def client(fault_server: FaultServer) -> Iterator[ResilientServiceClient]:
    """A client of a service that fails on command."""
    registry = ServiceRegistry()
    yield make(fault_server.url, registry)
    registry.close()


def make(url: str, registry: ServiceRegistry, **more: Any) -> ResilientServiceClient:
    """A client whose retries do not wait."""
    return ResilientServiceClient(
        url,
        "Chroma Server",
        name="chroma",
        retry=RetryPolicy(max_attempts=3, backoff=fixed(0.001)),
        failure_threshold=2,
        registry=registry,
        **more,
    )


def test_a_call_is_a_client_span(spans: Spans, client: ResilientServiceClient) -> None:
    """With the names that dashboards know."""
    client.get("/query?token=hunter2")
    span = spans.one()
    assert (span.name, span.kind) == ("GET", SpanKind.CLIENT)
    told = dict(span.attributes or {})
    assert told["http.request.method"] == "GET"
    assert told["http.response.status_code"] == 200
    assert told["server.address"] == "127.0.0.1"
    assert told["server.port"] == int(client.base_url.rpartition(":")[2].rstrip("/"))
    assert str(told["url.full"]).endswith("/query")
    assert told["service_utils.service"] == "chroma"
    assert told["service_utils.circuit.state"] == "closed"
    assert "http.request.resend_count" not in told
    assert span.status.status_code is StatusCode.UNSET
    assert "hunter2" not in span.to_json()


def test_a_template_is_in_the_name(spans: Spans, client: ResilientServiceClient) -> None:
    """Its values are not: names are few."""
    client.get("/snapshot/{project}", path_params={"project": "p1"})
    span = spans.one()
    assert span.name == "GET /snapshot/{project}"
    assert (span.attributes or {})["url.template"] == "/snapshot/{project}"


def test_each_attempt_is_an_event(
    spans: Spans, client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """Two that failed and the one that did not, in their order."""
    fault_server.script(Answer(503), Answer(503))
    client.get("/query")
    span = spans.one()
    events = [event for event in span.events if event.name == "attempt"]
    told = [dict(event.attributes or {}) for event in events]
    assert [each["service_utils.attempt.number"] for each in told] == [1, 2, 3]
    assert [each["http.response.status_code"] for each in told] == [503, 503, 200]
    assert [event.timestamp for event in events] == sorted(event.timestamp for event in events)
    assert (span.attributes or {})["http.request.resend_count"] == 2
    assert span.status.status_code is StatusCode.UNSET


def test_a_failed_status(spans: Spans, client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Its type is the status."""
    fault_server.script(Answer(503), Answer(503), Answer(503))
    with pytest.raises(requests.HTTPError):
        client.get("/query")
    span = spans.one()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "503"


def test_an_answer_that_is_an_error(
    spans: Spans, client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """A 404 is returned, and is an error of the span, as the conventions have it for clients."""
    fault_server.script(Answer(404))
    client.get("/query")
    span = spans.one()
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "404")


def test_no_answer_at_all(spans: Spans) -> None:
    """Its type is the exception's."""
    registry = ServiceRegistry()
    with pytest.raises(requests.ConnectionError):
        make("http://127.0.0.1:1", registry).get("/x")
    span = spans.one()
    assert (span.attributes or {})["error.type"] == "ConnectionError"
    assert len(span.events) == 3
    registry.close()


def test_a_call_that_was_refused(spans: Spans, client: ResilientServiceClient) -> None:
    """No attempt, and the circuit's state tells why."""
    client.breaker.force_open("x")
    with pytest.raises(CircuitOpenError):
        client.get("/query")
    span = spans.one()
    told = dict(span.attributes or {})
    assert told["error.type"] == "CircuitOpenError"
    assert told["service_utils.circuit.state"] == "forced_open"
    assert told["service_utils.attempts"] == 0
    assert span.events == ()


def test_wrong_arguments_are_the_callers(spans: Spans, client: ResilientServiceClient) -> None:
    """The error is that of the call; a span that was begun is ended."""
    with pytest.raises(TypeError):
        client.request("GET", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        client.get("/x", nonsense=1)
    assert [span.status.status_code for span in spans.all()] == [StatusCode.ERROR]


def test_an_interrupted_call_ends_its_span(
    spans: Spans, client: ResilientServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves neither span nor trace behind in its thread."""

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "_perform", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.get("/x")
    assert (spans.one().attributes or {})["error.type"] == "KeyboardInterrupt"
    assert not trace.get_current_span().get_span_context().is_valid
    assert current_trace() == {}


class TestPropagation:
    def test_the_service_is_told_the_spans_context(
        self, spans: Spans, client: ResilientServiceClient, fault_server: FaultServer
    ) -> None:
        """All attempts the same."""
        fault_server.script(Answer(503))
        client.get("/query")
        context = spans.one().get_span_context()
        assert context is not None
        sent = [each.headers["traceparent"] for each in fault_server.requests]
        assert len(sent) == 2
        assert sent[0] == sent[1]
        assert sent[0].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")

    def test_within_a_span(
        self, spans: Spans, client: ResilientServiceClient, fault_server: FaultServer
    ) -> None:
        """It is the parent."""
        with trace.get_tracer("test", tracer_provider=spans.provider).start_as_current_span("outer") as outer:
            client.get("/query")
        inner = spans.all()[0]
        assert inner.parent is not None
        assert inner.parent.span_id == outer.get_span_context().span_id

    def test_within_an_inbound_request(self, spans: Spans, client: ResilientServiceClient) -> None:
        """Without any other instrumentation the caller's trace goes on."""
        token = bind_context(request_id="r1", trace={"traceparent": INBOUND})
        try:
            client.get("/query")
            assert current_trace() == {"traceparent": INBOUND}
        finally:
            unbind_context(token)
        span = spans.one()
        assert span.parent is not None
        assert f"{span.parent.trace_id:032x}" in INBOUND
        assert f"{span.parent.span_id:016x}" in INBOUND
        assert (span.attributes or {})["service_utils.request_id"] == "r1"

    def test_listeners_see_the_spans_trace(self, spans: Spans, client: ResilientServiceClient) -> None:
        """For exemplars and log lines."""
        seen = []
        unsubscribe = subscribe(lambda event: seen.append(current_trace()))
        try:
            client.get("/query")
        finally:
            unsubscribe()
        context = spans.one().get_span_context()
        assert context is not None
        assert seen
        assert all(f"{context.trace_id:032x}-{context.span_id:016x}" in each["traceparent"] for each in seen)

    def test_threads_do_not_mix(self, spans: Spans, fault_server: FaultServer) -> None:
        """Each call's attempts carry its own context."""
        registry = ServiceRegistry()
        client = make(fault_server.url, registry)
        barrier = threading.Barrier(8)

        def work() -> None:
            barrier.wait(10)
            client.get("/query")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        sent = sorted(each.headers["traceparent"].split("-")[2] for each in fault_server.requests)
        contexts = [span.get_span_context() for span in spans.all()]
        assert sent == sorted(f"{each.span_id:016x}" for each in contexts if each is not None)
        assert len(set(sent)) == 8
        registry.close()

    def test_beside_the_instrumentation_of_requests(
        self, spans: Spans, client: ResilientServiceClient
    ) -> None:
        """Its spans are children of ours."""
        RequestsInstrumentor().instrument(tracer_provider=spans.provider)
        try:
            client.get("/query")
        finally:
            RequestsInstrumentor().uninstrument()
        *inner, outer = spans.all()
        context = outer.get_span_context()
        assert context is not None
        for each in inner:
            assert each.parent is not None
            assert each.parent.span_id == context.span_id


class TestSwitching:
    def test_it_ends(self, client: ResilientServiceClient) -> None:
        """The client is as it was before."""
        plain = ResilientServiceClient.request
        spans = Spans()
        instrument(spans.provider)()
        assert ResilientServiceClient.request is plain
        client.get("/query")
        assert spans.all() == []

    def test_twice_is_once(self, client: ResilientServiceClient) -> None:
        """The second provider takes the first one's place, whose end does nothing any more."""
        first, second = Spans(), Spans()
        end_first = instrument(first.provider)
        end_second = instrument(second.provider)
        end_first()
        client.get("/query")
        end_second()
        client.get("/query")
        assert (len(first.all()), len(second.all())) == (0, 1)


class TestServer:
    @pytest.fixture
    def app(self, spans: Spans, client: ResilientServiceClient) -> Flask:
        """An app that calls a service."""
        app = Flask("traced")
        ServiceUtils(app, ServiceRegistry(), record=False)
        instrument_flask(app, spans.provider)

        @app.get("/ask/<name>")
        def ask(name: str) -> Any:
            return jsonify(client.get("/query").text if name == "service" else 1 / 0)

        return app

    def test_a_request_is_a_server_span(self, app: Flask, spans: Spans) -> None:
        """In its caller's trace; the call within it is its child."""
        answer = app.test_client().get("/ask/service", headers={"traceparent": INBOUND})
        assert answer.status_code == 200
        call, request = spans.all()
        assert (request.name, request.kind) == ("GET /ask/<name>", SpanKind.SERVER)
        told = dict(request.attributes or {})
        assert (told["http.route"], told["http.response.status_code"]) == ("/ask/<name>", 200)
        assert told["url.path"] == "/ask/service"
        assert request.parent is not None
        assert f"{request.parent.span_id:016x}" in INBOUND
        context = request.get_span_context()
        assert call.parent is not None
        assert context is not None
        assert call.parent.span_id == context.span_id

    def test_a_request_that_fails(self, app: Flask, spans: Spans) -> None:
        """500 is an error of the server; 404 is not."""
        http = app.test_client()
        assert http.get("/ask/nobody").status_code == 500
        assert http.get("/nowhere").status_code == 404
        failed, missed = spans.all()
        assert failed.status.status_code is StatusCode.ERROR
        assert (missed.name, missed.status.status_code) == ("GET", StatusCode.UNSET)

    def test_no_second_span(self, app: Flask, spans: Spans) -> None:
        """Where a middleware has made one, it is the parent of the calls."""
        with trace.get_tracer("test", tracer_provider=spans.provider).start_as_current_span("outer"):
            app.test_client().get("/ask/service")
        assert [span.kind for span in spans.all()] == [SpanKind.CLIENT, SpanKind.INTERNAL]

    def test_nothing_is_left_behind(self, app: Flask) -> None:
        """The thread serves other requests afterwards."""
        app.test_client().get("/ask/service")
        assert not trace.get_current_span().get_span_context().is_valid
        assert current_trace() == {}

    def test_once_per_app(self, app: Flask) -> None:
        """A second time is a slip."""
        with pytest.raises(ValueError, match="server spans already"):
            instrument_flask(app)


def test_fallbacks_and_dead_letters_are_events(spans: Spans) -> None:
    """Of the span they happen in."""
    used = FallbackUsed(
        service="Chroma",
        name="chroma",
        at=0.0,
        pattern="chain",
        strategy="text",
        status="success",
        reason="open",
    )
    added = DeadLetterAdded(service="Git", name="git", at=0.0, letter_id="01", method="POST", path="/x")
    with trace.get_tracer("test", tracer_provider=spans.provider).start_as_current_span("outer"):
        notify((), used)
        notify((), added)
    assert [event.name for event in spans.one().events] == ["fallback", "dead letter"]
