"""Each metric, and what makes it move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests

from service_utils import (
    BreakerConfig,
    FallbackChain,
    ResilientServiceClient,
    RetryBudget,
    RetryPolicy,
    ServiceRegistry,
    ServiceUnavailable,
)
from service_utils.dead_letters import DeadLetterQueue, DeadLetterWorker, MemoryDeadLetters
from service_utils.degradation import DegradationLevel, DegradationMonitor, Rule, is_open
from service_utils.health import HealthChecker
from service_utils.integrations.prometheus import Metrics
from service_utils.integrations.prometheus import names as specs
from service_utils.integrations.prometheus.names import Spec
from service_utils.testing import Answer, FakeClock, FaultServer, reset_connection, undecodable_gzip
from tests.integrations.prometheus.pages import Page, check_openmetrics, listening, page_of

CONTRACT = {
    "circuit_breaker_requests_total": ("counter", {"service", "outcome"}),
    "circuit_breaker_state": ("gauge", {"service", "state"}),
    "circuit_breaker_failures_total": ("counter", {"service", "error_type"}),
    "circuit_breaker_response_time": ("histogram", {"service"}),
    "circuit_breaker_transitions_total": ("counter", {"service", "from_state", "to_state"}),
    "retry_attempts_total": ("counter", {"service"}),
    "retry_delay_seconds": ("histogram", {"service"}),
    "retry_budget_exhausted_total": ("counter", {"service"}),
    "bulkhead_in_flight": ("gauge", {"service"}),
    "bulkhead_rejected_total": ("counter", {"service"}),
    "health_check_duration_seconds": ("histogram", {"check"}),
    "health_check_status": ("gauge", {"check"}),
    "health_check_total": ("counter", {"check", "status"}),
    "system_degradation_level": ("gauge", set()),
    "degradation_events_total": ("counter", {"from_level", "to_level"}),
    "fallback_usage_total": ("counter", {"service", "pattern", "strategy", "status"}),
    "dlq_messages_total": ("gauge", {"service", "status"}),
    "dlq_messages_added_total": ("counter", {"service"}),
    "dlq_processing_duration_seconds": ("histogram", {"service"}),
}


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    made = ServiceRegistry()
    yield made
    made.close()


@pytest.fixture
def client(registry: ServiceRegistry, fault_server: FaultServer) -> ResilientServiceClient:
    """Gives up at once."""
    return ResilientServiceClient(
        fault_server.url, "Chroma Server", max_retries=1, name="chroma", registry=registry, bulkhead=1
    )


def quick(attempts: int, **fields: object) -> RetryPolicy:
    return RetryPolicy(max_attempts=attempts, backoff=lambda _: 0.001, jitter=0.0, **fields)  # type: ignore[arg-type]


def call(client: ResilientServiceClient, times: int = 1) -> None:
    for _ in range(times):
        with suppress(requests.RequestException):
            client.get("/query")


def test_every_metric_of_the_contract_is_there(registry: ServiceRegistry) -> None:
    """Names, types and labels are those that dashboards and rules go by, and there are no others."""
    declared = {each.name: set(each.labels) for each in vars(specs).values() if isinstance(each, Spec)}
    expected = {}
    for name, (kind, labels) in CONTRACT.items():
        expected[name.removesuffix("_total") if kind == "counter" else name] = labels
    assert declared == expected
    checker = HealthChecker()
    checker.register("index", lambda: True)
    queue = DeadLetterQueue(MemoryDeadLetters(), registry=registry)
    monitor = DegradationMonitor(registry, [Rule(DegradationLevel.MINOR, is_open("chroma"), "away")])
    metrics = Metrics(registry, degradation=monitor, dead_letters=queue, health=checker)
    types = page_of(metrics).types
    for name, (kind, _) in CONTRACT.items():
        assert types[name.removesuffix("_total") if kind == "counter" else name] == kind
    assert len(types) == len(CONTRACT)


def test_calls_by_their_outcome(
    registry: ServiceRegistry, client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """Successes, failures and refusals are counted apart, and are those of the status."""
    with listening(Metrics(registry)) as page:
        fault_server.script(Answer(200), Answer(503), Answer(404))
        call(client, 3)
        client.breaker.force_open("maintenance")
        call(client, 4)
        shown = page()
    counted = shown.of("circuit_breaker_requests_total")
    assert counted == {("success", "chroma"): 2, ("failure", "chroma"): 1, ("rejected", "chroma"): 4}
    told = client.get_status()["requests"]
    assert (told["succeeded"], told["failed"], told["rejected"]) == (2, 1, 4)


def test_a_call_that_is_ignored(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """An answer that is too long for us is neither a success nor the service's failure."""
    client = ResilientServiceClient(fault_server.url, "Chroma", registry=registry, max_response_bytes=10)
    fault_server.script(Answer(200, b"x" * 100))
    with listening(Metrics(registry)) as page:
        call(client)
        assert page().of("circuit_breaker_requests_total") == {("ignored", "chroma"): 1}


