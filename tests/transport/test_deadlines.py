"""No answer, however slow, makes a call last longer than its time-out or its deadline allows."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from service_utils import ResilientServiceClient, RetryPolicy, ServiceRegistry, call_of, fixed
from service_utils.client_options import MAX_RETRIES
from service_utils.testing import Answer, Drip, FaultServer, Raw, RecordedRequest, blackhole
from service_utils.testing.replies import Reply

from .certificates import Certificates
from .sick_servers import Peer, Pieces, dripping
from .ways import (
    GROUPS,
    LIMIT,
    TRACED_WAYS,
    WAYS,
    all_get_their_answers,
    all_give_up,
    client_by,
    crowd_by,
    extra_threads,
    gives_up,
    until,
)

SLOWLY = Drip(1, 0.02)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NOISE = random.Random(1).randbytes(2000)  # that does not get shorter
MANY_CONTINUES = b"HTTP/1.1 100 Continue\r\n\r\n" * 500_000
MANY_CHUNKS = CHUNKED + b"1\r\nx\r\n" * 3_000_000
MANY_TRAILERS = CHUNKED + b"1\r\nx\r\n0\r\n" + b"X-A: b\r\n" * 3_000_000

ANSWERS: dict[str, Callable[[], Reply | Pieces]] = {
    "silence": blackhole,
    "head byte by byte": lambda: Answer(200, "x" * 100, {"X-Long": "y" * 500}, drip_head=SLOWLY),
    "header after header": lambda: Raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 500, drip=Drip(8, 0.02)),
    "head without end": lambda: dripping(b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 500),
    "silence after half a head": lambda: Pieces(((0.0, b"HTTP/1.1 200 OK\r\nContent-Le"),)),
    "body byte by byte": lambda: Answer(200, "x" * 500, drip=SLOWLY),
    "body without length": lambda: dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 500),
    "silence within the body": lambda: Answer(200, "x" * 500).stalled_at(10),
    "silence before the body": lambda: Answer(200, "x" * 500, body_delay=20),
    "chunk by chunk": lambda: Answer(200, "x" * 500, chunk_size=1, drip=Drip(6, 0.02)),
    "chunks byte by byte": lambda: Answer(200, "x" * 500, chunk_size=3, drip=SLOWLY),
    "size of a chunk without end": lambda: dripping(CHUNKED, b"0" * 500),
    "trailer after trailer": lambda: Pieces(
        ((0.0, CHUNKED + b"1\r\nx\r\n0\r\n"), *((0.02, b"X-A: b\r\n"),) * 500)
    ),
    "trailers byte by byte": lambda: dripping(CHUNKED + b"1\r\nx\r\n0\r\n", b"X-A: b\r\n" * 100),
    "silence instead of the last chunk": lambda: Pieces(((0.0, CHUNKED + b"1\r\nx\r\n"),)),
    "gzip byte by byte": lambda: Answer(200, gzip.compress(NOISE), {"Content-Encoding": "gzip"}, drip=SLOWLY),
    "continue after continue": lambda: Raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 500, drip=Drip(25, 0.02)),
    "a flood of continues": lambda: Raw(MANY_CONTINUES),
    "a flood of chunks": lambda: Raw(MANY_CHUNKS),
    "a flood of trailers": lambda: Raw(MANY_TRAILERS),
    "body of a redirect byte by byte": lambda: Answer(302, "x" * 500, {"Location": "/"}, drip=SLOWLY),
    "body of an error byte by byte": lambda: Answer(503, "x" * 500, drip=SLOWLY),
}


def handler(trouble: str) -> Callable[[RecordedRequest], Reply | Pieces]:
    def answer(request: RecordedRequest) -> Reply | Pieces:
        return ANSWERS[trouble]() if request.path == "/trouble" else Answer(200, request.path)

    return answer


def get(client: ResilientServiceClient, **limit: float) -> None:
    client.get("/trouble", **limit)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until(lambda: not extra_threads(before))


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(tls=certificates.server() if request.param == "https" else None) as server:
        yield server


def cases() -> Iterator[tuple[str, str]]:
    """Kinds of trouble, and whether somebody looks on while they happen."""
    for trouble in ANSWERS:
        yield trouble, "plain"
    for group in TRACED_WAYS:
        for trouble in ("silence", "head byte by byte", "body byte by byte", "chunk by chunk"):
            yield trouble, group


@pytest.mark.parametrize(("trouble", "group"), list(cases()))
def test_slow_answers(
    trouble: str, group: str, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """A call ends in time, however the answer comes, and the next one is not given what is left of it."""
    server.handler = handler(trouble)  # type: ignore[assignment]
    with crowd_by(group, registry, server.url, verify=certificates.authority) as crowd:
        all_give_up(crowd, get)
        all_get_their_answers(crowd)

        spent = {each.connection for each in server.requests if each.path == "/trouble"}
        after = {each.connection for each in server.requests if each.path.startswith("/after")}
        assert 0 < len(spent) <= len(crowd)  # on a busy machine a handshake may take all of the time
        assert len(after) == len(crowd)
        assert not spent & after


@pytest.mark.parametrize("way", WAYS)
def test_slow_but_in_time(
    way: str, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """An answer that comes slowly and in time comes whole, and its connection is used again."""
    server.handler = lambda request: Answer(200, "x" * 20, drip=Drip(1, 0.01), drip_head=Drip(9, 0.01))
    with client_by(way, registry, server.url, verify=certificates.authority) as client:
        assert client.get("/slow", timeout=10, deadline=10).text == "x" * 20
        assert client.get("/slow", timeout=10, deadline=10).text == "x" * 20
    assert server.connections == 1


def test_pair_of_timeouts(server: FaultServer, registry: ServiceRegistry, certificates: Certificates) -> None:
    """A (connect, read) pair keeps requests' own meaning: the read time-out is for each piece."""
    server.handler = lambda request: Answer(200, "x" * 20, drip=Drip(1, 0.02))
    with client_by("warm", registry, server.url, verify=certificates.authority) as client:
        assert client.get("/slow", timeout=(5, 0.3)).text == "x" * 20

        server.handler = handler("silence within the body")  # type: ignore[assignment]
        with gives_up("timeout"):
            client.get("/trouble", timeout=(5, LIMIT))


