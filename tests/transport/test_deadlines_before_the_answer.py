"""Neither a service that does not take the request, nor one that cannot be reached, outlasts the limit."""

from __future__ import annotations

import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from service_utils import DeadlineExceeded, ResilientServiceClient, ServiceRegistry, call_of
from service_utils.http import resolver
from service_utils.testing import Answer, FaultServer

from .certificates import Certificates
from .sick_servers import FullBacklog, Manner, Peer, dripping_handshake, hard_of_hearing, silent
from .ways import (
    GROUPS,
    LIMIT,
    all_get_their_answers,
    all_give_up,
    client_by,
    crowd_by,
    extra_threads,
    gives_up,
    until,
)

LARGE = bytes(20 * 2**20)  # more than the buffers of both ends take


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until(lambda: not extra_threads(before))


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, certificates: Certificates) -> ssl.SSLContext | None:
    """What the service speaks: plain http, or TLS with this context."""
    return certificates.server() if request.param == "https" else None


def echo(request: Any) -> Answer:
    return Answer(200, request.path)


@pytest.fixture
def server(tls: ssl.SSLContext | None) -> Iterator[FaultServer]:
    with FaultServer(echo, tls=tls) as server:
        yield server


# -- sending -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("every", [None, 0.02], ids=["reads nothing", "reads slowly"])
def test_service_that_does_not_read(
    every: float | None,
    group: str,
    tls: ssl.SSLContext | None,
    registry: ServiceRegistry,
    certificates: Certificates,
) -> None:
    """Sending a large body ends in time, even where a little of it is taken now and then."""
    with (
        Peer(hard_of_hearing(every), tls=tls) as peer,
        crowd_by(group, registry, peer.url, verify=certificates.authority) as crowd,
    ):
        errors = all_give_up(crowd, lambda client, **limit: client.post("/trouble", data=LARGE, **limit))

        deadlines = [error for error in errors if isinstance(error, DeadlineExceeded)]
        assert any(error.sent for error in deadlines)
        for error in deadlines:  # on a busy machine a handshake may take all of the time, or what precedes it
            cause = error.__cause__
            assert error.sent != (cause is None or isinstance(cause, requests.ConnectTimeout))
        all_get_their_answers(crowd)


def pieces() -> Iterator[bytes]:
    for _ in range(2000):
        yield bytes(16384)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("make_body", [pieces, lambda: io.BytesIO(LARGE)], ids=["generator", "file"])
def test_streamed_body_that_is_not_read(
    make_body: Callable[[], Any],
    group: str,
    tls: ssl.SSLContext | None,
    registry: ServiceRegistry,
    certificates: Certificates,
) -> None:
    """The same holds for a body that comes from a generator or a file."""
    with (
        Peer(hard_of_hearing(0.02), tls=tls) as peer,
        crowd_by(group, registry, peer.url, verify=certificates.authority) as crowd,
    ):
        all_give_up(crowd, lambda client, **limit: client.post("/trouble", data=make_body(), **limit))

        all_get_their_answers(crowd)


