"""TLS within a proxy's tunnel was given as much time as the tunnel, whatever that had used up."""

from __future__ import annotations

import socket
import time

from service_utils.http.connection import BoundedHTTPConnection
from service_utils.http.sending import Sending
from tests.transport.sick_servers import Peer

_DELAY = 0.1


def _grant_late(peer: Peer, sock: socket.socket) -> None:
    sock.recv(65536)
    peer.over.wait(_DELAY)
    sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    peer.over.wait(20)


def test_what_the_tunnel_took_is_gone() -> None:
    """When a proxy has granted a tunnel, what follows has only the time that is left."""
    with Peer(_grant_late) as proxy:
        conn = BoundedHTTPConnection("127.0.0.1", proxy.port)
        conn.set_tunnel("service.example", 443)
        conn.carry(Sending(time.monotonic() + 20))
        conn.connect()

        assert conn.sock.gettimeout() < 20 - _DELAY / 2
        conn.close()
