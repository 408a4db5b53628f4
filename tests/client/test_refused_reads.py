"""Reads that an open circuit refuses: they cost next to nothing, and nobody can tell by the result."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service_utils import (
    BreakerConfig,
    CallRecord,
    CircuitOpenError,
    DeadlineExceeded,
    EndReason,
    Event,
    Outcome,
    ResilientServiceClient,
    call_of,
)
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.testing import FakeClock

from .conftest import MakeClient


def opened(client: ResilientServiceClient) -> ResilientServiceClient:
    client.breaker.record(client.breaker.acquire(), Outcome.FAILURE)
    assert client.state.value == "open"
    return client


@pytest.fixture
def client(make_client: MakeClient) -> ResilientServiceClient:
    """Its circuit is open for 60 seconds."""
    return opened(make_client(service_name="Chroma Server", failure_threshold=1))


def refused(
    client: ResilientServiceClient, method: str = "GET", path: str = "/x", **arguments: Any
) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        client.request(method, path, **arguments)
    return caught.value


@contextmanager
def bound(**context: Any) -> Iterator[None]:
    token = bind_context(**context)
    try:
        yield
    finally:
        unbind_context(token)


def seen(error: CircuitOpenError) -> dict[str, Any]:
    """All of an error but what chance or time decides."""
    record = call_of(error)
    changing = ("request_id", "duration", "_replay")
    return {
        "story": {
            name: getattr(record, name) for name in CallRecord.__dataclass_fields__ if name not in changing
        },
        "text": (str(error), error.args, repr(error)),
        "fields": {
            name: value for name, value in vars(error).items() if name not in ("_call_source", "call")
        },
    }


HAND = {"open": lambda _: None, "forced open": lambda client: client.breaker.force_open("by hand")}


@pytest.mark.parametrize("by_hand", HAND.values(), ids=HAND)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_error_is_that_of_the_usual_order(
    method: str, by_hand: Callable[[ResilientServiceClient], object], make_client: MakeClient
) -> None:
    """Somebody who listens to every event makes a client take the usual order: the errors are the same."""
    quick, usual = (
        opened(make_client(service_name="Chroma Server", failure_threshold=1, **options))
        for options in ({}, {"listeners": [lambda event: None]})
    )
    by_hand(quick)
    by_hand(usual)

    errors = [refused(client, method, "/items/42") for client in (quick, usual)]

    assert seen(errors[0]) == seen(errors[1])
    assert str(errors[0]).startswith(f"Chroma Server: {method} /items/42 was not sent: circuit breaker is ")


def test_what_the_error_says(client: ResilientServiceClient, fake_clock: FakeClock) -> None:
    """Sentence, fields and record tell of the moment of the refusal, however late somebody looks."""
    fake_clock.advance(10)
    error = refused(client)
    fake_clock.advance(1000)
    client.breaker.reset()

    assert str(error) == "Chroma Server: GET /x was not sent: circuit breaker is open, next try in 50.0 s"
    assert (error.service, error.cooldown_remaining, error.retry_after) == ("Chroma Server", 50.0, 50.0)
    assert (error.request, error.response) == (None, None)
    record = call_of(error)
    assert (record.method, record.path, record.ended) == ("GET", "/x", EndReason.REFUSED)
    assert (record.attempts, record.idempotency_key, record.replay) == ((), None, None)


LOOKS: dict[str, Callable[[CircuitOpenError], Any]] = {
    "str": str,
    "repr": repr,
    "args": lambda error: error.args,
    "cooldown": lambda error: error.cooldown_remaining,
    "service": lambda error: error.service,
    "call": lambda error: error.call,
    "copy": copy.copy,
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "what is not there": lambda error: hasattr(error, "colour"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_whatever_is_looked_at_first(
    look: Callable[[CircuitOpenError], Any], client: ResilientServiceClient
) -> None:
    """The rest is there all the same."""
    expected, error = seen(refused(client)), refused(client)
    result = look(error)
    assert seen(error) == expected
    assert call_of(error) is call_of(error)
    if isinstance(result, CircuitOpenError):
        assert seen(result) == expected
        assert call_of(result) == call_of(error)
    assert not hasattr(error, "colour")


def test_message_of_ones_own(client: ResilientServiceClient) -> None:
    """Whoever catches and changes an error keeps what was changed."""
    error = refused(client)
    error.args = ("mine",)
    error.retry_after = 5.0
    assert (str(error), error.retry_after, error.service) == ("mine", 5.0, "Chroma Server")


def test_request_id_of_the_inbound_request(client: ResilientServiceClient) -> None:
    """It is the one of the request that was being served when the call was refused."""
    with bound(request_id="r-1"):
        error = refused(client)
    with bound(request_id="r-2"):
        assert call_of(error).request_id == "r-1"
    other = refused(client)
    made = call_of(other).request_id
    assert made
    assert call_of(other).request_id == made


def test_inbound_deadline_comes_first(client: ResilientServiceClient, fake_clock: FakeClock) -> None:
    """No time is left: that is said before the circuit is asked."""
    with bound(deadline=Deadline(fake_clock.monotonic(), fake_clock)), pytest.raises(DeadlineExceeded):
        client.get("/x")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"colour": "red"}, TypeError),
        ({"path": "http://other/"}, ValueError),
        ({"path": "/../.."}, ValueError),
        ({"path": None}, TypeError),
        ({"path": "/x", "timeout": 0}, ValueError),
        ({"path": "/x", "deadline": -1}, ValueError),
        ({"path": "/x", "path_params": {"a": 1}}, ValueError),
        ({"path": "/x", "path_params": 0}, TypeError),
        ({"path": "/x", "idempotency_key": "ä"}, ValueError),
        ({"path": "/x", "retry": 3}, TypeError),
        ({"path": "/x", "headers": []}, TypeError),
    ],
)
def test_bad_arguments_come_first(
    client: ResilientServiceClient, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """A mistake of the caller is told although the circuit is open."""
    with pytest.raises(error) as caught:
        client.get(**{"path": "/x", **arguments})
    assert not isinstance(caught.value, CircuitOpenError)
    assert client.get_status()["requests"]["rejected"] == 0


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/x?a=1", {}),
        ("/p/{id}", {"path_params": {"id": 1}}),
        ("/x", {"params": {"a": 1}, "headers": {"X-Request-ID": "mine"}, "timeout": 1, "deadline": 5}),
        ("/x", {"auth": ("u", "p")}),
    ],
)
def test_reads_with_arguments(client: ResilientServiceClient, path: str, arguments: dict[str, Any]) -> None:
    """They are refused in the same words."""
    error = refused(client, "GET", path, **arguments)
    label = path.partition("?")[0]
    assert (
        str(error) == f"Chroma Server: GET {label} was not sent: circuit breaker is open, next try in 60.0 s"
    )


def test_refused_write_can_be_replayed(client: ResilientServiceClient) -> None:
    """A write keeps all that is needed to send it later."""
    replay = call_of(refused(client, "POST", "/x", json={"a": 1})).replay
    assert replay is not None
    assert replay.body == b'{"a": 1}'


def test_refused_reads_count(client: ResilientServiceClient) -> None:
    """Status and statistics know of each one, looked at or not."""
    for _ in range(3):
        refused(client)
    assert client.get_status()["requests"] == {
        "total": 3,
        "succeeded": 0,
        "failed": 0,
        "rejected": 3,
        "retried": 0,
    }
    assert client.breaker.get_stats()["total"]["rejected"] == 3


def test_listeners_hear_of_refused_reads(make_client: MakeClient) -> None:
    """Whoever listens hears of the circuit's word and of the call's end."""
    heard: list[Event] = []
    client = opened(make_client(failure_threshold=1, listeners=[heard.append]))
    heard.clear()
    error = refused(client)
    assert [type(event).__name__ for event in heard] == ["CircuitRejected", "CallFinished"]
    assert getattr(heard[1], "record", None) == call_of(error)


def test_half_open_circuit(make_client: MakeClient, fake_clock: FakeClock) -> None:
    """While a probe is under way other reads are refused; when it has gone well they pass."""
    client = opened(make_client(breaker=BreakerConfig(failure_threshold=1, recovery_timeout=10.0)))
    fake_clock.advance(10)
    probe = client.breaker.acquire()
    assert str(refused(client)) == (
        "Service: GET /x was not sent: circuit breaker is half open and its probe is under way"
    )
    client.breaker.record(probe, Outcome.SUCCESS)
    assert client.state.value == "closed"


def test_refused_reads_leave_no_garbage(client: ResilientServiceClient) -> None:
    """An error that nobody keeps is gone at once: an outage must not keep the garbage collector busy."""
    gc.disable()
    try:
        try:
            client.get("/x")
        except CircuitOpenError as error:
            gone = weakref.ref(error)
        assert gone() is None
    finally:
        gc.enable()


def test_closed_client_with_refused_errors(make_client: MakeClient) -> None:
    """An error tells its story also after its client was closed."""
    with opened(make_client(failure_threshold=1)) as client:
        error = refused(client)
    assert call_of(error).name == "service"


def test_listener_that_ignores_refusals(make_client: MakeClient) -> None:
    """A listener may say that it has no use for the end of refused calls; it hears all the rest."""

    class Listener:
        ignores_refusals = True

        def __init__(self) -> None:
            self.heard: list[str] = []

        def __call__(self, event: Event) -> None:
            self.heard.append(type(event).__name__)

    listener = Listener()
    client = opened(make_client(failure_threshold=1, listeners=[listener]))
    refused(client)
    assert listener.heard == ["CircuitChanged", "CircuitRejected"]
