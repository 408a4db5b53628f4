"""A body is part of the answer: the call notices one that breaks off, cannot be decoded or has no end."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from service_utils import (
    ResilientServiceClient,
    ResponseTooLarge,
    RetryPolicy,
    ServiceRegistry,
    call_of,
    fixed,
)
from service_utils.calls import EndReason, Outcome
from service_utils.client_options import MAX_RETRIES
from service_utils.testing import Answer, Ending, FaultServer, Raw, undecodable_gzip
from service_utils.testing.replies import Reply

from .certificates import Certificates
from .ways import WAYS, client_by, client_for, until

LIMIT = 10_000
TEXT = b"All of it. " * 500
ZIPPED = {"Content-Encoding": "gzip"}
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

CUT_OFF: dict[str, Callable[[], Reply]] = {
    "of a stated length": lambda: Answer(200, TEXT).truncated(at=50),
    "before its first byte": lambda: Answer(200, TEXT).truncated(at=0),
    "by a reset": lambda: Answer(200, TEXT).reset_at(50),
    "within a chunk": lambda: Answer(200, TEXT, chunk_size=100).truncated(at=50),
    "between two chunks": lambda: Answer(200, TEXT, chunk_size=100).truncated(at=100),
    "within the size of a chunk": lambda: Raw(CHUNKED_HEAD + b"1\r\nx\r\n1"),
    "before the last chunk": lambda: Raw(CHUNKED_HEAD + b"1\r\nx\r\n"),
    "of a gzip": lambda: Answer(200, gzip.compress(TEXT), ZIPPED).truncated(at=30),
    "of an error answer": lambda: Answer(503, TEXT).truncated(at=50),
}
SPOILT: dict[str, Callable[[], Reply]] = {
    "no gzip at all": undecodable_gzip,
    "a damaged gzip": lambda: Answer(200, gzip.compress(TEXT)[:10] + b"\xff" * 20, ZIPPED),
    "no deflate": lambda: Answer(200, b"\xff" * 20, {"Content-Encoding": "deflate"}),
    "no gzip, in chunks": lambda: Answer(200, TEXT, ZIPPED, chunk_size=100),
    "chunks that are none": lambda: Raw(CHUNKED_HEAD + b"what?\r\n"),
}
TOO_LONG: dict[str, Callable[[], Reply]] = {
    "by one byte": lambda: Answer(200, b"x" * (LIMIT + 1)),
    "by far": lambda: Answer(200, b"x" * 100 * LIMIT),
    "in chunks": lambda: Answer(200, b"x" * 10 * LIMIT, chunk_size=1000),
    "until the connection ends": lambda: Raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10 * LIMIT),
    "a bomb": lambda: Answer(200, gzip.compress(bytes(100 * LIMIT)), ZIPPED),
    "a bomb in chunks": lambda: Answer(200, gzip.compress(bytes(100 * LIMIT)), ZIPPED, chunk_size=10),
    "a deflated bomb": lambda: Answer(
        200, zlib.compress(bytes(100 * LIMIT)), {"Content-Encoding": "deflate"}
    ),
    "of an error": lambda: Answer(503, b"x" * (LIMIT + 1)),
    "and then silence": lambda: Answer(200, b"x" * 99 * LIMIT, cut_at=20 * LIMIT, ending=Ending.HANG),
}
# Nothing of these is left on the wire, so their connections may serve again.
READ_WHOLE = {
    "no gzip at all",
    "a damaged gzip",
    "no deflate",
    "by one byte",
    "of an error",
    "a bomb",
    "a deflated bomb",
}


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(tls=certificates.server() if request.param == "https" else None) as server:
        server.handler = lambda request: Answer(200, request.path)
        yield server


@pytest.fixture(params=WAYS)
def client(
    request: pytest.FixtureRequest, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> Iterator[ResilientServiceClient]:
    """Two attempts."""
    retry = RetryPolicy(max_attempts=2, backoff=fixed(0.001), budget=None)
    options: dict[str, Any] = {"retry": retry, "max_retries": MAX_RETRIES, "max_response_bytes": LIMIT}
    with client_by(request.param, registry, server.url, verify=certificates.authority, **options) as client:
        server.clear()
        yield client


def outcomes(response_or_error: object) -> list[Outcome]:
    return [attempt.outcome for attempt in call_of(response_or_error).attempts]


def counted(client: ResilientServiceClient) -> tuple[int, int]:
    """Failed and ignored calls, as the breaker sees them."""
    total = client.breaker.get_stats()["total"]
    return total["failed"], total["ignored"]


def stock_error(url: str, certificates: Certificates) -> type[Exception]:
    with requests.Session() as session, pytest.raises(requests.RequestException) as caught:
        session.get(url, timeout=10, verify=certificates.authority)
    return type(caught.value)


def assert_next_call_is_clean(
    client: ResilientServiceClient, server: FaultServer, *, on_a_new_connection: bool = True
) -> None:
    spent = server.requests[-1].connection
    assert client.get("/after").text == "/after"
    assert server.requests[-1].connection > spent or not on_a_new_connection


# -- bodies that are cut off, and bodies that are spoilt -----------------------------------------------------


@pytest.mark.parametrize("kind", CUT_OFF | SPOILT)
def test_a_bad_body_is_a_failure(
    kind: str, client: ResilientServiceClient, server: FaultServer, certificates: Certificates
) -> None:
    """It is retried, counts as a failed call in the end, and raises what requests raises."""
    reply = (CUT_OFF | SPOILT)[kind]
    server.script(reply(), reply(), reply())
    error = (
        requests.HTTPError if "error answer" in kind else stock_error(f"{server.url}/trouble", certificates)
    )
    server.clear()
    server.script(reply(), reply())

    with pytest.raises(requests.RequestException) as caught:
        client.get("/trouble")

    assert isinstance(caught.value, error) or "error answer" in kind
    assert outcomes(caught.value) == [Outcome.FAILURE, Outcome.FAILURE]
    assert call_of(caught.value).ended is EndReason.ATTEMPTS_EXHAUSTED
    assert counted(client) == (1, 0)
    assert [each.path for each in server.requests] == ["/trouble", "/trouble"]
    assert_next_call_is_clean(client, server, on_a_new_connection=kind not in READ_WHOLE)


@pytest.mark.parametrize("kind", CUT_OFF | SPOILT)
def test_a_bad_body_and_then_a_good_one(
    kind: str, client: ResilientServiceClient, server: FaultServer
) -> None:
    """The attempt after it has an answer of its own, and that is the caller's."""
    server.script((CUT_OFF | SPOILT)[kind]())

    response = client.post("/trouble", json={})

    assert response.text == "/trouble"
    assert outcomes(response) == [Outcome.FAILURE, Outcome.SUCCESS]
    assert counted(client) == (0, 0)
    first, second = server.requests
    assert first.connection < second.connection or kind in READ_WHOLE
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


