"""A kept connection that the service has given up is no failure of the call that finds it so."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from service_utils import BreakerConfig, CircuitState, ResilientServiceClient, ServiceRegistry, call_of
from service_utils.client_options import FAILURE_THRESHOLD
from service_utils.testing import Answer, Ending, FaultServer, Raw, Reply, close_connection, reset_connection
from tests.side_by_side import together

from .certificates import Certificates
from .ways import TRACED_WAYS, client_by, until

DEATHS = {"closed": close_connection, "reset": reset_connection}
METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"]


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(tls=certificates.server() if request.param == "https" else None) as server:
        server.handler = lambda request: Answer(200, f"{request.method} {request.path}")
        yield server


@pytest.fixture
def options(certificates: Certificates) -> dict[str, Any]:
    return {"verify": certificates.authority}


@pytest.fixture(params=["warm", "session", *TRACED_WAYS])
def client(
    request: pytest.FixtureRequest, server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> Iterator[ResilientServiceClient]:
    """One attempt; its connection has served two calls."""
    with client_by(request.param, registry, server.url, **options) as client:
        server.clear()
        yield client


def connections(server: FaultServer) -> list[int]:
    return [each.connection for each in server.requests]


# -- noticed before sending ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_closed_while_idle(method: str, client: ResilientServiceClient, server: FaultServer) -> None:
    """A connection that was closed while nobody used it is not used again, whatever the method."""
    server.disconnect()
    until(lambda: server.open_connections == 0)

    response = client.request(method, "/a", idempotency_key=None)

    assert response.status_code == 200
    assert len(call_of(response).attempts) == 1
    assert connections(server) == [2]


def test_closed_while_idle_without_keys(
    server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """Nothing was sent, so a write that nothing protects goes through, too."""
    with client_by("warm", registry, server.url, idempotency_keys=False, **options) as client:
        server.disconnect()
        until(lambda: server.open_connections == 0)

        assert client.post("/a").text == "POST /a"
    assert connections(server) == [1, 1, 2]


def test_closed_after_each_answer(client: ResilientServiceClient, server: FaultServer) -> None:
    """A service that closes each connection without a word needs a new one for each call, and no more."""
    server.handler = lambda request: Answer(200, request.path).then_close()
    for number in range(5):
        assert client.post(f"/{number}").text == f"/{number}"
        until(lambda: server.open_connections == 0)

    assert len(server.requests) == 5


def test_many_closed_at_once(server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]) -> None:
    """When a load balancer closes all connections, every thread's next call goes well at once."""
    with client_by("cold", registry, server.url, **options) as client:
        for turn in range(3):
            results = together(8, lambda number, turn=turn: client.post(f"/{turn}/{number}"))  # type: ignore[misc]
            assert [each.text for each in results] == [f"POST /{turn}/{number}" for number in range(8)]
            assert {len(call_of(each).attempts) for each in results} == {1}
            server.disconnect()
            until(lambda: server.open_connections == 0)

    assert len(server.requests) == 24


def test_said_something_while_idle(
    server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """What a service says unasked is nobody's answer: that connection is not used again."""
    answer, unasked = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + body for body in (b"asked!", b"forged")
    )
    with client_by("warm", registry, server.url, **options) as client:
        server.script(Raw(answer + unasked, ending=Ending.KEEP_OPEN))
        assert client.get("/a").text == "asked!"

        assert client.get("/b").text == "GET /b"
    assert server.requests[-1].connection == 2


