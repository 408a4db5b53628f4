"""https: whom a client trusts, what it shows of itself, and that connections are not mixed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import urllib3

from service_utils import ResilientServiceClient, ServiceRegistry, call_of
from service_utils.testing import Answer, FaultServer, RecordedRequest

from .certificates import Certificates
from .raw_server import RawServer
from .sessions import has_ipv6
from .ways import client_by, client_for


def echo(request: RecordedRequest) -> Answer:
    return Answer(200, request.path)


@pytest.fixture
def server(certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(echo, tls=certificates.server()) as server:
        yield server


@pytest.fixture
def make_client(server: FaultServer, registry: ServiceRegistry) -> Callable[..., ResilientServiceClient]:
    return lambda **options: client_for(registry, server.url, max_retries=3, **options)


MakeClient = Callable[..., ResilientServiceClient]


@pytest.fixture
def client(make_client: MakeClient, certificates: Certificates) -> ResilientServiceClient:
    return make_client(verify=certificates.authority)


# -- whom the client trusts ----------------------------------------------------------------------------------


def test_kept_connections(client: ResilientServiceClient, server: FaultServer) -> None:
    """Calls over TLS share a connection."""
    assert [client.post(f"/{turn}", json={}).text for turn in range(5)] == ["/0", "/1", "/2", "/3", "/4"]
    assert server.connections == 1


def test_unknown_authority(make_client: MakeClient, server: FaultServer) -> None:
    """A certificate that nobody vouches for is a failure, and another attempt would find the same."""
    client = make_client()

    with pytest.raises(requests.exceptions.SSLError) as caught:
        client.get("/a")

    assert len(call_of(caught.value).attempts) == 1
    assert client.breaker.get_stats()["total"]["failed"] == 1
    assert server.requests == []


@pytest.mark.parametrize("names", [("elsewhere.test",), ("10.0.0.1",)])
def test_certificate_of_somebody_else(
    names: tuple[str, ...], certificates: Certificates, registry: ServiceRegistry
) -> None:
    """A valid certificate for another host is none for this one."""
    with FaultServer(echo, tls=certificates.server(*names)) as server:
        client = client_for(registry, server.url, verify=certificates.authority)

        with pytest.raises(requests.exceptions.SSLError, match=r"(?i)match|valid for"):
            client.get("/a")
        assert server.requests == []


def test_host_name(server: FaultServer, certificates: Certificates, registry: ServiceRegistry) -> None:
    """A service called by its name shows a certificate for the name."""
    url = server.url.replace("127.0.0.1", "localhost")
    client = client_for(registry, url, verify=certificates.authority)

    assert [client.get("/a").text for _ in range(3)] == ["/a"] * 3


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_authority_of_the_environment(
    variable: str, make_client: MakeClient, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables for certificates are read once, when the client is made."""
    monkeypatch.setenv(variable, certificates.authority)
    client = make_client()
    monkeypatch.delenv(variable)

    assert [client.get("/a").text for _ in range(3)] == ["/a"] * 3
    with pytest.raises(requests.exceptions.SSLError):
        make_client(name="later").get("/a")


def test_no_verification(make_client: MakeClient) -> None:
    """``verify=False`` takes anybody, and urllib3 warns of it each time."""
    client = make_client(verify=False)

    for _ in range(3):
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            assert client.get("/a").text == "/a"


def test_verification_of_one_call(make_client: MakeClient, certificates: Certificates) -> None:
    """What one call trusts, another does not; no connection made in good faith serves a strict call."""
    client = make_client()
    for _ in range(3):
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            client.get("/a", verify=False)
        assert client.get("/b", verify=certificates.authority).text == "/b"

        with pytest.raises(requests.exceptions.SSLError):
            client.get("/c")


# -- what the client shows -----------------------------------------------------------------------------------


@pytest.fixture
def strict_server(certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(echo, tls=certificates.server(client_needed=True)) as server:
        yield server


@pytest.mark.parametrize("way", ["warm", "cold", "session"])
def test_client_certificate(
    way: str, strict_server: FaultServer, certificates: Certificates, registry: ServiceRegistry
) -> None:
    """A client with a certificate is let in, and its connections are kept."""
    options: dict[str, Any] = {"verify": certificates.authority, "cert": certificates.client}
    with client_by(way, registry, strict_server.url, **options) as client:
        assert [client.post(f"/{turn}", json={}).text for turn in range(3)] == ["/0", "/1", "/2"]
    assert strict_server.connections == 1


@pytest.mark.parametrize("shown", ["none", "stranger"])
def test_client_without_a_good_certificate(
    shown: str, strict_server: FaultServer, certificates: Certificates, registry: ServiceRegistry
) -> None:
    """A client that the service does not know gets nothing."""
    cert = certificates.stranger if shown == "stranger" else None
    client = client_for(registry, strict_server.url, verify=certificates.authority, cert=cert)

    with pytest.raises(requests.ConnectionError):
        client.get("/a")
    assert strict_server.requests == []


def test_client_certificate_of_one_call(
    strict_server: FaultServer, certificates: Certificates, registry: ServiceRegistry
) -> None:
    """A connection on which a certificate was shown is not used for calls without it."""
    client = client_for(registry, strict_server.url, verify=certificates.authority)
    for _ in range(3):
        assert client.get("/a", cert=certificates.client).text == "/a"

        with pytest.raises(requests.ConnectionError):
            client.get("/b")
    assert [each.path for each in strict_server.requests] == ["/a"] * 3


# -- IPv6 ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("way", ["warm", "cold", "session"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_ipv6(scheme: str, way: str, certificates: Certificates, registry: ServiceRegistry) -> None:
    """A service with a numeric IPv6 address is called like any other."""
    tls = certificates.server() if scheme == "https" else None
    with (
        RawServer("::1", tls=tls) as server,
        client_by(way, registry, server.url, verify=certificates.authority) as client,
    ):
        answers = [client.get("/a").text for _ in range(3)]

        assert [each.split()[0] for each in answers] == ["1"] * 3  # the connection's number
        assert all(b"Host: [::1]:%d" % server.port in each.raw for each in server.received)
