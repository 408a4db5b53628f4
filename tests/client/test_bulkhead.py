"""A client's bulkhead: how many of its calls may be under way at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from service_utils import (
    Bulkhead,
    BulkheadConfig,
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceeded,
    ResilientServiceClient,
    call_of,
)
from service_utils.calls import EndReason
from service_utils.events import BulkheadRejected, CallFinished
from service_utils.testing import Answer, FakeClock, FaultServer
from tests.side_by_side import PATIENCE, together

from .conftest import MakeClient


@contextmanager
def under_way(client: ResilientServiceClient, server: FaultServer, count: int) -> Iterator[None]:
    """So many calls that hold their slots as long as the block lasts."""
    server.hold()
    threads = [threading.Thread(target=client.get, args=("/held",), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        server.wait_for_requests(count)
        yield
    finally:
        server.release()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def in_flight(client: ResilientServiceClient) -> Any:
    return client.get_status()["bulkhead"]["in_flight"]


@pytest.mark.parametrize("bulkhead", [2, BulkheadConfig(max_concurrent=2), Bulkhead(2)])
def test_one_more_call_than_there_are_slots(
    make_client: MakeClient, fault_server: FaultServer, bulkhead: Any
) -> None:
    """Whatever way the limit is given, the call above it is refused before anything of it is sent."""
    client = make_client(fault_server.url, bulkhead=bulkhead)
    with under_way(client, fault_server, 2):
        assert in_flight(client) == 2
        with pytest.raises(BulkheadFullError) as caught:
            client.get("/x")
    assert call_of(caught.value).ended is EndReason.REFUSED
    assert "Service: GET /x was not sent" in str(caught.value)
    assert len(fault_server.requests) == 2
    assert in_flight(client) == 0
    assert client.get("/x").status_code == 200


def test_refusals_are_told_and_counted(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A refused call is rejected in the status, an event for listeners, and nothing to the circuit."""
    events: list[Any] = []
    client = make_client(fault_server.url, bulkhead=1, listeners=[events.append])
    with under_way(client, fault_server, 1), pytest.raises(BulkheadFullError):
        client.get("/x")
    status = client.get_status()
    assert status["requests"]["rejected"] == status["bulkhead"]["rejected"] == 1
    assert client.breaker.get_stats()["total"]["ignored"] == 0
    told = [event for event in events if isinstance(event, BulkheadRejected)]
    assert [(event.name, event.max_concurrent) for event in told] == [("service", 1)]
    assert any(isinstance(event, CallFinished) and not event.record.attempts for event in events)


@pytest.mark.parametrize("reply", [Answer(200), Answer(404), Answer(500)])
def test_a_slot_is_given_back_however_a_call_ends(
    make_client: MakeClient, fault_server: FaultServer, reply: Answer
) -> None:
    """Good and bad answers, refusals of the circuit and mistakes of the caller leave no slot taken."""
    client = make_client(fault_server.url, bulkhead=1, max_retries=1, failure_threshold=2)
    fault_server.default = reply
    for _ in range(4):
        with pytest.raises(requests.RequestException) if reply.status == 500 else nothing():
            client.get("/x")
    with pytest.raises(TypeError):
        client.get("/x", unknown=1)
    assert in_flight(client) == 0


@contextmanager
def nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_slot_is_given_back_when_a_call_is_killed(
    make_client: MakeClient, fault_server: FaultServer, interrupt: type[BaseException]
) -> None:
    """A signal in the middle of a call gives back slot and permit."""
    client = make_client(fault_server.url, bulkhead=1)

    def interrupted(*_: Any, **__: Any) -> None:
        raise interrupt

    with pytest.raises(interrupt):
        client.get("/x", hooks={"response": interrupted})
    assert in_flight(client) == 0
    assert client.get("/x").status_code == 200


def test_a_streamed_answer_frees_its_slot(make_client: MakeClient, fault_server: FaultServer) -> None:
    """With stream=True the call is over when the head has arrived; the body is the caller's."""
    client = make_client(fault_server.url, bulkhead=1)
    response = client.get("/x", stream=True)
    assert in_flight(client) == 0
    response.close()


def test_an_open_circuit_refuses_before_anyone_queues(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """Who would be refused anyway does not wait for a slot first."""
    bulkhead = Bulkhead(1, max_wait=5.0, clock=fake_clock)
    client = make_client(fault_server.url, bulkhead=bulkhead)
    with bulkhead.acquire():
        client.breaker.force_open("maintenance")
        with pytest.raises(CircuitOpenError):
            client.post("/x", json={})
    assert fake_clock.monotonic() == 0.0


def test_a_call_waits_for_its_slot_no_longer_than_it_may(
    make_client: MakeClient, fault_server: FaultServer, fake_clock: FakeClock
) -> None:
    """It waits for max_wait seconds, or until its deadline where that is sooner."""
    bulkhead = Bulkhead(1, max_wait=5.0, clock=fake_clock)
    client = make_client(fault_server.url, bulkhead=bulkhead)
    with bulkhead.acquire():
        with pytest.raises(BulkheadFullError):
            client.get("/x")
        assert fake_clock.monotonic() == 5.0
        with pytest.raises(DeadlineExceeded) as caught:
            client.get("/x", deadline=2)
        assert fake_clock.monotonic() == 7.0
    assert call_of(caught.value).ended is EndReason.DEADLINE
    assert not caught.value.sent
    assert not fault_server.requests


def test_auto_is_as_many_as_connections_are_kept(make_client: MakeClient) -> None:
    """bulkhead="auto" has one slot per connection of the pool."""
    client = make_client(bulkhead="auto", pool_maxsize=7)
    assert client.get_status()["bulkhead"]["max_concurrent"] == 7


def test_a_bare_client_has_none(make_client: MakeClient) -> None:
    """Without the argument there is no limit, and the status says so."""
    assert make_client().get_status()["bulkhead"] is None


@pytest.mark.parametrize(
    ("bulkhead", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (True, TypeError),
        (2.5, TypeError),
        ("many", ValueError),
        ([], TypeError),
    ],
)
def test_what_is_no_bulkhead(make_client: MakeClient, bulkhead: Any, error: type[Exception]) -> None:
    """A limit that cannot be kept is refused at construction, by name and value."""
    with pytest.raises(error, match=f"bulkhead={bulkhead!r}".replace("[", r"\[").replace("]", r"\]")):
        make_client(bulkhead=bulkhead)


def test_two_clients_share_one_bulkhead(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A Bulkhead given to two clients limits both together."""
    shared = Bulkhead(1)
    one = make_client(fault_server.url, bulkhead=shared, name="one")
    other = make_client(fault_server.url, bulkhead=shared, name="other")
    with under_way(one, fault_server, 1), pytest.raises(BulkheadFullError):
        other.get("/x")


def test_sixty_four_threads_never_exceed_the_limit(
    make_client: MakeClient, fault_server: FaultServer
) -> None:
    """However many come at once, the service never sees more calls at a time than there are slots."""
    lock, now, most = threading.Lock(), 0, 0

    def answer(_: Any) -> Answer:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        with lock:
            now -= 1
        return Answer(200)

    fault_server.handler = answer
    client = make_client(
        fault_server.url, bulkhead=BulkheadConfig(max_concurrent=4, max_wait=30.0), clock=None
    )
    answers = together(64, lambda _: client.get("/x").status_code)
    assert answers == [200] * 64
    assert 1 <= most <= 4
    assert in_flight(client) == 0
