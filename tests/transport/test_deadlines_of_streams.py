"""What bounds a body that the caller reads himself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.testing import Answer, Drip, FaultServer, RecordedRequest
from service_utils.testing.replies import Reply
from tests.side_by_side import together

from .certificates import Certificates
from .sick_servers import Pieces, dripping
from .ways import LIMIT, SLACK, WAYS, client_by, extra_threads, note_overrun, until

DRIPPING = Drip(1, 0.02)

BODIES: dict[str, Callable[[], Reply | Pieces]] = {
    "of a stated length": lambda: Answer(200, "x" * 500, drip=DRIPPING),
    "in chunks": lambda: Answer(200, "x" * 500, chunk_size=1, drip=Drip(6, 0.02)),
    "until the connection ends": lambda: dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 500),
}

READINGS: dict[str, Callable[[requests.Response], object]] = {
    "content": lambda response: response.content,
    "iter_content": lambda response: list(response.iter_content(7)),
    "iter_lines": lambda response: list(response.iter_lines()),
    "raw": lambda response: response.raw.read(),
}


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until(lambda: not extra_threads(before))


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(tls=certificates.server() if request.param == "https" else None) as server:
        yield server


@pytest.fixture(params=WAYS)
def client(
    request: pytest.FixtureRequest, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> Iterator[ResilientServiceClient]:
    with client_by(request.param, registry, server.url, verify=certificates.authority) as client:
        yield client


def only(path: str, reply: Callable[[], Reply | Pieces]) -> Callable[[RecordedRequest], Reply | Pieces]:
    return lambda request: reply() if request.path == path else Answer(200, request.path)


@contextlib.contextmanager
def ends_after(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - raw raises urllib3's own
        yield
    took = time.monotonic() - began
    note_overrun(took - seconds)
    assert isinstance(caught.value, requests.RequestException | OSError) or "urllib3" in str(
        type(caught.value)
    )
    assert "timed out" in str(caught.value).lower() or isinstance(caught.value, requests.Timeout)
    assert seconds * 0.9 <= took < seconds + SLACK


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("body", BODIES)
def test_deadline_of_a_stream(
    body: str, reading: str, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """A streamed body is bounded by the deadline of its call, whatever the caller reads it with."""
    server.handler = only("/trouble", BODIES[body])  # type: ignore[assignment]

    def work(number: int) -> None:
        with client_by(WAYS[number], registry, server.url, verify=certificates.authority) as client:
            query = f"n={number}"
            with (
                ends_after(LIMIT),
                client.get("/trouble", params=query, stream=True, deadline=LIMIT) as response,
            ):
                READINGS[reading](response)
            assert client.get("/after", params=query).text == "/after"

    together(len(WAYS), work)

    spent = {each.connection for each in server.requests if each.path == "/trouble"}
    after = {each.connection for each in server.requests if each.path == "/after"}
    assert 0 < len(spent) <= len(WAYS)  # on a busy machine a handshake may take all of the time
    assert len(after) == len(WAYS)
    assert not spent & after


def test_deadline_passes_while_the_caller_does_something_else(
    client: ResilientServiceClient, server: FaultServer
) -> None:
    """Time that the caller takes counts, too."""
    server.handler = only("/trouble", lambda: Answer(200, "x" * 10, body_delay=0.5))  # type: ignore[assignment]
    with client.get("/trouble", stream=True, deadline=LIMIT) as response:
        time.sleep(LIMIT)
        with ends_after(0.0):
            list(response.iter_content(1))


def test_without_a_deadline_the_timeout_is_for_each_piece(
    client: ResilientServiceClient, server: FaultServer
) -> None:
    """A stream may take as long as it likes, as long as something comes."""
    server.handler = only("/slow", lambda: Answer(200, "x" * 20, drip=DRIPPING))  # type: ignore[assignment]
    with client.get("/slow", stream=True, timeout=LIMIT) as response:
        assert b"".join(response.iter_content(1)) == b"x" * 20


def test_timeout_of_a_piece(client: ResilientServiceClient, server: FaultServer) -> None:
    """A stream from which nothing comes for as long as the time-out has failed."""
    server.handler = only("/trouble", lambda: Answer(200, "x" * 20).stalled_at(5))  # type: ignore[assignment]
    response = client.get("/trouble", stream=True, timeout=LIMIT)
    with response, ends_after(LIMIT):
        list(response.iter_content(1))

    assert client.get("/after").text == "/after"


def test_inbound_deadline_of_a_stream(client: ResilientServiceClient, server: FaultServer) -> None:
    """The deadline of the request that is being served bounds a stream as well."""
    server.handler = only("/trouble", lambda: Answer(200, "x" * 500, drip=DRIPPING))  # type: ignore[assignment]
    token = bind_context(deadline=Deadline.after(LIMIT))
    try:
        with ends_after(LIMIT), client.get("/trouble", stream=True, timeout=20) as response:
            list(response.iter_content(1))
    finally:
        unbind_context(token)


def test_stream_that_is_read_in_time(client: ResilientServiceClient, server: FaultServer) -> None:
    """A stream that was read to its end gives its connection back, and the next call is bounded anew."""
    server.handler = lambda request: Answer(200, request.path * 1000)
    for _ in range(3):
        with client.get("/a", stream=True, deadline=10) as response:
            assert b"".join(response.iter_content(100)) == b"/a" * 1000
    assert client.get("/b").text == "/b" * 1000

    assert server.connections == 1


def test_connection_of_a_stream_is_bounded_anew(client: ResilientServiceClient, server: FaultServer) -> None:
    """What bounded a stream does not bound what comes later on its connection."""
    with client.get("/a", stream=True, deadline=0.1) as response:
        assert response.content == b""
    time.sleep(0.15)

    assert client.get("/b", timeout=20).status_code == 200
    with client.get("/c", stream=True) as response:
        time.sleep(0.1)
        assert response.content == b""
    assert server.connections == 1
