"""How events are counted: cheaply, never raising, bounded, and apart from what other processes do."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry, Counter

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.events import CallsPaused, DeadLetterAdded, FallbackUsed, HealthChecked, notify
from service_utils.http.context import bind_context, unbind_context
from service_utils.integrations.flask import ServiceUtils
from service_utils.integrations.prometheus import Metrics
from service_utils.integrations.prometheus.alone import Alone
from service_utils.integrations.prometheus.counting import Counts
from service_utils.integrations.prometheus.family import MOST
from service_utils.testing import Answer, FaultServer
from tests.forked import in_child
from tests.integrations.prometheus.pages import listening, page_of

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    made = ServiceRegistry()
    yield made
    made.close()


def fallback(strategy: str, name: str = "chroma") -> FallbackUsed:
    return FallbackUsed(
        service="Chroma",
        name=name,
        at=0.0,
        pattern="best_effort",
        strategy=strategy,
        status="skipped",
        reason="x",
    )


def letter(name: str) -> DeadLetterAdded:
    return DeadLetterAdded(service=name, name=name, at=0.0, letter_id="1", method="POST", path="/")


def check(name: str) -> HealthChecked:
    """An event that is not logged."""
    return HealthChecked(service="health", name="health", at=0.0, check=name, status="healthy", duration=0.1)


def test_names_made_of_ids_do_not_fill_the_memory(registry: ServiceRegistry) -> None:
    """However many strategies or message types somebody invents, the rest is one: other."""
    with listening(Metrics(registry)) as page:
        for number in range(MOST + 50):
            notify((), fallback(f"snapshot {number}"))
            notify((), letter(f"message-{number}"))
        shown = page()
    strategies = shown.of("fallback_usage_total")
    assert len(strategies) == MOST + 1
    assert strategies["best_effort", "other", "skipped", "other"] == 50
    assert shown.value("dlq_messages_added_total", service="other") == 50


def test_kept_letters_of_very_many_types(registry: ServiceRegistry) -> None:
    """Types of messages come from outside; beyond a bound they are shown as one, and the sum is right."""

    class Letters:
        def stats(self) -> dict[str, object]:
            return {"services": {f"type-{each}": {"pending": 1, "dead": 2} for each in range(400)}}

    found = page_of(Metrics(registry, dead_letters=Letters())).of("dlq_messages_total")
    assert len(found) < MOST
    assert sum(value for (_, status), value in found.items() if status == "dead") == 800
    assert ("other", "dead") in found


def test_no_path_and_no_id_is_a_label(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """What users ask for is not in the metrics."""
    client = ResilientServiceClient(fault_server.url, "Chroma", registry=registry)
    with listening(Metrics(registry)) as page:
        client.get("/users/{id}/secret-path", path_params={"id": "alice-4711"})
        text = page().text
    assert "secret-path" not in text
    assert "alice-4711" not in text


def test_two_applications_in_one_process(fault_server: FaultServer) -> None:
    """Each page shows its own circuits, and the counts of the process, each call once."""
    pages = {}
    registries = {"one": ServiceRegistry(), "two": ServiceRegistry()}
    for name, registry in registries.items():
        app = Flask(name)
        ServiceUtils(app, registry=registry, metrics=Metrics(registry), record=False)
        ResilientServiceClient(fault_server.url, name, registry=registry).get("/query")
        pages[name] = app.test_client()
    for name, page in pages.items():
        text = page.get("/metrics").text
        assert f'circuit_breaker_state{{service="{name}",state="closed"}} 1.0' in text
        assert text.count('state="closed"} 1.0') == 1
        assert f'circuit_breaker_requests_total{{outcome="success",service="{name}"}} 1.0' in text
    for registry in registries.values():
        registry.close()


def test_metrics_that_are_dropped_listen_no_more() -> None:
    """An application that is thrown away leaves no listener behind."""
    app = Flask("dropped")
    ServiceUtils(app, registry=ServiceRegistry(), metrics=Metrics(ServiceRegistry()), record=False)
    metrics = weakref.ref(app.extensions["service_utils"].options.metrics)
    counts = weakref.ref(metrics()._counts)  # type: ignore[union-attr]
    del app
    gc.collect()
    assert metrics() is None
    notify((), check("disk"))  # those who tell look for listeners anew
    gc.collect()
    assert counts() is None


def test_metrics_of_ones_own_on_the_same_page(registry: ServiceRegistry) -> None:
    """A registry of prometheus_client is shown besides, and ours can be put on its page."""
    own = CollectorRegistry()
    Counter("orders", "Orders", registry=own).inc(3)
    assert page_of(Metrics(registry, besides=own)).value("orders_total") == 3
    own.register(Metrics(registry))
    names = {family.name for family in own.collect()}
    assert {"orders", "circuit_breaker_requests", "circuit_breaker_state"} <= names


def test_exemplars(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """OpenMetrics leads from a count to the trace of a request that was counted; the classic text cannot."""
    client = ResilientServiceClient(fault_server.url, "Chroma", max_retries=1, registry=registry)
    metrics = Metrics(registry)
    fault_server.script(Answer(503))
    token = bind_context(trace={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    try:
        with listening(metrics), pytest.raises(Exception, match="503"):
            client.get("/query")
    finally:
        unbind_context(token)
    body = metrics.exposition("application/openmetrics-text")[0].decode()
    marked = {line.partition("{")[0] for line in body.splitlines() if f'# {{trace_id="{TRACE}"}}' in line}
    assert marked == {
        "circuit_breaker_requests_total",
        "circuit_breaker_failures_total",
        "circuit_breaker_response_time_bucket",
    }
    assert TRACE not in metrics.exposition()[0].decode()


@pytest.mark.parametrize("trace", ["", "00", "00-short-b7ad6b7169203331-01", "x" * 300])
def test_a_trace_that_is_none(registry: ServiceRegistry, fault_server: FaultServer, trace: str) -> None:
    """A header that somebody has made up counts without an example."""
    client = ResilientServiceClient(fault_server.url, "Chroma", registry=registry)
    metrics = Metrics(registry)
    token = bind_context(trace={"traceparent": trace})
    with listening(metrics):
        client.get("/query")
    unbind_context(token)
    assert page_of(metrics).value("circuit_breaker_requests_total", service="chroma", outcome="success") == 1
    assert "trace_id" not in metrics.exposition("application/openmetrics-text")[0].decode()


def test_trouble_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing can be counted calls go on, and there is one line and not one for each of them."""
    counts = Counts()
    monkeypatch.setattr(counts._fallbacks, "_metric", None)  # stands for a disk that is full
    for number in range(20):
        counts(fallback(f"strategy {number}"))
    counts(letter("git"))
    said = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(said) == 1
    assert "Metrics cannot be counted" in said[0].getMessage()
    assert [each.samples[0].value for each in counts._dlq_added.collect()] == [1.0]


