"""OpenTelemetry's instrumentors see every request, once, whenever they come and go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_tracer

from service_utils import ResilientServiceClient, RetryPolicy, ServiceRegistry, fixed
from service_utils.http.context import bind_context, unbind_context
from service_utils.testing import FakeClock

from .pieces import Ending, Script
from .raw_server import RawServer, Received
from .sessions import fast_session, warm, whence
from .test_mocks import passes_urllib3

PATIENCE = 10
INSTRUMENTORS: dict[str, Callable[[], Any]] = {
    "requests": RequestsInstrumentor,
    "urllib3": URLLib3Instrumentor,
}


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer(patience=PATIENCE) as server:
        server.scripts["/busy"] = Script((b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",), Ending.OPEN)
        server.scripts["/broken"] = Script((b"",), Ending.CLOSE)
        server.scripts["/moved"] = Script(
            (b"HTTP/1.1 302 Found\r\nLocation: /landed\r\nContent-Length: 0\r\n\r\n",), Ending.OPEN
        )
        yield server


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    """Where the spans of a test go."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


@pytest.fixture(params=INSTRUMENTORS)
def instrumented(request: pytest.FixtureRequest, spans: tuple[TracerProvider, InMemorySpanExporter]) -> Any:
    """Begins and ends the tracing by one of the instrumentors, and tells the client spans."""
    return Traced(INSTRUMENTORS[request.param](), *spans)


