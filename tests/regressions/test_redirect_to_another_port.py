"""Addresses without a path were told apart by all but their last letter."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from service_utils.http.transport import FastSession
from service_utils.testing import Answer, FaultServer
from tests.transport.sick_servers import Peer


@pytest.fixture
def twins() -> Iterator[tuple[Peer, Peer]]:
    """Two servers whose ports differ in the last digit only; each tells its port and what it was asked."""

    def serve(peer: Peer, sock: socket.socket) -> None:
        while asked := sock.recv(65536):
            text = b"%d %s" % (peer.port, asked.split(b" ", 2)[1])
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    first = next(port for port in range(21_000, 32_000, 10) if _is_free(port) and _is_free(port + 1))
    with Peer(serve, port=first) as one, Peer(serve, port=first + 1) as other:
        yield one, other


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_redirects_to_addresses_without_a_path(twins: tuple[Peer, Peer], fault_server: FaultServer) -> None:
    """A redirect to a bare address reaches that one, however like another it looks."""
    targets = [twin.url for twin in (*twins, *twins)]
    fault_server.script(*[Answer(302, headers={"Location": target}) for target in targets])
    with FastSession() as session:
        texts = [session.get(fault_server.url).text for _ in targets]

    assert texts == [f"{twin.port} /" for twin in (*twins, *twins)]


def test_query_without_a_path(twins: tuple[Peer, Peer], fault_server: FaultServer) -> None:
    """Neither is what stands behind a slash in its query taken for a path."""
    twin = twins[0]
    fault_server.script(*[Answer(302, headers={"Location": f"{twin.url}?next=/b"}) for _ in range(3)])
    with FastSession() as session:
        texts = [session.get(fault_server.url).text for _ in range(3)]

    assert texts == [f"{twin.port} /?next=/b"] * 3
