"""Where a message ends, however its bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.testing.framing import Framing, Side

_MESSAGES = {
    b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n": Side.REQUEST,
    b"POST /a HTTP/1.0\r\ncontent-LENGTH: 7\r\n\r\n\r\n\r\nabc": Side.REQUEST,
    b"PUT / HTTP/1.1\nContent-Length:3\n\nabc": Side.REQUEST,
    b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n":
        Side.REQUEST,
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n0\r\nTrailer: 1\r\nB: 2\r\n\r\n":
        Side.REQUEST,
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok": Side.RESPONSE,
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n": Side.RESPONSE,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\n?":
        Side.RESPONSE,
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n": Side.RESPONSE,
    b"HTTP/1.1 204 No Content\r\n\r\n": Side.RESPONSE,
}  # fmt: skip


@given(st.sampled_from(sorted(_MESSAGES)), st.lists(st.integers(1, 40), min_size=1))
def test_end_is_found_however_the_bytes_come(message: bytes, sizes: list[int]) -> None:
    """Every byte of the message belongs to it, and none of the next one, in pieces of whatever size."""
    framing = Framing(_MESSAGES[message], "GET")
    stream, taken = message + b"GET /next HTTP/1.1\r\n\r\n", 0
    for turn in range(len(stream)):
        if framing.complete:
            break
        piece = stream[taken : taken + sizes[turn % len(sizes)]]
        taken += framing.feed(piece)
    assert (framing.complete, taken) == (True, len(message))
    assert not framing.until_closed


@pytest.mark.parametrize(
    ("side", "method", "data"),
    [
        (Side.REQUEST, None, b"\x16\x03\x01\x00 a TLS hello"),
        (Side.REQUEST, None, b"GET / HTTP/2.0\r\n\r\n"),
        (Side.REQUEST, None, b"not HTTP\n"),
        (Side.REQUEST, None, b"GET / HTTP/1.1\r\nA: " + b"x" * 2**16),
        (Side.REQUEST, None, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"),
        (Side.RESPONSE, "GET", b"\x16\x03"),
        (Side.RESPONSE, "GET", b"HTTP/1.1 what\r\n\r\n"),
        (Side.RESPONSE, "GET", b"HTTP/1.1 200 OK\r\n\r\nno length"),
        (Side.RESPONSE, "GET", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (Side.RESPONSE, "CONNECT", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_what_has_no_end_lasts_until_closed(side: Side, method: str | None, data: bytes) -> None:
    """What is no HTTP/1, or says no length, ends with its connection, and all bytes belong to it."""
    framing = Framing(side, method)
    assert framing.feed(data) == len(data)
    assert framing.until_closed
    assert framing.feed(b"GET / HTTP/1.1\r\n\r\n") == 18
    assert not framing.complete


def test_what_is_known_of_a_message() -> None:
    """Method and target of a request, the status of the answer."""
    request = Framing(Side.REQUEST)
    request.feed(b"HEAD /a?b HTTP/1.1\r\n\r\n")
    assert (request.method, request.target, request.status) == ("HEAD", "/a?b", None)
    response = Framing(Side.RESPONSE, request.method)
    response.feed(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n")
    assert (response.status, response.complete) == (503, True)
