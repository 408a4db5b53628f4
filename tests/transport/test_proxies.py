"""Proxies, where a call or the environment asks for them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from service_utils import ResilientServiceClient, ServiceRegistry, call_of
from service_utils.testing import Answer, FaultServer, RecordedRequest, blackhole

from .certificates import Certificates
from .proxies import Proxy
from .sick_servers import FullBacklog, Peer, silent
from .ways import BOUNDS, LIMIT, SLACK, client_by, client_for, gives_up


def echo(request: RecordedRequest) -> Answer:
    return Answer(200, request.path)


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(echo, tls=certificates.server() if request.param == "https" else None) as server:
        yield server


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(params=["warm", "cold", "session"])
def client(
    request: pytest.FixtureRequest, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> Iterator[ResilientServiceClient]:
    with client_by(request.param, registry, server.url, verify=certificates.authority) as client:
        server.clear()
        yield client


def through(proxy_url: str) -> dict[str, str]:
    return {"http": proxy_url, "https": proxy_url}


def asked(server: FaultServer, path: str) -> str:
    """What a proxy is asked for to get there."""
    if server.url.startswith("https"):
        return f"CONNECT 127.0.0.1:{server.port}"
    return f"GET {server.url}{path}"


def test_proxy_of_a_call(client: ResilientServiceClient, server: FaultServer, proxy: Proxy) -> None:
    """A call goes through the proxy it names, with answer and all; one that names none does not."""
    assert client.get("/a", proxies=through(proxy.url)).text == "/a"
    assert client.get("/b").text == "/b"

    assert proxy.seen == [asked(server, "/a")]
    assert [each.path for each in server.requests] == ["/a", "/b"]


def test_writes_through_a_proxy(client: ResilientServiceClient, server: FaultServer, proxy: Proxy) -> None:
    """Bodies and keys go through as well."""
    response = client.post("/a", json={"a": 1}, proxies=through(proxy.url))

    assert server.requests[-1].json() == {"a": 1}
    assert server.requests[-1].headers["Idempotency-Key"] == call_of(response).idempotency_key


def test_connections_to_a_proxy_are_kept(
    client: ResilientServiceClient, server: FaultServer, proxy: Proxy
) -> None:
    """Calls through one proxy share a connection to it."""
    for _ in range(3):
        client.get("/a", proxies=through(proxy.url))

    assert proxy.accepted == 1


def test_secrets_are_not_told_to_the_proxy_of_a_tunnel(
    certificates: Certificates, registry: ServiceRegistry, proxy: Proxy
) -> None:
    """A tunnel is asked for without any header of the call."""
    with FaultServer(echo, tls=certificates.server()) as server:
        client = client_for(registry, server.url, verify=certificates.authority, headers={"X-Secret": "s"})
        client.get("/a", proxies=through(proxy.url))

    assert "X-Secret" not in proxy.headers[0]
    assert server.requests[0].headers["X-Secret"] == "s"


@pytest.mark.parametrize("trusted", [False, True])
def test_proxy_of_the_environment(
    trusted: bool,
    server: FaultServer,
    registry: ServiceRegistry,
    certificates: Certificates,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment's proxies count with ``trust_env=True`` only."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    client = client_for(registry, server.url, verify=certificates.authority, trust_env=trusted)

    assert [client.get("/a").text for _ in range(3)] == ["/a"] * 3
    assert bool(proxy.seen) == trusted


def test_proxy_in_tls(registry: ServiceRegistry, certificates: Certificates) -> None:
    """A proxy may be spoken to in TLS itself."""
    with Proxy(tls=certificates.server()) as proxy, FaultServer(echo, tls=certificates.server()) as server:
        client = client_for(registry, server.url, verify=certificates.authority)

        assert client.get("/a", proxies=through(proxy.url)).text == "/a"
        assert proxy.seen == [asked(server, "/a")]


def test_proxy_that_is_not_there(client: ResilientServiceClient, server: FaultServer) -> None:
    """A proxy that refuses is a failed connection, not a reason to go past it."""
    with Peer(silent) as peer:
        gone = peer.url

    with pytest.raises(requests.exceptions.ProxyError):
        client.get("/a", proxies=through(gone))
    assert server.requests == []


# -- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", BOUNDS)
def test_service_behind_a_proxy_is_silent(
    bound: str, client: ResilientServiceClient, server: FaultServer, proxy: Proxy
) -> None:
    """A call through a proxy ends in time, and the next one is not given what is left of it."""
    server.script(blackhole())
    with gives_up(bound):
        client.get("/trouble", proxies=through(proxy.url), **{bound: LIMIT})

    assert client.get("/after", proxies=through(proxy.url)).text == "/after"


def drips(peer: Peer, sock: socket.socket) -> None:
    """Read a request, and answer byte by byte."""
    sock.recv(65536)
    for byte in b"HTTP/1.1 200 " + b"y" * 500:
        if peer.over.wait(0.02):
            return
        sock.sendall(bytes([byte]))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("manner", [silent, drips])
def test_proxy_that_takes_its_time(
    manner: Any, bound: str, client: ResilientServiceClient, server: FaultServer
) -> None:
    """A proxy that says nothing, or speaks slowly, is waited for no longer than a service."""
    with Peer(manner) as peer, gives_up(bound):
        client.get("/trouble", proxies=through(peer.url), **{bound: LIMIT})

    assert client.get("/after").text == "/after"


def opens_late(peer: Peer, sock: socket.socket) -> None:
    """Open a tunnel when there is little time left, and have nobody at its other end."""
    sock.recv(65536)
    if not peer.over.wait(1.2):
        sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        peer.over.wait()


@pytest.mark.parametrize("given", [False, True], ids=["own", "session"])
def test_tunnel_that_opens_late(given: bool, registry: ServiceRegistry) -> None:
    """The TLS handshake in a tunnel has what the opening of the tunnel has left of the time."""
    client = client_for(registry, "https://127.0.0.1:9", session=requests.Session() if given else None)
    with Peer(opens_late) as peer, gives_up("deadline", 1.5):
        client.get("/trouble", proxies=through(peer.url), deadline=1.5)


def test_proxy_that_does_not_accept(client: ResilientServiceClient) -> None:
    """Neither is one that cannot be connected to; ``requests`` calls that a ProxyError."""
    with FullBacklog() as backlog:
        proxies = through(f"http://127.0.0.1:{backlog.port}")
        with gives_up("deadline"):
            client.get("/trouble", proxies=proxies, deadline=LIMIT)

        began = time.monotonic()
        with pytest.raises(requests.exceptions.ProxyError, match="in time"):
            client.get("/trouble", proxies=proxies, timeout=LIMIT)
        assert LIMIT * 0.9 <= time.monotonic() - began < LIMIT + SLACK
