"""Servers that are slow where a FaultServer is not: before the request has been read, or without end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from service_utils.testing.connections import bound_socket
from service_utils.testing.replies import Ending, Piece

_GONE_WITHIN = 5.0


@dataclass(frozen=True)
class Pieces:
    """A reply for a FaultServer: each piece of bytes, after so many seconds."""

    parts: tuple[tuple[float, bytes], ...]
    ending: Ending = Ending.HANG

    def pieces(self, method: str) -> Iterator[Piece]:
        return (Piece(wait, data) for wait, data in self.parts)


def dripping(first: bytes, then: bytes, every: float = 0.02) -> Pieces:
    """Some bytes at once, then some others one by one."""
    return Pieces(((0.0, first), *((every, then[index : index + 1]) for index in range(len(then)))))


class FullBacklog:
    """An address that neither accepts nor refuses: connecting to it takes for ever.

    Args:
        port: 0 for any.
        host: An address of the loopback interface.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self._listener = bound_socket(port) if host == "127.0.0.1" else socket.socket()
        if host != "127.0.0.1":
            self._listener.bind((host, port))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._fillers: list[socket.socket] = []
        while self._takes_one_more(host):
            assert len(self._fillers) < 50, "this machine's backlog has no end"

    def close(self) -> None:
        """Refuse from now on."""
        for sock in (self._listener, *self._fillers):
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _takes_one_more(self, host: str) -> bool:
        filler = socket.socket()
        self._fillers.append(filler)
        filler.settimeout(0.1)
        try:
            filler.connect((host, self.port))
        except TimeoutError:
            return False
        return True


Manner = Callable[["Peer", socket.socket], None]


class Peer:
    """Does with each connection what it is told to, in a thread of its own.

    Args:
        manner: Called with this object and the new socket.
        port: 0 for any.
        tls: A server-side context, for the manner to use.

    Attributes:
        over: Set when everything must end.
        accepted: How many connections there were.
    """

    def __init__(self, manner: Manner, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.over = threading.Event()
        self.accepted = 0
        self.tls = tls
        self._manner = manner
        self._listener = bound_socket(port)
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="peer", daemon=True)]
        self._threads[0].start()

    def watch(self, sock: socket.socket) -> None:
        """Another socket to be shut down at the end."""
        self._sockets.add(sock)

    def close(self) -> None:
        """Stop at once."""
        self.over.set()
        for sock in (self._listener, *list(self._sockets)):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_GONE_WITHIN)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._run, args=(sock,), name="peer", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        self._sockets.add(sock)
        with contextlib.closing(sock), contextlib.suppress(OSError):
            self._manner(self, sock)
        self._sockets.discard(sock)


# -- manners -------------------------------------------------------------------------------------------------


def silent(peer: Peer, sock: socket.socket) -> None:
    """Accept and say nothing, not even a TLS handshake."""
    peer.over.wait()


def dripping_handshake(peer: Peer, sock: socket.socket) -> None:
    """Begin a TLS record of 16 kB, and send it byte by byte."""
    sock.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03")
    while not peer.over.wait(0.02):
        sock.sendall(b"\0")


def hard_of_hearing(every: float | None) -> Manner:
    """Answer GET requests; of others read only the head, then a little at times or nothing.

    Args:
        every: Seconds between two pieces of the body; None to read none of it.
    """

    def manner(peer: Peer, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if peer.tls is None:
            _listen_hard(peer, sock, every)
        else:
            with peer.tls.wrap_socket(sock, server_side=True) as wrapped:
                peer.watch(wrapped)
                _listen_hard(peer, wrapped, every)

    return manner


def _listen_hard(peer: Peer, sock: socket.socket, every: float | None) -> None:
    head = b""
    while True:
        piece = sock.recv(1)
        if not piece:
            return
        head += piece
        if not head.endswith(b"\r\n\r\n"):
            continue
        if not head.startswith(b"GET"):
            break
        path = head.split(b" ")[1]
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))
        head = b""
    while not peer.over.wait(every):
        sock.recv(8192)