def test_large_body_that_is_read(
    server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """A large body that is read arrives whole."""
    body = bytes(range(256)) * 40_000
    with client_by("warm", registry, server.url, verify=certificates.authority) as client:
        client.post("/large", data=body)

    assert server.requests[-1].body == body
    assert server.connections == 1


# -- connecting --------------------------------------------------------------------------------------------


def get(client: ResilientServiceClient, **limit: float) -> None:
    client.get("/trouble", **limit)


def lose_connections(server: FaultServer) -> None:
    """The service ends; its port stays taken."""
    server.stop_listening()
    server.disconnect()
    until(lambda: server.open_connections == 0)


@pytest.mark.parametrize("group", GROUPS)
def test_address_that_does_not_answer(
    group: str, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """Connecting ends in time."""
    with crowd_by(group, registry, server.url, verify=certificates.authority) as crowd:
        lose_connections(server)
        with FullBacklog(server.port):
            errors = all_give_up(crowd, get)
        server.resume()

        kinds = (requests.ConnectTimeout, DeadlineExceeded)
        assert all(isinstance(error, kinds) for error in errors)
        all_get_their_answers(crowd)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("manner", [silent, dripping_handshake])
def test_handshake_that_does_not_end(
    manner: Manner, group: str, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """The TLS handshake ends in time."""
    with (
        FaultServer(echo, tls=certificates.server()) as server,
        crowd_by(group, registry, server.url, verify=certificates.authority) as crowd,
    ):
        lose_connections(server)
        with Peer(manner, port=server.port):
            all_give_up(crowd, get)
        server.resume()

        all_get_their_answers(crowd)


def test_timeout_of_connecting(registry: ServiceRegistry) -> None:
    """The first of a (connect, read) pair bounds connecting."""
    with (
        FullBacklog() as backlog,
        client_by("cold", registry, f"http://127.0.0.1:{backlog.port}") as client,
        gives_up("timeout") as caught,
    ):
        client.get("/trouble", timeout=(LIMIT, 20))

    assert isinstance(caught.value, requests.ConnectTimeout)


# -- names -------------------------------------------------------------------------------------------------


class Names:
    """Stands in for ``socket.getaddrinfo``."""

    def __init__(self, stock: Callable[..., Any]) -> None:
        self.stock = stock
        self.addresses = ["127.0.0.1"]
        self.go = threading.Event()
        self.go.set()

    def __call__(self, host: str, port: int, *arguments: Any) -> list[Any]:
        if host != "localhost":
            return self.stock(host, port, *arguments)  # type: ignore[no-any-return]
        self.go.wait(30)
        return [info for each in self.addresses for info in self.stock(each, port, *arguments)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names(socket.getaddrinfo)
    monkeypatch.setattr(resolver, "_pool", resolver._Pool())
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.go.set()


def named(client_url: str) -> str:
    return client_url.replace("127.0.0.1", "localhost")


@pytest.mark.parametrize("group", GROUPS)
def test_name_that_is_looked_up_without_end(
    group: str, names: Names, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """Looking up the name ends in time."""
    with crowd_by(group, registry, named(server.url), verify=certificates.authority) as crowd:
        server.disconnect()
        until(lambda: server.open_connections == 0)
        names.go.clear()
        all_give_up(crowd, get)
        names.go.set()

        all_get_their_answers(crowd)


@pytest.mark.parametrize("group", GROUPS)
def test_many_addresses_that_do_not_answer(
    group: str, names: Names, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """However many addresses a service has, trying them takes no longer."""
    with crowd_by(group, registry, named(server.url), verify=certificates.authority) as crowd:
        lose_connections(server)
        names.addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        with (
            FullBacklog(server.port),
            FullBacklog(server.port, "127.0.0.2"),
            FullBacklog(server.port, "127.0.0.3"),
        ):
            all_give_up(crowd, get)
        server.resume()

        all_get_their_answers(crowd)


@pytest.mark.parametrize("way", ["cold", "session"])
def test_stand_in_that_knows_one_name(
    way: str, registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stands in for ``socket.getaddrinfo`` is asked for the service's name, and for nothing else."""
    stock = socket.getaddrinfo

    def stand_in(host: str, port: int, *arguments: Any) -> list[Any]:
        if host != "service.test":
            raise socket.gaierror(socket.EAI_NONAME, f"nobody knows {host}")
        return stock("127.0.0.1", port, *arguments)

    monkeypatch.setattr(socket, "getaddrinfo", stand_in)
    with (
        FaultServer(echo) as server,
        client_by(way, registry, f"http://service.test:{server.port}") as client,
    ):
        assert client.get("/after").text == "/after"


@pytest.mark.parametrize("way", ["cold", "session"])
def test_second_address(
    way: str, names: Names, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """An address that refuses leaves the time to the next one."""
    names.addresses = ["127.0.0.2", "127.0.0.1"]
    with client_by(way, registry, named(server.url), verify=certificates.authority) as client:
        assert client.get("/after").text == "/after"


def test_address_that_does_not_answer_leaves_time_for_the_next(
    names: Names, registry: ServiceRegistry
) -> None:
    """An address that does not answer does not use up all the time there is."""
    names.addresses = ["127.0.0.2", "127.0.0.1"]
    with (
        FaultServer(echo) as server,
        FullBacklog(server.port, "127.0.0.2"),
        client_by("cold", registry, named(server.url)) as client,
    ):
        response = client.get("/after", timeout=5)

    assert response.text == "/after"
    assert call_of(response).attempts[0].duration > 1.0


def test_clients_with_different_limits(names: Names, registry: ServiceRegistry) -> None:
    """Of two calls that wait for the same name each ends at its own time."""
    names.go.clear()
    with FaultServer(echo) as server, client_by("cold", registry, named(server.url)) as client:
        patient = threading.Thread(target=lambda: answers.append(client.get("/after").text))
        answers: list[str] = []
        patient.start()
        with gives_up("timeout"):
            client.get("/trouble", timeout=LIMIT)
        names.go.set()
        patient.join(20)

    assert answers == ["/after"]
