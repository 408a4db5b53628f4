"""Lines between the chunks of a body could grow without bound, where urllib3 does not limit them itself."""

from __future__ import annotations

import contextlib
import http.client
import socket

import pytest

from service_utils.http.connection import BoundedHTTPConnection


@pytest.mark.parametrize("line", [b"5;", b"0\r\nX-Trailer: "])
def test_is_not_read_to_the_end(line: bytes) -> None:
    """A chunk's size or a trailer of more than 64 KiB ends the reading, and the connection with it."""
    near, far = socket.socketpair()
    with contextlib.closing(near), contextlib.closing(far):
        conn = BoundedHTTPConnection("127.0.0.1", timeout=20)
        conn.sock = near
        far.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + line + b"a" * 66_000)
        response = conn.response_class(near, method="GET")
        response.begin()

        with contextlib.closing(response), pytest.raises(http.client.LineTooLong):
            list(iter(response.fp.readline, b""))
        assert conn.spoilt