def test_a_mistake_of_the_caller_is_no_call(
    registry: ServiceRegistry, client: ResilientServiceClient
) -> None:
    """What was never tried for a fault of our own is not in the numbers."""
    with listening(Metrics(registry)) as page:
        with pytest.raises(ValueError, match="path"):
            client.get("//elsewhere/query")
        assert page().of("circuit_breaker_requests_total") == {}


def test_an_open_circuit_refuses_writes_and_reads(
    registry: ServiceRegistry, client: ResilientServiceClient
) -> None:
    """Each refused call is counted once, whichever way it went."""
    client.breaker.force_open("maintenance")
    with listening(Metrics(registry)) as page:
        for refused in (client.get, client.post):
            with pytest.raises(ServiceUnavailable):
                refused("/query")
        assert page().value("circuit_breaker_requests_total", service="chroma", outcome="rejected") == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Answer(503), "http_503"),
        (Answer(500), "http_500"),
        (Answer(429), "http_429"),
        (reset_connection(), "connection"),
        (undecodable_gzip(), "body"),
    ],
    ids=["503", "500", "429", "broken connection", "broken body"],
)
def test_kinds_of_failures(
    registry: ServiceRegistry, fault_server: FaultServer, fault: object, kind: str
) -> None:
    """Operators see how a service fails."""
    client = ResilientServiceClient(fault_server.url, "Chroma", max_retries=1, registry=registry)
    fault_server.script(fault, fault)  # type: ignore[arg-type]
    with listening(Metrics(registry)) as page:
        call(client)
        assert page().of("circuit_breaker_failures_total") == {(kind, "chroma"): 1}


