"""A proxy that forwards requests for http, and tunnels for https."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from typing import Self
from urllib.parse import urlsplit

from service_utils.testing.wire import RecordedRequest, RequestHeaders, read_request

from .sick_servers import Peer

_PATIENCE = 20.0


class Proxy:
    """Serves any number of clients.

    Args:
        tls: A server-side context; the proxy itself is then spoken to in TLS.

    Attributes:
        seen: Method and target of what it was asked for.
        headers: The headers of each.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[str] = []
        self.headers: list[RequestHeaders] = []
        self._peer = Peer(self._serve, tls=tls)
        self.url = self._peer.url

    @property
    def accepted(self) -> int:
        """How many connections there were."""
        return self._peer.accepted

    def close(self) -> None:
        """Stop at once."""
        self._peer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _serve(self, peer: Peer, sock: socket.socket) -> None:
        if peer.tls is not None:
            sock = peer.tls.wrap_socket(sock, server_side=True)
            peer.watch(sock)
        answered = (OSError, http.client.HTTPException)  # by nobody, that is
        with (
            contextlib.suppress(*answered),
            contextlib.closing(sock),
            sock.makefile("rb", buffering=0) as stream,
        ):
            while (read := read_request(stream, 0, lambda: None)) is not None:
                request, _ = read
                self.seen.append(f"{request.method} {request.target}")
                self.headers.append(request.headers)
                if request.method == "CONNECT":
                    self._tunnel(sock, request.target)
                    return
                sock.sendall(self._forwarded(request))

    def _forwarded(self, request: RecordedRequest) -> bytes:
        """The answer of the service that the request names."""
        parts = urlsplit(request.target)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=_PATIENCE)
        try:
            connection.connect()
            self._peer.watch(connection.sock)
            path = parts.path + ("?" + parts.query if parts.query else "")
            connection.request(request.method, path, request.body or None, dict(request.headers.pairs))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        head = f"HTTP/1.1 {answer.status} {answer.reason}\r\nContent-Length: {len(body)}\r\nVia: here\r\n\r\n"
        return head.encode() + body

    def _tunnel(self, sock: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE) as service:
            self._peer.watch(service)
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(service, sock), daemon=True)
            back.start()
            _pour(sock, service)
            back.join(_PATIENCE)


def _pour(source: socket.socket, target: socket.socket) -> None:
    """Hand on what comes until it ends, and then its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        socket.socket.shutdown(target, socket.SHUT_RDWR)
