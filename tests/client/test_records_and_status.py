"""What a call leaves behind: its record, the client's status, log lines and events."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from typing import Any

import pytest
import requests

from service_utils import (
    CircuitOpenError,
    EndReason,
    Event,
    Outcome,
    ResilientServiceClient,
    RetryPolicy,
    ServiceRegistry,
    call_of,
    fixed,
)
from service_utils.dead_letters import DeadLetterQueue, MemoryDeadLetters
from service_utils.testing import Answer, FakeClock, FaultServer, RecordedRequest, close_connection

from .conftest import MakeClient

STATUS_KEYS = {
    "service", "name", "state", "failure_count", "failure_threshold", "last_failure", "last_success",
    "last_state_change", "recovery_timeout", "cooldown_remaining", "base_url", "requests", "latency_ms",
    "opened_count", "mttr_seconds", "last_error",
}  # fmt: skip


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "service_utils"]


# -- records -----------------------------------------------------------------------------------------------


def test_record_of_a_failed_write_can_be_replayed(make_client: MakeClient, fault_server: FaultServer) -> None:
    """What a dead letter needs is there: method, path, body, headers without credentials, key."""
    fault_server.default = Answer(503)
    client = make_client(
        fault_server.url + "/api", headers={"X-Api-Key": "s3cret", "X-Tenant": "7"}, max_retries=1
    )

    with pytest.raises(requests.HTTPError) as caught:
        client.post(
            "/pay?dry=1",
            json={"amount": 5},
            auth=("u", "s3cret"),
            cookies={"c": "s3cret"},
            idempotency_key="k-1",
        )

    replay = call_of(caught.value).replay
    assert replay is not None
    assert (replay.method, replay.path, replay.body) == ("POST", "/pay?dry=1", b'{"amount": 5}')
    assert replay.idempotency_key == "k-1"
    assert replay.headers["X-Tenant"] == "7"
    assert "s3cret" not in repr(replay)
    assert "s3cret" not in repr(caught.value) + repr(call_of(caught.value))


def test_reads_and_successes_have_nothing_to_replay(
    client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """Only a failed write is worth keeping."""
    assert call_of(client.post("/x", json={})).replay is None
    fault_server.default = Answer(501)
    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x")
    assert call_of(caught.value).replay is None


def test_errors_survive_pickle_and_copy(make_client: MakeClient, fault_server: FaultServer) -> None:
    """An error sent to another process keeps its message, fields and record."""
    client = make_client(fault_server.url)
    client.breaker.force_open("test")
    with pytest.raises(CircuitOpenError) as caught:
        client.post("/x", json={"a": 1})

    for twin in (
        pickle.loads(pickle.dumps(caught.value)),
        copy.copy(caught.value),
        copy.deepcopy(caught.value),
    ):
        assert (str(twin), twin.service, twin.cooldown_remaining) == (str(caught.value), "Service", 0.0)
        assert call_of(twin) == call_of(caught.value)
        assert call_of(twin).replay == call_of(caught.value).replay


def test_response_without_a_record() -> None:
    """call_of says when something did not come from a client."""
    with pytest.raises(ValueError, match="no call record"):
        call_of(requests.Response())


@pytest.mark.parametrize(("method", "text"), [("get", "GET"), ("post", "POST")])
def test_error_reads_like_a_sentence(
    method: str, text: str, make_client: MakeClient, fault_server: FaultServer
) -> None:
    """Service, method, path, attempts and last cause, for an operator; no secret from the query."""
    fault_server.default = Answer(500)
    client = make_client(fault_server.url, "Chroma Server")

    with pytest.raises(requests.HTTPError) as caught:
        getattr(client, method)("/query?key=s3cret")

    assert str(caught.value) == f"Chroma Server: {text} /query failed after 3 attempts: status 500"


def test_raise_for_status(make_client: MakeClient, fault_server: FaultServer) -> None:
    """With raise_for_status=True a 4xx is raised, but is still a success for the breaker."""
    fault_server.default = Answer(404, "nothing here")
    client = make_client(fault_server.url, raise_for_status=True)

    with pytest.raises(requests.HTTPError, match="status 404") as caught:
        client.get("/x")

    assert caught.value.response.text == "nothing here"
    assert call_of(caught.value).ended is EndReason.NOT_RETRYABLE
    assert client.breaker.get_stats()["total"]["succeeded"] == 1


# -- status ------------------------------------------------------------------------------------------------


def test_status_of_a_fresh_client(make_client: MakeClient) -> None:
    """All the fields are there before the first call, and it is JSON."""
    status = make_client(service_name="Chroma Server", name="chroma").get_status()

    assert status.keys() >= STATUS_KEYS
    assert json.loads(json.dumps(status)) == status
    assert (status["service"], status["name"], status["state"]) == ("Chroma Server", "chroma", "closed")
    assert status["last_failure"] is status["mttr_seconds"] is status["latency_ms"]["p50"] is None


def test_status_after_an_outage(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Counts, times and the mean time to recovery add up."""
    client = make_client(
        fault_server.url, failure_threshold=1, retry=RetryPolicy(backoff=fixed(1.0), jitter=0.0)
    )
    fault_server.default = Answer(503)
    with pytest.raises(requests.HTTPError):
        client.get("/x")
    with pytest.raises(CircuitOpenError):
        client.get("/x")
    fault_server.default = Answer(200)
    fake_clock.advance(60)
    client.get("/x")

    status = client.get_status()
    assert status["requests"] == {"total": 3, "succeeded": 1, "failed": 1, "rejected": 1, "retried": 2}
    assert (status["opened_count"], status["mttr_seconds"]) == (1, 60.0)
    assert status["last_error"] == "Service: GET /x failed after 3 attempts: status 503"
    assert status["last_failure"] < status["last_success"] == status["last_state_change"]
    assert status["last_failure"].endswith("+00:00")