def test_response_times(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """One duration for each call that made attempts: that of the longest."""
    client = ResilientServiceClient(fault_server.url, "Chroma", retry=quick(3), registry=registry)
    fault_server.script(Answer(503), Answer(503))
    with listening(Metrics(registry)) as page:
        response = client.get("/query")
        client.breaker.force_open("maintenance")
        call(client)
        shown = page()
    longest = max(each.duration for each in response.call.attempts)
    assert shown.value("circuit_breaker_response_time_count", service="chroma") == 1
    assert shown.value("circuit_breaker_response_time_sum", service="chroma") == pytest.approx(longest)


def test_states_are_one_hot(registry: ServiceRegistry, client: ResilientServiceClient) -> None:
    """Exactly one state of a circuit is 1, and it follows the circuit without any event."""
    metrics = Metrics(registry)
    for change, state in (
        (lambda: None, "closed"),
        (lambda: client.breaker.force_open("x"), "forced_open"),
        (lambda: client.breaker.disable("x"), "disabled"),
        (client.reset, "closed"),
    ):
        change()
        found = page_of(metrics).of("circuit_breaker_state")
        assert found == {("chroma", state): 1}


def test_transitions(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """An outage and its end: opened, tried, closed."""
    clock = FakeClock()
    client = ResilientServiceClient(
        fault_server.url,
        "Chroma",
        max_retries=1,
        registry=registry,
        clock=clock,
        breaker=BreakerConfig(failure_threshold=2, recovery_timeout=10.0),
    )
    fault_server.script(Answer(503), Answer(503))
    with listening(Metrics(registry)) as page:
        call(client, 2)
        clock.advance(11.0)
        call(client)
        assert page().of("circuit_breaker_transitions_total") == {
            ("closed", "chroma", "open"): 1,
            ("open", "chroma", "half_open"): 1,
            ("half_open", "chroma", "closed"): 1,
        }


def test_what_another_process_did_is_counted_there(registry: ServiceRegistry) -> None:
    """A change that this process only learns of counts in the process that made it."""
    from service_utils.policies.store import MemoryBreakerStore

    store = MemoryBreakerStore()
    one, other = ServiceRegistry(), registry
    for each in (one, other):
        ResilientServiceClient("http://127.0.0.1:1", "Chroma", store=store, registry=each)
    with listening(Metrics(other)) as page:
        one["chroma"].breaker.force_open("maintenance")
        shown = page()
    one.close()
    assert shown.of("circuit_breaker_state") == {("chroma", "forced_open"): 1}
    assert shown.of("circuit_breaker_transitions_total") == {("closed", "chroma", "forced_open"): 1}


def test_retries(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """Attempts after the first, and how long calls waited for them."""
    client = ResilientServiceClient(fault_server.url, "Chroma", retry=quick(3), registry=registry)
    fault_server.script(Answer(503), Answer(503))
    with listening(Metrics(registry)) as page:
        call(client)
        shown = page()
    assert shown.value("retry_attempts_total", service="chroma") == 2
    assert shown.value("retry_delay_seconds_count", service="chroma") == 2
    assert shown.value("retry_delay_seconds_sum", service="chroma") == pytest.approx(0.002)


def test_an_empty_retry_budget(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """Calls that make no further attempt on its account are counted."""
    policy = quick(3, budget=RetryBudget(ratio=0.0, capacity=1.0))
    client = ResilientServiceClient(fault_server.url, "Chroma", retry=policy, registry=registry)
    fault_server.script(*[Answer(503)] * 5)
    with listening(Metrics(registry)) as page:
        call(client, 2)
        assert page().value("retry_budget_exhausted_total", service="chroma") == 2


def test_bulkheads(registry: ServiceRegistry, client: ResilientServiceClient) -> None:
    """Slots that are taken now, and callers that got none."""
    assert client.bulkhead is not None
    with listening(Metrics(registry)) as page, client.bulkhead.acquire():
        call(client)
        shown = page()
    assert shown.value("bulkhead_in_flight", service="chroma") == 1
    assert shown.value("bulkhead_rejected_total", service="chroma") == 1
    assert shown.value("circuit_breaker_requests_total", service="chroma", outcome="rejected") == 1
    assert page_of(Metrics(registry)).value("bulkhead_in_flight", service="chroma") == 0


def test_health_checks(registry: ServiceRegistry) -> None:
    """Results and times of checks; to look at the page runs none."""
    ran = []
    checker = HealthChecker(cache_seconds=0.0)
    checker.register("index", lambda: bool(ran.append("index")))
    checker.register("disk", lambda: "degraded")
    checker.register("memory", lambda: True)
    with listening(Metrics(registry, health=checker)) as page:
        assert page().of("health_check_total") == {}
        assert ran == []
        checker.check_all()
        shown = page()
    assert len(ran) == 1
    assert [shown.value("health_check_status", check=each) for each in ("index", "disk", "memory")] == [
        0.0,
        0.5,
        1.0,
    ]
    assert shown.of("health_check_total") == {
        ("index", "unhealthy"): 1,
        ("disk", "degraded"): 1,
        ("memory", "healthy"): 1,
    }
    assert shown.value("health_check_duration_seconds_count", check="disk") == 1


def test_degradation(registry: ServiceRegistry, client: ResilientServiceClient) -> None:
    """The level as a number, and how it came to that."""
    rule = Rule(DegradationLevel.SEVERE, is_open("chroma"), "Chroma away")
    monitor = DegradationMonitor(registry, [rule])
    with listening(Metrics(registry, degradation=monitor)) as page:
        assert page().value("system_degradation_level") == 0
        client.breaker.force_open("maintenance")
        monitor.evaluate()
        shown = page()
    assert shown.value("system_degradation_level") == 3
    assert shown.of("degradation_events_total") == {("normal", "severe"): 1}


def test_fallbacks(registry: ServiceRegistry, client: ResilientServiceClient) -> None:
    """Which pattern stepped in for which service, with what and how it went."""
    client.breaker.force_open("maintenance")
    chain = FallbackChain("answer", [lambda: client.get("/query"), ("canned", lambda: "none")])
    with listening(Metrics(registry)) as page:
        assert chain.run()[0] == "none"
        found = page().of("fallback_usage_total")
    assert found == {("chain", "chroma", "success", "canned"): 1}


def test_dead_letters(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """Letters that are kept, those that were added, and how long attempts took."""
    queue = DeadLetterQueue(MemoryDeadLetters(), registry=registry)
    ResilientServiceClient(fault_server.url, "Git", name="git", max_retries=1, registry=registry)
    with listening(Metrics(registry, dead_letters=queue)) as page:
        queue.add("git", "POST", "/snapshot/p1", json={})
        queue.add("git", "POST", "/snapshot/p2", json={})
        assert page().of("dlq_messages_total") == {("git", "pending"): 2}
        fault_server.script(Answer(200), Answer(422))
        DeadLetterWorker(queue, registry).run_once()
        shown = page()
        queue.purge()
        purged = page()
    assert shown.of("dlq_messages_total") == {("git", "dead"): 1}
    assert shown.value("dlq_messages_added_total", service="git") == 2
    assert shown.value("dlq_processing_duration_seconds_count", service="git") == 2
    assert purged.value("dlq_processing_duration_seconds_count", service="git") == 2


def test_what_cannot_be_found_out_is_left_out(
    registry: ServiceRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue whose file is locked takes no other metric with it."""

    class Locked:
        def stats(self) -> dict[str, object]:
            raise OSError("database is locked")

    ResilientServiceClient("http://127.0.0.1:1", "Chroma", registry=registry)
    shown = page_of(Metrics(registry, dead_letters=Locked()))
    assert shown.of("circuit_breaker_state") == {("chroma", "closed"): 1}
    assert "dlq_messages_total" not in shown.names()
    assert "A metric cannot be found out" in caplog.text


def test_clients_begin_at_zero(registry: ServiceRegistry, client: ResilientServiceClient) -> None:
    """The first failure is a rise: before it there is a 0, and not nothing."""
    shown = page_of(Metrics(registry))
    for outcome in ("success", "failure", "ignored", "rejected"):
        assert shown.value("circuit_breaker_requests_total", service="chroma", outcome=outcome) == 0
    assert shown.value("retry_budget_exhausted_total", service="chroma") == 0


def test_stopped_metrics_count_no_more(registry: ServiceRegistry, client: ResilientServiceClient) -> None:
    """What was counted stays; to listen twice counts once."""
    metrics = Metrics(registry)
    metrics.listen()
    metrics.listen()
    call(client)
    metrics.stop()
    metrics.stop()
    call(client)
    assert page_of(metrics).value("circuit_breaker_requests_total", service="chroma", outcome="success") == 1


def test_both_formats_are_valid(registry: ServiceRegistry, client: ResilientServiceClient) -> None:
    """The classic text and OpenMetrics, also with a gauge that is called like a counter."""
    queue = DeadLetterQueue(MemoryDeadLetters(), registry=registry)
    metrics = Metrics(registry, dead_letters=queue)
    with listening(metrics):
        call(client)
        body, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        check_openmetrics(body)
        body, content_type = metrics.exposition("text/html, */*")
        assert content_type.startswith("text/plain")
        assert Page(body.decode()).types["dlq_messages_total"] == "gauge"
        assert b"_created" not in body


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=x", "text/plain; version=", ";;", "\x00"]
)
def test_strange_wishes(registry: ServiceRegistry, accept: str) -> None:
    """Whatever Accept says, there is a page."""
    assert Metrics(registry).exposition(accept)[0]


@pytest.mark.parametrize("name", ["registry", "degradation", "health", "besides", "dead_letters"])
def test_arguments_of_a_wrong_type(name: str) -> None:
    """The error names the argument and the value."""
    with pytest.raises(TypeError, match=f"{name}='no'"):
        Metrics(**{name: "no"})  # type: ignore[arg-type]