class Traced:
    def __init__(self, instrumentor: Any, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        self.provider = provider
        self._instrumentor = instrumentor
        self._exporter = exporter

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self._instrumentor.instrument(tracer_provider=self.provider)
        try:
            yield
        finally:
            self._instrumentor.uninstrument()

    def take(self) -> list[ReadableSpan]:
        taken = [span for span in self._exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
        self._exporter.clear()
        return taken


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    registry = ServiceRegistry()
    yield registry
    registry.close()


@pytest.fixture
def make_client(server: RawServer, registry: ServiceRegistry) -> Callable[[], ResilientServiceClient]:
    retry = RetryPolicy(backoff=fixed(0.1), jitter=0.0, budget=None)
    return lambda: ResilientServiceClient(
        server.url,
        registry=registry,
        clock=FakeClock(),
        timeout=PATIENCE,
        retry=retry,
        failure_threshold=1000,
    )


def warmed(client: ResilientServiceClient) -> ResilientServiceClient:
    number = 0
    while number < 2:
        _, number = whence(client.get("/warm"))
    return client


def traceparent(received: Received) -> str | None:
    """What a request tells of its trace."""
    for line in received.header_lines:
        name, _, value = line.partition(b": ")
        if name.lower() == b"traceparent":
            return value.decode()
    return None


def assert_told(spans: list[ReadableSpan], received: list[Received]) -> None:
    """Each request has told of a span of its own, in this order."""
    assert [(traceparent(each) or "")[: -len("-01")] for each in received] == [
        told_by(span) for span in spans
    ]


def test_begun_before_the_first_use(
    instrumented: Traced, make_client: Callable[[], ResilientServiceClient], server: RawServer
) -> None:
    """One span for each request, and its id on the wire."""
    with instrumented.on():
        client = warmed(make_client())
        instrumented.take()
        server.take()
        client.get("/a")
        client.post("/b", json={"b": 1})
        spans = instrumented.take()

    assert len(spans) == 2
    assert_told(spans, server.take())


def test_begun_and_ended_while_in_use(
    instrumented: Traced, make_client: Callable[[], ResilientServiceClient], server: RawServer
) -> None:
    """A client that sends the fast way steps aside at once, and takes it again afterwards."""
    client = warmed(make_client())
    for _ in range(2):
        server.take()
        with instrumented.on():
            assert client.get("/a").status_code == 200
            assert client.post("/b", data=b"x").status_code == 200
            assert client.get("/c", params={"d": "1"}).status_code == 200
            spans = instrumented.take()
        assert len(spans) == 3
        assert_told(spans, server.take())

        assert client.get("/after").status_code == 200
        assert not passes_urllib3(lambda: client.get("/after"))
        assert instrumented.take() == []
        assert [traceparent(each) for each in server.take()] == [None, None]


def test_each_attempt_is_a_span(
    instrumented: Traced, make_client: Callable[[], ResilientServiceClient], server: RawServer
) -> None:
    """Retries show in the trace, each with its status or error."""
    client = warmed(make_client())
    server.take()
    with instrumented.on():
        with pytest.raises(requests.HTTPError):
            client.get("/busy")
        busy = instrumented.take()
        with pytest.raises(requests.ConnectionError):
            client.post("/broken", json={})
        broken = instrumented.take()
    received = server.take()

    assert len(busy) == 3
    assert all(span.status.status_code is StatusCode.ERROR for span in (*busy, *broken))
    assert [status_of(span) for span in busy] == [503] * 3
    # On a connection that was in use, the first is sent once more: no attempt, but a request.
    assert len(broken) == 4
    assert_told([*busy, *broken], received)


def status_of(span: ReadableSpan) -> object:
    attributes = span.attributes or {}
    return attributes.get("http.response.status_code", attributes.get("http.status_code"))


def told_by(span: ReadableSpan) -> str:
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"


def test_spans_are_children(
    instrumented: Traced, make_client: Callable[[], ResilientServiceClient], server: RawServer
) -> None:
    """A span of the caller's is the parent of all that is sent below it."""
    client = warmed(make_client())
    server.take()
    with (
        instrumented.on(),
        get_tracer("test", tracer_provider=instrumented.provider).start_as_current_span("up") as up,
    ):
        client.get("/a")
        client.get("/b")
    spans = instrumented.take()

    assert [span.parent.span_id if span.parent else None for span in spans] == [
        up.get_span_context().span_id
    ] * 2
    assert_told(spans, server.take())


def test_redirects(
    instrumented: Traced, make_client: Callable[[], ResilientServiceClient], server: RawServer
) -> None:
    """A redirect is a request of its own."""
    client = warmed(make_client())
    server.take()
    with instrumented.on():
        assert client.get("/moved").text.endswith(" /landed")
        spans = instrumented.take()

    assert [status_of(span) for span in spans] == [302, 200]
    assert [each.target for each in server.take()] == ["/moved", "/landed"]


def test_trace_of_the_inbound_request(
    instrumented: Traced, make_client: Callable[[], ResilientServiceClient], server: RawServer
) -> None:
    """An instrumentor's own traceparent goes out, once, also where the inbound request brought one."""
    client = warmed(make_client())
    server.take()
    inbound = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    token = bind_context(request_id="r", trace={"traceparent": inbound})
    try:
        client.get("/without")
        with instrumented.on():
            client.get("/with")
    finally:
        unbind_context(token)
    without, traced = server.take()

    assert traceparent(without) == inbound
    assert_told(instrumented.take(), [traced])
    assert sum(line.lower().startswith(b"traceparent:") for line in traced.header_lines) == 1


def test_bare_session(instrumented: Traced, server: RawServer) -> None:
    """A session of ours without a client is traced like any other."""
    with fast_session() as session:
        warm(session, server)
        server.take()
        with instrumented.on():
            session.get(server.url + "/a", timeout=PATIENCE)
            session.put(server.url + "/b", data=b"x", timeout=PATIENCE)
            spans = instrumented.take()
        assert len(spans) == 2
        assert_told(spans, server.take())
        assert not passes_urllib3(lambda: session.get(server.url + "/a", timeout=PATIENCE))


def test_both_at_once(
    spans: tuple[TracerProvider, InMemorySpanExporter],
    make_client: Callable[[], ResilientServiceClient],
    server: RawServer,
) -> None:
    """Both instrumentors together: requests' span stands for a request, as it does with a stock session."""
    client = warmed(make_client())
    traced = [Traced(make(), *spans) for make in INSTRUMENTORS.values()]

    def count(call: Callable[[], requests.Response]) -> int:
        call()
        return len(traced[0].take())

    with traced[0].on(), traced[1].on(), requests.Session() as stock:
        ours = count(lambda: client.get("/a"))
        assert ours == count(lambda: stock.get(server.url + "/a", timeout=PATIENCE)) >= 1
    assert count(lambda: client.get("/a")) == 0


def test_hooks_of_the_instrumentor(
    spans: tuple[TracerProvider, InMemorySpanExporter],
    make_client: Callable[[], ResilientServiceClient],
) -> None:
    """Request and response hooks get what they get with a stock session."""
    client = warmed(make_client())
    seen: list[object] = []
    RequestsInstrumentor().instrument(
        tracer_provider=spans[0],
        request_hook=lambda span, request: seen.append(request.url),
        response_hook=lambda span, request, response: seen.append((response.status_code, response.text[-2:])),
    )
    try:
        client.get("/a")
    finally:
        RequestsInstrumentor().uninstrument()

    assert seen == [client.base_url + "/a", (200, "/a")]