# -- noticed when no answer comes ----------------------------------------------------------------------------


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("method", METHODS)
def test_dead_before_any_byte_of_the_answer(
    method: str, death: str, client: ResilientServiceClient, server: FaultServer
) -> None:
    """The request goes out once more on a new connection, and that is no attempt; writes carry one key."""
    server.script(DEATHS[death]())

    response = client.request(method, "/a", data=None if method == "GET" else b"body")

    assert response.status_code == 200
    assert response.text == ("" if method == "HEAD" else f"{method} /a")
    assert len(call_of(response).attempts) == 1
    assert connections(server) == [1, 2]
    first, second = server.requests
    assert first.headers.pairs == second.headers.pairs
    assert first.body == second.body
    assert client.breaker.get_stats()["total"]["failed"] == 0
    assert client.get_status()["requests"]["retried"] == 0


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("way", ["warm", "session"])
def test_dead_with_a_write_that_nothing_protects(
    way: str, death: str, server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """A POST without a key is not repeated once it was sent: it may have been done. With a key it is."""
    with client_by(way, registry, server.url, idempotency_keys=False, **options) as client:
        server.clear()
        server.script(DEATHS[death](), Answer(), DEATHS[death]())

        with pytest.raises(requests.ConnectionError):
            client.post("/a", data=b"body")
        assert len(server.requests) == 1

        client.get("/b")
        assert client.post("/c", data=b"body", idempotency_key="k").text == "POST /c"
    assert [each.path for each in server.requests] == ["/a", "/b", "/c", "/c"]


def test_dead_while_streaming(client: ResilientServiceClient, server: FaultServer) -> None:
    """A call whose body the caller reads is repeated just so."""
    server.script(close_connection())

    with client.get("/a", stream=True) as response:
        assert response.content == b"GET /a"
    assert connections(server) == [1, 2]


def test_dead_with_a_file(client: ResilientServiceClient, server: FaultServer) -> None:
    """A body that can be rewound is sent whole both times, from where it began."""
    body = io.BytesIO(b"skipped and sent")
    body.seek(12)
    server.script(close_connection())

    assert client.put("/a", data=body).status_code == 200
    assert [each.body for each in server.requests] == [b"sent", b"sent"]


def test_dead_with_a_generator(client: ResilientServiceClient, server: FaultServer) -> None:
    """A body that is gone is not sent again."""
    server.script(close_connection())

    with pytest.raises(requests.ConnectionError):
        client.put("/a", data=iter([b"once", b"only"]))
    assert [each.body for each in server.requests] == [b"onceonly"]


@pytest.mark.parametrize("death", DEATHS)
def test_dead_twice(death: str, client: ResilientServiceClient, server: FaultServer) -> None:
    """A new connection that dies, too, is a failure as usual."""
    server.script(DEATHS[death](), DEATHS[death]())

    with pytest.raises(requests.ConnectionError) as caught:
        client.get("/a")

    assert len(call_of(caught.value).attempts) == 1
    assert connections(server) == [1, 2]
    assert client.breaker.get_stats()["total"]["failed"] == 1


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("session", [False, True])
def test_dead_at_its_first_request(
    session: bool, death: str, server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """A connection that never served is not stale: its death is a failure as usual."""
    given = requests.Session() if session else None
    with client_by("cold", registry, server.url, session=given, **options) as client:
        server.script(DEATHS[death]())

        with pytest.raises(requests.ConnectionError):
            client.get("/a")
    assert len(server.requests) == 1


BEGINNINGS = [b"H", b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n"]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_dead_after_a_byte_of_the_answer(
    beginning: bytes, client: ResilientServiceClient, server: FaultServer
) -> None:
    """Whoever has begun to answer has got the request: it is not repeated on the sly."""
    server.script(Raw(beginning))

    with pytest.raises(requests.ConnectionError):
        client.get("/a")
    assert len(server.requests) == 1


def test_new_connection_that_cannot_be_had(client: ResilientServiceClient, server: FaultServer) -> None:
    """Where the repeat finds nobody at home, that is the failure."""
    closing = threading.Event()

    def last(request: object) -> Reply:
        threading.Thread(target=lambda: (server.stop_listening(), closing.set())).start()
        closing.wait(10)
        return close_connection()

    server.handler = last
    with pytest.raises(requests.ConnectionError, match="refused"):
        client.get("/a")
    assert len(server.requests) == 1


def test_repeat_shares_the_time(client: ResilientServiceClient, server: FaultServer) -> None:
    """The repeat has what is left of the attempt's time, not a time of its own."""
    server.script(Raw(delay=0.2), Answer(200, delay=20))
    began = time.monotonic()

    with pytest.raises(requests.Timeout):
        client.get("/a", timeout=0.4)

    assert 0.4 <= time.monotonic() - began < 1.4
    assert len(server.requests) == 2


@pytest.mark.parametrize("death", DEATHS)
def test_probe_of_a_half_open_circuit(
    death: str, server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """A probe finds a stale connection like any other call, and the circuit closes."""
    breaker = BreakerConfig(failure_threshold=1, recovery_timeout=0.01)
    options |= {"breaker": breaker, "failure_threshold": FAILURE_THRESHOLD}
    with client_by("warm", registry, server.url, **options) as client:
        server.script(Answer(503), DEATHS[death]())
        with pytest.raises(requests.HTTPError):
            client.get("/a")
        assert client.state is CircuitState.OPEN
        until(lambda: client.get_status()["cooldown_remaining"] == 0)

        response = client.get("/b")

        assert response.text == "GET /b"
        assert len(call_of(response).attempts) == 1
        assert client.state is CircuitState.CLOSED


# -- how long a connection is kept ---------------------------------------------------------------------------


def wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)


@pytest.mark.parametrize("way", ["warm", "session"])
def test_idle_timeout(
    way: str, server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """A connection that was idle for longer is not used again; one in use stays."""
    with client_by(way, registry, server.url, idle_timeout=0.5, **options) as client:
        for _ in range(10):
            client.get("/a")
            wait(0.06)
        assert server.connections == 1
        wait(0.55)

        client.post("/b")
    assert server.connections == 2


@pytest.mark.parametrize("way", ["warm", "session"])
def test_max_connection_age(
    way: str, server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """A connection that has lived longer is not used again, however busy, so that new members get traffic."""
    with client_by(way, registry, server.url, max_connection_age=0.2, **options) as client:
        began = time.monotonic()
        while server.connections < 4:
            client.get("/a")
            assert time.monotonic() - began < 10
        took = time.monotonic() - began
    assert took > 0.5
    until(lambda: server.open_connections == 0)


def test_kept_for_ever(server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]) -> None:
    """None keeps connections as long as the service does."""
    kept = {"idle_timeout": None, "max_connection_age": None}
    with client_by("warm", registry, server.url, **kept, **options) as client:
        wait(0.1)
        client.get("/a")
    assert server.connections == 1


@pytest.mark.parametrize("argument", ["idle_timeout", "max_connection_age"])
@pytest.mark.parametrize("value", [-1, float("nan"), "5", True])
def test_bad_ages(argument: str, value: Any, registry: ServiceRegistry) -> None:
    """What is no number of seconds is refused by its name."""
    with pytest.raises((TypeError, ValueError), match=argument):
        ResilientServiceClient("http://127.0.0.1:9", registry=registry, **{argument: value})
