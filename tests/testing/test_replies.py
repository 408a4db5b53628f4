"""The replies of a FaultServer, byte by byte and as a client meets them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
import requests

from service_utils.testing import (
    Answer,
    Drip,
    Ending,
    FaultServer,
    Raw,
    RequestHeaders,
    blackhole,
    close_connection,
    garbage,
    reset_connection,
    undecodable_gzip,
)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def read_all(server: FaultServer, request: bytes = LAST_GET) -> tuple[bytes, bool]:
    """What comes back until the connection ends, and whether it ended with a reset."""
    got = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(request)
        try:
            while data := sock.recv(65536):
                got += data
        except ConnectionResetError:
            return got, True
    return got, False


@pytest.mark.parametrize(
    ("answer", "wire"),
    [
        (Answer(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (Answer(404, "no"), b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"),
        (Answer(200, "é"), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xc3\xa9"),
        (Answer(599), b"HTTP/1.1 599 Unknown\r\nContent-Length: 0\r\n\r\n"),
        (Answer(204), b"HTTP/1.1 204 No Content\r\n\r\n"),
        (Answer(304, "not sent"), b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        (Answer(200, "", {"A": "1"}), b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 0\r\n\r\n"),
        (
            Answer(200, "", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]),
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            Answer(200, "longer", {"content-length": "3"}),
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nlonger",
        ),
        (
            Answer(200, "hello", chunk_size=2),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n2\r\nll\r\n1\r\no\r\n0\r\n\r\n",
        ),
        (
            Answer.json({"a": 1}),
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}',
        ),
    ],
)
def test_answer_on_the_wire(server: FaultServer, answer: Answer, wire: bytes) -> None:
    """An answer is sent exactly as its fields say."""
    server.script(answer)
    assert read_all(server) == (wire, False)


@pytest.mark.parametrize(
    ("answer", "body", "reset"),
    [
        (Answer(200, "hello").truncated(at=2), b"he", False),
        (Answer(200, "hello").truncated(at=0), b"", False),
        (Answer(200, "hello").reset_at(3), b"hel", True),
        (Answer(200, "hello").reset_at(0), b"", True),
        (Answer(200, "hello").then_close(), b"hello", False),
    ],
)
def test_broken_answer_announces_the_whole(
    server: FaultServer, answer: Answer, body: bytes, reset: bool
) -> None:
    """However early an answer breaks off, its head promises all of the body."""
    server.script(answer)
    assert read_all(server, GET) == (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body, reset)


@pytest.mark.parametrize(
    ("at", "body"),
    [
        (0, b""),
        (2, b"2\r\nhe\r\n"),
        (3, b"2\r\nhe\r\n2\r\nl"),
        (5, b"2\r\nhe\r\n2\r\nll\r\n1\r\no\r\n"),
    ],
)
def test_truncated_chunked_body_has_no_end(server: FaultServer, at: int, body: bytes) -> None:
    """A chunked body that is cut ends in a chunk or between two, never with the last one."""
    server.script(Answer(200, "hello", chunk_size=2).truncated(at))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert read_all(server, GET) == (head + body, False)


def test_answer_to_head_has_no_body(server: FaultServer) -> None:
    """HEAD gets the head that GET would get."""
    server.script(Answer(200, "hello"))
    response = requests.head(server.url, timeout=10)
    assert (response.headers["Content-Length"], response.content) == ("5", b"")


def test_then_close_is_a_trap_for_pools(server: FaultServer) -> None:
    """The connection looks as if it could be used again, and cannot."""
    server.script(Answer(200, "hello").then_close())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(GET)
        got = b""
        while data := sock.recv(1000):
            got += data
    assert b"Connection: close" not in got
    assert got.endswith(b"hello")


def test_drip_sends_the_body_piece_by_piece(server: FaultServer) -> None:
    """Between two pieces of the body goes the pause that was asked for."""
    server.script(Answer(200, "abc", drip=Drip(1, every=0.02)))
    began = time.monotonic()
    assert requests.get(server.url, timeout=10).text == "abc"
    assert time.monotonic() - began >= 0.04


def test_drip_head_sends_the_head_piece_by_piece(server: FaultServer) -> None:
    """A head may drip as well: each byte comes in time for a read time-out, the whole does not."""
    server.script(Answer(200, "abc", drip_head=Drip(10, every=0.01)))
    began = time.monotonic()
    assert requests.get(server.url, timeout=10).text == "abc"
    assert time.monotonic() - began >= 0.03


@pytest.mark.parametrize("answer", [Answer(200, delay=0.05), Answer(200, "x", body_delay=0.05)])
def test_delay_comes_before_the_answer(server: FaultServer, answer: Answer) -> None:
    """A delayed answer arrives late and whole."""
    server.script(answer)
    began = time.monotonic()
    assert requests.get(server.url, timeout=10).status_code == 200
    assert time.monotonic() - began >= 0.05


def test_body_delay_comes_after_the_head(server: FaultServer) -> None:
    """With ``body_delay`` the client has the head while it waits for the body."""
    server.script(Answer(200, "x", body_delay=60))
    with requests.get(server.url, timeout=10, stream=True) as response:
        assert response.status_code == 200


def test_stalled_answer_never_ends(server: FaultServer) -> None:
    """After its last byte comes silence."""
    server.script(Answer(200, "hello").stalled_at(2))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(GET)
        got = b""
        while not got.endswith(b"\r\n\r\nhe"):
            got += sock.recv(1000)
        sock.settimeout(0.02)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_blackhole_never_answers(server: FaultServer) -> None:
    """The request is taken and recorded, and that is all."""
    server.script(blackhole())
    with pytest.raises(requests.ReadTimeout):
        requests.get(server.url, timeout=(10, 0.05))
    server.wait_for_requests(1)


def test_close_connection_ends_without_a_byte(server: FaultServer) -> None:
    """End of file comes in place of an answer."""
    server.script(close_connection())
    assert read_all(server, GET) == (b"", False)


def test_reset_connection_resets_without_a_byte(server: FaultServer) -> None:
    """A TCP reset comes in place of an answer."""
    server.script(reset_connection())
    assert read_all(server, GET) == (b"", True)


def test_garbage_is_no_http(server: FaultServer) -> None:
    """A client finds no status line in what comes."""
    server.script(garbage(b"220 smtp.example ESMTP\r\n"))
    with pytest.raises(requests.ConnectionError, match="BadStatusLine"):
        requests.get(server.url, timeout=10)


def test_undecodable_gzip_has_a_fine_head(server: FaultServer) -> None:
    """The status says 200, and only who decodes the body learns that it is broken."""
    server.script(undecodable_gzip())
    with pytest.raises(requests.exceptions.ContentDecodingError):
        requests.get(server.url, timeout=10)


def test_raw_sends_any_bytes(server: FaultServer) -> None:
    """A reply may be any bytes, broken off in the head for instance."""
    server.script(Raw(b"HTTP/1.1 200 O", drip=Drip(5, every=0.001), delay=0.001, ending=Ending.RESET))
    assert read_all(server, GET) == (b"HTTP/1.1 200 O", True)


def test_raw_may_keep_the_connection(server: FaultServer) -> None:
    """Hand-written HTTP can go on like any other."""
    server.script(Raw(b"HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n", ending=Ending.KEEP_OPEN))
    with requests.Session() as session:
        assert session.get(server.url, timeout=10).reason == "Fine"
        session.get(server.url, timeout=10)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("status", {"status": 99}),
        ("delay", {"delay": -1.0}),
        ("body_delay", {"body_delay": float("nan")}),
        ("chunk_size", {"chunk_size": 0}),
        ("cut_at", {"body": "abc", "cut_at": 4}),
        ("cut_at", {"cut_at": -1}),
    ],
)
def test_impossible_answers_are_refused(name: str, arguments: dict[str, object]) -> None:
    """An answer that cannot be sent is refused where it is made, by the name of its field."""
    with pytest.raises(ValueError, match=f"^{name}="):
        Answer(**arguments)  # type: ignore[arg-type]


def test_impossible_drips_are_refused() -> None:
    """A drip has at least one byte and a pause that can be waited."""
    with pytest.raises(ValueError, match=r"^size=0"):
        Drip(0)
    with pytest.raises(ValueError, match=r"^every=-1"):
        Drip(1, every=-1)


def test_impossible_raw_delay_is_refused() -> None:
    """Bytes cannot be sent before they are asked for."""
    with pytest.raises(ValueError, match=r"^delay=-1"):
        Raw(b"", delay=-1)


def test_header_of_an_answer_is_found_in_any_case() -> None:
    """Names of headers have no case."""
    answer = Answer(200, headers={"Retry-After": "3"})
    assert answer.header("retry-after") == "3"
    assert answer.header("Location") is None


def test_request_headers_are_a_mapping_without_case() -> None:
    """Recorded headers are looked up by any case; repeated ones are joined, or told apart on demand."""
    headers = RequestHeaders((("Accept", "a"), ("X-One", "1"), ("accept", "b")))
    assert headers["ACCEPT"] == "a, b"
    assert headers.get_all("Accept") == ["a", "b"]
    assert "x-one" in headers
    assert headers.get("X-Two") is None
    assert list(headers) == ["accept", "X-One"]
    assert len(headers) == 2


def test_request_headers_do_not_print_their_values() -> None:
    """A recorded credential does not end up in the output of a failing test."""
    assert "secret" not in repr(RequestHeaders((("Authorization", "Bearer secret"),)))
