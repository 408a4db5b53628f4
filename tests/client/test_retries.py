"""What is tried again, after how long, and what puts an end to it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime

import pytest
import requests

from service_utils import (
    EndReason,
    ResilientServiceClient,
    RetryBudget,
    RetryPolicy,
    call_of,
    exponential,
    fixed,
)
from service_utils.testing import Answer, FakeClock, FaultServer, close_connection

from .conftest import MakeClient


def ended(caught: pytest.ExceptionInfo[BaseException]) -> EndReason:
    return call_of(caught.value).ended


def test_success_after_failures(
    client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A passing failure costs the caller nothing but the wait."""
    # Closed twice: that a connection in use before proves dead is no attempt, that a new one does is.
    fault_server.script(Answer(503), close_connection(), close_connection(), Answer(200, "at last"))

    response = client.get("/x")

    assert response.text == "at last"
    assert fake_clock.slept == [1.0, 1.0]
    record = call_of(response)
    assert [(a.number, a.status, a.delay) for a in record.attempts] == [
        (1, 503, 0.0),
        (2, None, 1.0),
        (3, 200, 1.0),
    ]
    assert record.ended is EndReason.SUCCESS


def test_backoff_is_the_policys(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """1 s, 2 s, 4 s without jitter, as the seeds have it."""
    fault_server.default = Answer(500)
    client = make_client(
        fault_server.url, retry=RetryPolicy(max_attempts=4, backoff=exponential(), jitter=0.0)
    )

    with pytest.raises(requests.HTTPError):
        client.get("/x")

    assert fake_clock.slept == [1.0, 2.0, 4.0]


def test_jitter_only_shortens(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """The configured back-off is an upper bound; half of it may be taken off."""
    fault_server.default = Answer(500)
    client = make_client(fault_server.url, retry=RetryPolicy(max_attempts=5, backoff=fixed(1.0), jitter=0.5))

    with pytest.raises(requests.HTTPError):
        client.get("/x")

    assert all(0.5 <= delay <= 1.0 for delay in fake_clock.slept)
    assert len(set(fake_clock.slept)) > 1


def test_retry_after_in_seconds(
    client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """The service's own wish is a lower bound, with at most a quarter on top."""
    fault_server.script(Answer(429, headers={"Retry-After": "8"}), Answer(200))

    client.get("/x")

    assert 8.0 <= fake_clock.slept[0] <= 10.0


def test_retry_after_as_a_date(
    client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A date means the time until then on the client's clock."""
    moment = format_datetime(fake_clock.now() + timedelta(seconds=20), usegmt=True)
    fault_server.script(Answer(503, headers={"Retry-After": moment}), Answer(200))

    client.get("/x")

    assert 19.0 <= fake_clock.slept[0] <= 25.0


@pytest.mark.parametrize("header", ["-1", "1.5", "soon", "", "1e3", "Tomorrow"])
def test_malformed_retry_after(
    header: str, client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """What is no well-formed Retry-After is as good as none."""
    fault_server.script(Answer(503, headers={"Retry-After": header}), Answer(200))

    client.get("/x")

    assert fake_clock.slept == [1.0]


def test_retry_after_of_hours(
    client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Nobody waits for hours: past max_retry_after the call ends at once with the error it has."""
    fault_server.default = Answer(503, headers={"Retry-After": "7200"})

    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x")

    assert fake_clock.slept == []
    assert ended(caught) is EndReason.NOT_RETRYABLE
    assert caught.value.retry_after == 7200.0


def test_no_sleep_is_begun_that_overruns_the_deadline(
    client: ResilientServiceClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """With 1.5 s in all there is room for one back-off of 1 s, not for two."""
    fault_server.default = Answer(503)

    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x", deadline=1.5)

    assert fake_clock.slept == [1.0]
    assert ended(caught) is EndReason.DEADLINE


def test_budget_ends_retries(make_client: MakeClient, fault_server: FaultServer) -> None:
    """An empty budget ends the call with the error it has."""
    fault_server.default = Answer(503)
    budget = RetryBudget(ratio=0.0, capacity=1.0)
    client = make_client(fault_server.url, retry=RetryPolicy(backoff=fixed(0.0), budget=budget))

    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x")

    assert ended(caught) is EndReason.BUDGET_EXHAUSTED
    assert len(fault_server.requests) == 2
    assert budget.balance == 0.0


def test_each_call_pays_into_the_budget(make_client: MakeClient, fault_server: FaultServer) -> None:
    """Good calls earn the tokens that retries of bad ones take."""
    budget = RetryBudget(ratio=0.5, capacity=10.0)
    while budget.try_withdraw():
        pass
    client = make_client(fault_server.url, retry=RetryPolicy(budget=budget))

    for _ in range(4):
        client.get("/x")

    assert budget.balance == 2.0


def test_every_client_has_a_budget_of_its_own(make_client: MakeClient, fault_server: FaultServer) -> None:
    """One policy object shared by two clients does not make them share a bucket."""
    policy = RetryPolicy(backoff=fixed(0.0))
    one, other = (
        make_client(fault_server.url, "one", retry=policy),
        make_client(fault_server.url, "other", retry=policy),
    )
    fault_server.default = Answer(503)

    with pytest.raises(requests.HTTPError):
        one.get("/x")

    assert one.get_status()["retry_budget"] == 8.0
    assert other.get_status()["retry_budget"] == 10.0


def test_circuit_opened_by_others_ends_the_retries(
    make_client: MakeClient, fault_server: FaultServer
) -> None:
    """When other calls open the circuit meanwhile, this one does not go on hammering."""

    def answer(request: object) -> Answer:
        client.breaker.force_open("another thread saw enough")
        return Answer(503)

    client = make_client(fault_server.url)
    fault_server.handler = answer

    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x")

    assert ended(caught) is EndReason.CIRCUIT_OPENED
    assert len(fault_server.requests) == 1


def test_last_failed_response_can_be_returned(make_client: MakeClient, fault_server: FaultServer) -> None:
    """raise_on_status=False hands the failed answer over instead of raising."""
    fault_server.default = Answer(503, "sorry")
    policy = RetryPolicy(max_attempts=2, backoff=fixed(0.0), raise_on_status=False)
    client = make_client(fault_server.url, retry=policy)

    response = client.get("/x")

    assert (response.status_code, response.text) == (503, "sorry")
    assert call_of(response).ended is EndReason.ATTEMPTS_EXHAUSTED
    assert client.breaker.get_stats()["total"]["failed"] == 1


def test_policy_for_one_call(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """retry= of a call replaces the client's policy for it."""
    fault_server.default = Answer(503)

    with pytest.raises(requests.HTTPError):
        client.get("/x", retry=RetryPolicy(max_attempts=1))

    assert len(fault_server.requests) == 1


@pytest.mark.parametrize(
    ("method", "options", "attempts"),
    [
        ("POST", {}, 3),
        ("PATCH", {}, 3),
        ("PUT", {"idempotency_keys": False}, 3),
        ("DELETE", {"idempotency_keys": False}, 3),
        ("POST", {"idempotency_keys": False}, 1),
        ("PATCH", {"idempotency_keys": False}, 1),
    ],
)
def test_writes_are_retried_only_under_a_key(
    method: str, options: dict[str, bool], attempts: int, make_client: MakeClient, fault_server: FaultServer
) -> None:
    """Without a key a POST that may have arrived is not sent twice."""
    fault_server.default = close_connection()
    client = make_client(fault_server.url, **options)

    with pytest.raises(requests.ConnectionError):
        client.request(method, "/x", data=b"1")

    assert len(fault_server.requests) == attempts


def test_write_that_never_left_is_retried(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A refused connection is proof that nothing arrived, so even a POST without a key may go again."""
    fault_server.stop_listening()
    client = make_client(fault_server.url, idempotency_keys=False)

    with pytest.raises(requests.ConnectionError):
        client.post("/x", data=b"1")

    assert len(fake_clock.slept) == 2


def test_methods_left_out_of_retry_methods(make_client: MakeClient, fault_server: FaultServer) -> None:
    """With a set of methods, others are not retried once they may have arrived."""
    fault_server.default = Answer(503)
    client = make_client(fault_server.url, retry=RetryPolicy(retry_methods={"GET"}, backoff=fixed(0.0)))

    with pytest.raises(requests.HTTPError):
        client.post("/x", json={})

    assert len(fault_server.requests) == 1


def pieces() -> Iterator[bytes]:
    yield b"once"
    yield b" only"


def test_generator_is_never_sent_twice(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A body that cannot be replayed is sent once."""
    fault_server.default = Answer(503)

    with pytest.raises(requests.HTTPError) as caught:
        client.post("/x", data=pieces())

    assert [request.body for request in fault_server.requests] == [b"once only"]
    assert ended(caught) is EndReason.NOT_RETRYABLE


def test_file_is_rewound(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A seekable body begins anew at each attempt, from where it stood."""
    file = io.BytesIO(b"headerpayload")
    file.seek(6)
    fault_server.script(Answer(503), close_connection(), Answer(200))

    client.put("/x", data=file)

    assert [request.body for request in fault_server.requests] == [b"payload"] * 3


def test_text_file_is_sent_as_utf8(
    client: ResilientServiceClient, fault_server: FaultServer, tmp_path: object
) -> None:
    """A text file as body arrives encoded, as with requests itself."""
    file = io.StringIO("grün")

    client.put("/x", data=file)

    assert fault_server.requests[0].body == "grün".encode()


def test_streamed_failures_give_their_connection_back(
    client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """Retrying a streamed call closes the answers nobody will read."""
    fault_server.script(Answer(503, "x" * 10), Answer(503, "x" * 10), Answer(200, "body"))

    with client.get("/x", stream=True) as response:
        assert response.raw.read() == b"body"