def test_a_bad_body_of_a_write_that_nothing_protects(
    server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """A POST without a key is not repeated: it has been done."""
    server.script(Answer(200, TEXT).truncated(at=50))
    with client_for(
        registry, server.url, verify=certificates.authority, max_retries=3, idempotency_keys=False
    ) as unprotected:
        with pytest.raises(requests.RequestException):
            unprotected.post("/trouble", json={})

        assert counted(unprotected) == (1, 0)
    assert len(server.requests) == 1


def test_answers_without_a_body(client: ResilientServiceClient, server: FaultServer) -> None:
    """Where an answer has no body by its nature, none is missed."""
    server.script(
        Answer(200, headers={"Content-Length": "100"}),
        Answer(204, headers={"Content-Length": "100"}),
        Answer(304, headers={"Content-Length": "100"}),
    )

    assert client.head("/a").content == b""
    assert client.get("/b").content == b""
    assert client.get("/c").content == b""
    assert client.get("/d").text == "/d"
    assert len({each.connection for each in server.requests}) == 1


# -- bodies that are too long --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOO_LONG)
def test_a_body_that_is_too_long(kind: str, client: ResilientServiceClient, server: FaultServer) -> None:
    """It is neither retried nor held against the service, and the error names the limit."""
    server.script(TOO_LONG[kind]())

    with pytest.raises(ResponseTooLarge, match=f"max_response_bytes={LIMIT}") as caught:
        client.get("/trouble", timeout=5)

    assert caught.value.limit == LIMIT
    assert len(call_of(caught.value).attempts) == 1
    assert counted(client) == (0, 1)
    assert_next_call_is_clean(client, server, on_a_new_connection=kind not in READ_WHOLE)


@pytest.mark.parametrize("chunk_size", [None, 999])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_body_as_long_as_allowed(
    zipped: bool, chunk_size: int | None, client: ResilientServiceClient, server: FaultServer
) -> None:
    """The limit itself is not over the limit; what counts is the length after decoding."""
    body = b"x" * LIMIT
    wire, headers = (gzip.compress(body), ZIPPED) if zipped else (body, {})
    server.script(*[Answer(200, wire, headers, chunk_size=chunk_size)] * 2)

    assert client.get("/a").content == body
    assert client.get("/b").content == body
    assert len({each.connection for each in server.requests}) == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("way", WAYS)
def test_bombs_are_not_unpacked(
    way: str, coding: str, registry: ServiceRegistry, fault_server: FaultServer
) -> None:
    """Of an answer that unpacks to a flood no more is unpacked than is allowed, give or take a little."""
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[coding]
    fault_server.handler = lambda request: Answer(200)
    bomb = Answer(200, pack(bytes(64 * 2**20)), {"Content-Encoding": coding})
    with client_by(way, registry, fault_server.url, max_response_bytes=2**20) as client:
        fault_server.script(bomb)
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLarge):
                client.get("/trouble")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak < 16 * 2**20