@pytest.mark.parametrize("way", WAYS)
def test_deadline_bounds_a_pair_of_timeouts(
    way: str, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """The deadline is one, whatever the time-outs of each piece."""
    server.handler = handler("body byte by byte")  # type: ignore[assignment]
    with (
        client_by(way, registry, server.url, verify=certificates.authority) as client,
        gives_up("deadline"),
    ):
        client.get("/trouble", timeout=(5, 5), deadline=LIMIT)


@pytest.mark.parametrize("way", WAYS)
def test_all_attempts_together(
    way: str, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """A deadline is for all attempts; each of them has its own time-out within."""
    server.handler = handler("head byte by byte")  # type: ignore[assignment]
    retry = RetryPolicy(max_attempts=50, backoff=fixed(0.01), budget=None)
    options = {"verify": certificates.authority, "max_retries": MAX_RETRIES, "retry": retry}
    with client_by(way, registry, server.url, **options) as client:
        with gives_up("deadline", 1.0) as caught:
            client.get("/trouble", timeout=0.35, deadline=1.0)

        assert len(call_of(caught.value).attempts) == 3


@pytest.mark.parametrize("group", GROUPS)
def test_redirect_after_redirect(
    group: str, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> None:
    """All hops of an attempt share its time."""

    def hop(request: RecordedRequest) -> Answer:
        if request.path.startswith("/trouble"):
            return Answer(302, "go on", {"Location": f"{request.path}x"}, delay=0.06)
        return Answer(200, request.path)

    server.handler = hop
    with crowd_by(group, registry, server.url, verify=certificates.authority) as crowd:
        all_give_up(crowd, get)

        all_get_their_answers(crowd)


@pytest.mark.parametrize("group", GROUPS)
def test_the_service_is_left(group: str, registry: ServiceRegistry) -> None:
    """A service that works on an answer nobody waits for any more sees the connection closed."""
    left = threading.Semaphore(0)

    def manner(_peer: Peer, sock: socket.socket) -> None:
        while b"/trouble" not in (head := sock.recv(65536)):
            if not head:
                return
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        try:
            gone = not sock.recv(1)
        except ConnectionResetError:  # closed before it had read what we sent
            gone = True
        if gone:
            left.release()

    with Peer(manner) as peer, crowd_by(group, registry, peer.url) as crowd:
        all_give_up(crowd, get)

        assert all(left.acquire(timeout=10) for _ in crowd)