def test_registry_status_survives_a_sick_client(
    make_client: MakeClient, registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client that cannot tell its status does not hide the others."""
    sick, well = make_client(name="sick"), make_client(name="well")
    monkeypatch.setattr(sick, "get_status", lambda: 1 / 0)

    assert registry.status()["sick"]["error"] == "ZeroDivisionError"
    assert registry.status()["well"] == well.get_status()


# -- log lines ---------------------------------------------------------------------------------------------


def test_log_of_a_passing_failure(
    make_client: MakeClient, fault_server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The story of a transient failure, line by line."""
    caplog.set_level(logging.DEBUG, "service_utils")
    client = make_client(fault_server.url, "Service Name", retry=RetryPolicy(backoff=fixed(1.0), jitter=0.0))
    fault_server.script(Answer(500), Answer(200))

    client.post("/add", json={})

    assert lines(caplog) == [
        "[Service Name] POST /add (attempt 1/3)",
        "[Service Name] Server error 500 on attempt 1/3",
        "[Service Name] Retrying in 1s...",
        "[Service Name] POST /add (attempt 2/3)",
        "[Service Name] ✓ POST /add succeeded",
    ]


def test_log_of_a_circuit_that_opens_and_closes(
    make_client: MakeClient,
    fault_server: FaultServer,
    fake_clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From refused connections over the open circuit to the recovery."""
    caplog.set_level(logging.INFO, "service_utils")
    client = make_client(
        fault_server.url,
        "S",
        failure_threshold=1,
        retry=RetryPolicy(max_attempts=2, backoff=fixed(0.5), jitter=0.0),
    )
    fault_server.stop_listening()
    for _ in range(4):
        with pytest.raises(requests.ConnectionError):
            client.get("/x")
    fault_server.resume()
    fake_clock.advance(60)
    client.get("/x")

    assert lines(caplog) == [
        "[S] Connection failed on attempt 1/2: Connection refused",
        "[S] Retrying in 0.50s...",
        "[S] Connection failed on attempt 2/2: Connection refused",
        "[S] ✗ All 2 retry attempts failed",
        "[S] Circuit breaker OPEN (threshold reached: 1/1)",
        "[S] Circuit breaker OPEN - rejecting request",
        "[S] Circuit breaker entering HALF_OPEN state",
        "[S] Circuit breaker CLOSED (service recovered)",
    ]


def test_log_of_giving_up(
    make_client: MakeClient, fault_server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Any other end than used-up attempts is named."""
    client = make_client(fault_server.url, "S")
    fault_server.default = Answer(501)

    with pytest.raises(requests.HTTPError):
        client.get("/x")

    assert lines(caplog)[-1] == "[S] ✗ Giving up after attempt 1/3 (not retryable)"


# -- events ------------------------------------------------------------------------------------------------


def test_listeners_hear_the_whole_story(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A listener gets every event of a call in order."""
    heard: list[Event] = []
    client = make_client(fault_server.url, listeners=[heard.append])
    fault_server.script(Answer(503), Answer(200))

    client.get("/x")

    assert [type(event).__name__ for event in heard] == [
        "AttemptStarted", "AttemptFailed", "RetryScheduled", "AttemptStarted", "CallFinished",
    ]  # fmt: skip
    finished: Any = heard[-1]
    assert (finished.outcome, finished.record.ended, finished.name) == (
        Outcome.SUCCESS,
        EndReason.SUCCESS,
        "service",
    )


def test_broken_listeners_and_loggers_break_no_request(
    make_client: MakeClient, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener that raises, and a log handler that raises, change nothing for the caller."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("disk full")

    handler = Broken()
    logging.getLogger("service_utils").addHandler(handler)
    try:
        client = make_client(fault_server.url, listeners=[lambda event: 1 / 0], failure_threshold=1)
        fault_server.script(Answer(503), close_connection(), Answer(200, "fine"))
        assert client.get("/x").text == "fine"
        fault_server.default = Answer(503)
        with pytest.raises(requests.HTTPError):
            client.get("/x")
        with pytest.raises(CircuitOpenError):
            client.get("/x")
    finally:
        logging.getLogger("service_utils").removeHandler(handler)
    assert client.breaker.get_stats()["half_open_in_use"] == 0


def test_listener_may_call_the_client(make_client: MakeClient, fault_server: FaultServer) -> None:
    """No lock is held while a listener runs: it may ask and even call the client."""
    states: list[str] = []

    def listener(event: Event) -> None:
        states.append(client.get_status()["state"])
        if type(event).__name__ == "CircuitChanged" and len(states) < 50:
            client.breaker.reset()

    client = make_client(fault_server.url, failure_threshold=1, max_retries=1, listeners=[listener])
    fault_server.default = Answer(500)
    with pytest.raises(requests.HTTPError):
        client.get("/x")

    assert client.state.value == "closed"
    assert states


# -- dead letters ------------------------------------------------------------------------------------------


class Shelf:
    """Keeps letters in a list."""

    def __init__(self) -> None:
        self.letters: list[tuple[Any, ...]] = []

    def add(self, service: str, method: str, path: str, **fields: Any) -> str:
        self.letters.append((service, method, path, fields))
        return f"letter-{len(self.letters)}"


def test_enqueue(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A call put aside is written down whole and not sent."""
    shelf = Shelf()
    client = make_client(fault_server.url + "/api", "Git Server", name="git", dead_letters=shelf)

    letter_id = client.enqueue("POST", "/snapshot/{id}", path_params={"id": "p1"}, json={"message": "m"})

    service, method, path, fields = shelf.letters[0]
    assert (letter_id, service, method, path) == ("letter-1", "git", "POST", "/snapshot/p1")
    assert fields["body"] == b'{"message": "m"}'
    assert fields["idempotency_key"]
    assert fault_server.requests == []


def test_enqueue_is_told(
    make_client: MakeClient, fault_server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue of dead letters writes one line, with the client's display name."""
    queue = DeadLetterQueue(MemoryDeadLetters())
    client = make_client(fault_server.url, "Git Server", name="git", dead_letters=queue)
    letter_id = client.enqueue("POST", "/snapshot/{id}", path_params={"id": "p1"}, json={"message": "m"})
    assert lines(caplog) == [f"[Git Server] Dead letter {letter_id} added: POST /snapshot/p1"]


def test_enqueue_needs_dead_letters_and_a_write(make_client: MakeClient) -> None:
    """Wrong use is a ValueError."""
    with pytest.raises(ValueError, match="dead_letters"):
        make_client().enqueue("POST", "/x")
    with pytest.raises(ValueError, match="only a write"):
        make_client(dead_letters=Shelf()).enqueue("GET", "/x")


def test_handler_sees_what_was_recorded(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """The request id in the record is the one on the wire."""
    seen: list[RecordedRequest] = []
    fault_server.handler = lambda request: (seen.append(request), Answer(200))[1]

    response = client.get("/x")

    assert seen[0].headers["X-Request-ID"] == call_of(response).request_id
