"""The circuit breaker seen through the client: it stands outside the retries, one call is one result."""

from __future__ import annotations

import threading

import pytest
import requests

from service_utils import CircuitOpenError, EndReason, ResilientServiceClient, ServiceUnavailable, call_of
from service_utils.testing import Answer, FakeClock, FaultServer, RecordedRequest, close_connection

from .conftest import MakeClient


def fail(client: ResilientServiceClient, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(requests.RequestException):
            client.get("/x")


def test_one_call_is_one_result(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Three failed attempts of one call count once."""
    fault_server.default = Answer(500)

    fail(client)

    assert len(fault_server.requests) == 3
    assert client.get_status()["failure_count"] == 1


def test_opens_at_the_threshold_and_leaves_the_service_alone(
    make_client: MakeClient, fault_server: FaultServer
) -> None:
    """After five failed calls nothing reaches the service any more."""
    fault_server.default = Answer(500)
    client = make_client(fault_server.url, max_retries=1)
    fail(client, 5)
    seen = len(fault_server.requests)

    with pytest.raises(CircuitOpenError) as caught:
        client.get("/x")

    assert len(fault_server.requests) == seen
    assert client.state.value == "open"
    assert isinstance(caught.value, ServiceUnavailable)
    assert caught.value.cooldown_remaining == caught.value.retry_after == 60.0


def test_success_forgets_failures(make_client: MakeClient, fault_server: FaultServer) -> None:
    """Only consecutive failures open the circuit."""
    client = make_client(fault_server.url, max_retries=1)
    fault_server.script(*[Answer(500)] * 4, Answer(200), *[Answer(500)] * 4)

    fail(client, 4)
    client.get("/x")
    fail(client, 4)

    assert client.state.value == "closed"


def test_recovers_by_one_probe(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """After the recovery time one call may try; its success closes the circuit."""
    client = make_client(fault_server.url, max_retries=1, failure_threshold=1, recovery_timeout=30)
    fault_server.script(Answer(500), Answer(200))
    fail(client)
    fake_clock.advance(30.001)

    assert client.state.value == "open"
    assert client.get("/x").status_code == 200
    assert client.state.value == "closed"


def test_probe_is_one_attempt_without_waiting(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A failed probe is not retried, opens the circuit again and restarts its time."""
    client = make_client(fault_server.url, failure_threshold=1, recovery_timeout=30)
    fault_server.default = Answer(500)
    fail(client)
    fake_clock.advance(30.001)
    before, slept = len(fault_server.requests), len(fake_clock.slept)

    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x")

    assert call_of(caught.value).ended is EndReason.HALF_OPEN
    assert len(fault_server.requests) == before + 1
    assert len(fake_clock.slept) == slept
    assert client.get_status()["cooldown_remaining"] == pytest.approx(30.0)


def test_sixty_four_threads_at_a_half_open_circuit_are_one_probe(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """One thread probes the service; the others are refused at once."""
    client = make_client(fault_server.url, failure_threshold=1, max_retries=1)
    fault_server.script(close_connection())
    fail(client)
    fake_clock.advance(61)
    arrived, go_on = threading.Event(), threading.Event()
    barrier = threading.Barrier(64)
    answers: list[str] = []

    def answer(request: RecordedRequest) -> Answer:
        arrived.set()
        go_on.wait(10)
        return Answer(200)

    def call() -> None:
        barrier.wait()
        try:
            client.get("/probe")
            answers.append("answered")
        except CircuitOpenError:
            answers.append("refused")
        if len(answers) >= 63:
            go_on.set()

    fault_server.handler = answer
    threads = [threading.Thread(target=call) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(answers) == ["answered"] + ["refused"] * 63
    assert len(fault_server.requests) == 2
    assert client.state.value == "closed"


def test_late_result_of_an_earlier_state(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A call that set out while the circuit was closed cannot close it when its answer comes late."""
    client = make_client(fault_server.url, failure_threshold=1, max_retries=1)
    arrived, go_on = threading.Event(), threading.Event()

    def answer(request: RecordedRequest) -> Answer:
        if request.path == "/slow":
            arrived.set()
            go_on.wait(10)
            return Answer(200)
        return Answer(500)

    fault_server.handler = answer
    slow = threading.Thread(target=client.get, args=("/slow",))
    slow.start()
    assert arrived.wait(10)
    fail(client)
    fake_clock.advance(10)
    go_on.set()
    slow.join(10)

    assert client.state.value == "open"
    assert client.get_status()["cooldown_remaining"] == pytest.approx(50.0)


def test_retry_after_lengthens_the_open_time(make_client: MakeClient, fault_server: FaultServer) -> None:
    """The service that names its own return time is left alone until then."""
    fault_server.default = Answer(503, headers={"Retry-After": "45"})
    client = make_client(fault_server.url, failure_threshold=1, recovery_timeout=10, max_retries=1)

    fail(client)

    assert client.get_status()["cooldown_remaining"] == 45.0


def test_probe_may_take_as_long_as_an_attempt(make_client: MakeClient) -> None:
    """A client's probe does not expire before its own time-out could end it."""
    assert make_client(timeout=30, recovery_timeout=5).breaker.config.probe_seconds == 31.0
    assert make_client(timeout=(3, 10), recovery_timeout=5).breaker.config.probe_seconds == 14.0
    assert make_client(timeout=3, recovery_timeout=60).breaker.config.probe_seconds == 60.0


def test_breakers_can_be_switched_off(
    make_client: MakeClient, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIRCUIT_BREAKER_ENABLED=false lets everything pass, still counted."""
    monkeypatch.setenv("CIRCUIT_BREAKER_ENABLED", "false")
    fault_server.default = Answer(500)
    client = make_client(fault_server.url, failure_threshold=1, max_retries=1)

    fail(client, 3)

    assert client.state.value == "disabled"
    assert client.get_status()["failure_count"] == 3


def test_reset_closes_by_hand(make_client: MakeClient, fault_server: FaultServer) -> None:
    """An operator's reset lets calls through at once."""
    client = make_client(fault_server.url)
    client.breaker.force_open("maintenance")
    client.reset()

    assert client.get("/x").status_code == 200