def test_a_stream_is_not_limited(client: ResilientServiceClient, server: FaultServer) -> None:
    """A body that the caller reads himself may be as long as he likes."""
    server.script(Answer(200, b"x" * 3 * LIMIT))

    with client.get("/a", stream=True) as response:
        assert sum(map(len, response.iter_content(1000))) == 3 * LIMIT


# -- time ----------------------------------------------------------------------------------------------------

SLOW: dict[str, Callable[[], Reply]] = {
    "good": lambda: Answer(200, TEXT, body_delay=0.1),
    "good, in chunks": lambda: Answer(200, TEXT, chunk_size=1000, body_delay=0.1),
    "cut off": lambda: Answer(200, TEXT, body_delay=0.1).truncated(at=50),
    "no gzip": lambda: Answer(200, TEXT, ZIPPED, body_delay=0.1),
    "too long": lambda: Answer(200, b"x" * (LIMIT + 1), chunk_size=1000, body_delay=0.1),
}


@pytest.mark.parametrize("kind", SLOW)
def test_the_body_is_part_of_the_attempts_time(
    kind: str, client: ResilientServiceClient, server: FaultServer
) -> None:
    """The duration of an attempt includes its body, whatever becomes of it."""
    server.script(SLOW[kind](), SLOW[kind]())

    result: Any
    try:
        result = client.get("/slow")
    except requests.RequestException as error:
        result = error

    attempts = call_of(result).attempts
    assert len(attempts) == (2 if kind in ("cut off", "no gzip") else 1)
    assert all(0.1 <= attempt.duration < 2.0 for attempt in attempts)
    assert call_of(result).duration >= sum(attempt.duration for attempt in attempts)


def test_elapsed_is_the_time_to_the_head(client: ResilientServiceClient, server: FaultServer) -> None:
    """``response.elapsed`` is what it is in requests: the time until the head had arrived."""
    server.script(Answer(200, TEXT, delay=0.05, body_delay=0.3))

    elapsed = client.get("/slow").elapsed.total_seconds()

    assert 0.05 <= elapsed < 0.3


def test_a_stream_ends_with_its_head(client: ResilientServiceClient, server: FaultServer) -> None:
    """For ``stream=True`` the call has ended when the head is there."""
    server.script(Answer(200, TEXT, body_delay=0.3).truncated(at=50))

    with client.get("/slow", stream=True) as response:
        assert call_of(response).attempts[0].duration < 0.3
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(response.iter_content(1000))

    assert counted(client) == (0, 0)
    until(lambda: server.open_connections <= 1)
    assert_next_call_is_clean(client, server)


def test_a_body_announced_as_too_long(client: ResilientServiceClient, server: FaultServer) -> None:
    """It is refused by its head, and not waited for."""
    server.script(Answer(200, b"x" * (LIMIT + 1)).stalled_at(10))

    with pytest.raises(ResponseTooLarge):
        client.get("/x")