def test_an_event_that_is_no_number_is_passed_over() -> None:
    """Events that no metric is made of cost a look into a table."""
    counts = Counts()
    before = [each.samples for each in counts.collect()]
    counts(CallsPaused(service="Chroma", name="chroma", at=0.0, seconds=3.0))
    assert [each.samples for each in counts.collect()] == before


def test_whoever_comes_in_between_is_put_off() -> None:
    """The garbage collector may end a call while another is counted in the same thread: both are counted."""
    alone, done = Alone(), []

    def outer() -> None:
        alone.do(done.append, "inner")
        assert done == []
        done.append("outer")

    alone.do(outer)
    assert done == ["outer", "inner"]
    with pytest.raises(RuntimeError, match="in the middle"):
        alone.get(lambda: alone.get(lambda: None))
    alone.do(done.append, "later")
    assert done[-1] == "later"


def test_an_interrupt_leaves_the_door_open() -> None:
    """Ctrl-C in the middle of counting does not end counting for ever."""
    alone, done = Alone(), []

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alone.do(interrupted)
    alone.do(done.append, 1)
    assert done == [1]


def test_counts_of_many_threads_add_up(registry: ServiceRegistry) -> None:
    """None is lost, also while the page is read."""
    with listening(Metrics(registry)) as page:
        gate = threading.Barrier(9)

        def many() -> None:
            gate.wait()
            for _ in range(500):
                notify((), check("disk"))

        threads = [threading.Thread(target=many) for _ in range(8)]
        for thread in threads:
            thread.start()
        gate.wait()
        while any(thread.is_alive() for thread in threads):
            page()
        for thread in threads:
            thread.join()
        assert page().value("health_check_duration_seconds_count", check="disk") == 4000


def test_a_forked_child_begins_at_zero(registry: ServiceRegistry) -> None:
    """What the parent has counted is the parent's, and its threads hold nothing that the child waits for."""
    metrics = Metrics(registry)
    stop = threading.Event()

    def count_on() -> None:
        while not stop.is_set():
            notify((), check("disk"))

    def child() -> tuple[float | None, float | None]:
        before = page_of(metrics).get("health_check_duration_seconds_count", check="disk")
        notify((), check("disk"))
        return before, page_of(metrics).get("health_check_duration_seconds_count", check="disk")

    with listening(metrics):
        thread = threading.Thread(target=count_on)
        thread.start()
        try:
            for _ in range(5):
                assert in_child(child) == (None, 1.0)
        finally:
            stop.set()
            thread.join()
