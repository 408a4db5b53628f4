"""Redirects filled the memory, lost a streamed body, doubled a charge and blamed the caller."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest
import requests
from requests.adapters import HTTPAdapter

from service_utils import ResilientServiceClient, ResponseTooLarge, RetryPolicy, ServiceRegistry, call_of
from service_utils.testing import FakeClock, FaultServer
from service_utils.testing.replies import Answer, Raw


def client_of(url: str, **options: object) -> ResilientServiceClient:
    return ResilientServiceClient(url, clock=FakeClock(), registry=ServiceRegistry(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_a_redirect_with_a_huge_body(fault_server: FaultServer, own: bool, stream: bool) -> None:
    """The body of a redirect counts against max_response_bytes like any other."""
    fault_server.script(Answer(302, b"x" * 100_000, {"Location": "/b"}))
    session = None if own else requests.Session()
    client = client_of(fault_server.url, max_response_bytes=1000, session=session)

    with pytest.raises(ResponseTooLarge):
        client.get("/a", stream=stream)

    assert len(fault_server.requests) == 1


def test_a_redirect_of_a_generator(fault_server: FaultServer) -> None:
    """A generator that has been sent is not sent again as nothing at all: the redirect comes back."""
    fault_server.script(Answer(307, b"", {"Location": "/b"}))

    def body() -> Iterator[bytes]:
        yield b"all"
        yield b"of it"

    response = client_of(fault_server.url).post("/a", data=body())

    assert response.status_code == 307
    assert [(request.path, request.body) for request in fault_server.requests] == [("/a", b"allof it")]


class Vanishing(HTTPAdapter):
    """Sends to the server once, and finds nobody there afterwards."""

    sent = 0

    def send(self, request: requests.PreparedRequest, **settings: object) -> requests.Response:  # type: ignore[override]
        self.sent += 1
        if self.sent > 1:
            request.url = "http://127.0.0.1:9/"
        return super().send(request, **settings)  # type: ignore[arg-type]


def test_a_service_that_goes_away_after_it_has_redirected(fault_server: FaultServer) -> None:
    """A POST that was answered with 303 has been done: it is not repeated because the next page is away."""
    fault_server.script(Answer(303, b"", {"Location": "/receipt"}).then_close())
    session = requests.Session()
    session.mount("http://", Vanishing())
    client = client_of(fault_server.url, session=session, idempotency_keys=False)

    with pytest.raises(requests.ConnectionError) as failure:
        client.post("/charge", json={"amount": 1})

    assert call_of(failure.value).ended == "not_retryable"
    assert len(fault_server.requests) == 1


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("address", [b"/\xff", b"http://[::1", b"http://127.0.0.1:port/", b"what://is/this"])
def test_an_address_that_is_none(fault_server: FaultServer, own: bool, address: bytes) -> None:
    """A redirect to what nobody can read comes back as the answer it is."""
    fault_server.script(Raw(b"HTTP/1.1 302 Found\r\nLocation: " + address + b"\r\nContent-Length: 0\r\n\r\n"))
    session = None if own else requests.Session()

    assert client_of(fault_server.url, session=session).get("/a").status_code == 302


def test_a_head_that_contradicts_itself(fault_server: FaultServer) -> None:
    """An answer with two lengths is a failure of the service, not a mistake of the caller."""
    fault_server.default = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello")
    client = client_of(fault_server.url, retry=RetryPolicy(max_attempts=2))

    with pytest.raises(requests.ConnectionError, match="the head of the answer is malformed"):
        client.get("/a")

    assert len(fault_server.requests) == 2
    assert client.get_status()["failure_count"] == 1


def test_an_answer_after_a_redirect_can_be_pickled(fault_server: FaultServer) -> None:
    """Answers can be kept in a cache, redirected or not."""
    fault_server.script(Answer(302, b"", {"Location": "/b"}), Answer(200, "there"))

    response = pickle.loads(pickle.dumps(client_of(fault_server.url).get("/a")))

    assert response.text == "there"
    assert [each.status_code for each in response.history] == [302]
