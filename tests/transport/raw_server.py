"""A server that sends scripted bytes in scripted pieces, and keeps every byte that it was sent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

_UNSENT = 0x894B  # SIOCOUTQNSD of Linux: bytes that have not left for the other end
_LANDED_WITHIN = 0.02  # seconds; a client that is content with less leaves the rest of a piece unread
_ANSWERED_WITHIN = 20.0
_GONE_WITHIN = 5.0
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]+)[^\r\n]*\r\n")


class Ending(Enum):
    """What becomes of the connection after the last piece."""

    OPEN = "open"  # for one more request; for a short while only, so that nobody waits for what never comes
    CLOSE = "close"
    RESET = "reset"


@dataclass(frozen=True)
class Script:
    """The answer to the requests for one path.

    Attributes:
        pieces: Sent one after the other; where the system can tell, each only once the one before was read.
        ending: What comes then.
    """

    pieces: tuple[bytes, ...]
    ending: Ending = Ending.OPEN

    @property
    def data(self) -> bytes:
        """All pieces in one."""
        return b"".join(self.pieces)


@dataclass(frozen=True)
class Received:
    """A request as it came.

    Attributes:
        connection: Which one it came on, counted from 1.
        number: Which one on this connection, counted from 1.
        raw: All of its bytes.
    """

    connection: int
    number: int
    raw: bytes = field(repr=False)

    @property
    def target(self) -> str:
        """The second word of the first line."""
        return self.raw.split(b" ", 2)[1].decode("latin-1")

    @property
    def header_lines(self) -> list[bytes]:
        """The lines between the first and the empty one."""
        return self.raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]


class RawServer:
    """Serves each connection in a thread of its own; for one test's client at a time.

    A request whose path has a script gets that; any other gets the ordinary answer, whose body says on which
    connection it came, which one it was there, and for what it asked: ``"3 1 /path"``.

    Args:
        host: Where to listen.
        patience: Seconds that a connection is left open after a script whose ending is ``OPEN``.
        tls: A server-side context; the server then speaks https.
    """

    def __init__(
        self, host: str = "127.0.0.1", *, patience: float = 0.01, tls: ssl.SSLContext | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.port: int = self._listener.getsockname()[1]
        named = f"[{host}]" if ":" in host else host
        self.url = f"{'http' if tls is None else 'https'}://{named}:{self.port}"
        self.scripts: dict[str, Script] = {}
        self.received: list[Received] = []
        self.connections = 0
        self._patience = patience
        self._tls = tls
        self._changed = threading.Condition()
        self._played: dict[str, int] = defaultdict(int)
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._closed = False
        self._acceptor = threading.Thread(target=self._accept, name="raw-server", daemon=True)
        self._acceptor.start()

    def wait_until_played(self, path: str, times: int = 1) -> None:
        """Block until the script of a path was played to its end so many times."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._played[path] >= times, _ANSWERED_WITHIN)
        assert done, f"the answer to {path} was never sent to its end"

    def forget(self, path: str) -> list[Received]:
        """Drop a script and hand over the requests that it answered."""
        with self._changed:
            self.scripts.pop(path, None)
            self._played.pop(path, None)
            asked = [each for each in self.received if each.target == path]
            self.received = [each for each in self.received if each.target != path]
        return asked

    def take(self) -> list[Received]:
        """All requests so far; they are forgotten."""
        with self._changed:
            taken, self.received = self.received, []
        return taken

    def close(self) -> None:
        """Stop at once."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(_GONE_WITHIN)
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(_GONE_WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- one connection --------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.add(sock)
            thread = threading.Thread(
                target=self._serve, args=(sock, peer, self.connections), name="raw-connection", daemon=True
            )
            self._threads.add(thread)
            thread.start()

    def _serve(self, sock: socket.socket, peer: tuple[object, ...], number: int) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(_ANSWERED_WITHIN)
            if self._tls is not None:
                self._sockets.discard(sock)
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.add(sock)
            self._converse(sock, peer, number)
        except OSError:
            pass  # the client has gone
        finally:
            self._sockets.discard(sock)
            sock.close()
            self._threads.discard(threading.current_thread())

    def _converse(self, sock: socket.socket, peer: tuple[object, ...], connection: int) -> None:
        reader = _RequestReader(sock)
        patience: float | None = None
        number = 0
        while (raw := reader.next(patience)) is not None:
            number += 1
            request = Received(connection, number, raw)
            with self._changed:
                self.received.append(request)
            script = self.scripts.get(request.target)
            if script is None:
                sock.sendall(ordinary(request))
                patience = None
                continue
            try:
                _play(sock, peer, script)
                if script.ending is not Ending.OPEN:
                    _hang_up(sock, script.ending)
            finally:
                with self._changed:
                    self._played[request.target] += 1
                    self._changed.notify_all()
            if script.ending is not Ending.OPEN:
                return
            patience = self._patience


def ordinary(request: Received) -> bytes:
    """The answer to a request without a script."""
    body = b"%d %d %s" % (request.connection, request.number, request.target.encode("latin-1"))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head if request.raw.startswith(b"HEAD ") else head + body


class _RequestReader:
    """Takes one request after the other off a connection, each with all of its bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""

    def next(self, patience: float | None) -> bytes | None:
        """The next request; None when the client has gone, or nothing came for so many seconds."""
        if not self._data and patience is not None and not select.select([self._sock], [], [], patience)[0]:
            return None
        end = self._find(b"\r\n\r\n", 0)
        if end is None:
            return None
        head = self._data[: end + 4].lower()
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            whole = self._chunked(end + 4)
        else:
            length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head)
            whole = self._until(end + 4 + (int(length[1]) if length else 0))
        if whole is None:
            return None
        raw, self._data = self._data[:whole], self._data[whole:]
        return raw

    def _chunked(self, start: int) -> int | None:
        while (end := self._find(b"\r\n", start)) is not None:
            size = _CHUNK_LINE.match(self._data, start)
            assert size is not None, self._data[start:end]
            if int(size[1], 16) == 0:
                return self._until(end + 4)
            start = end + 2 + int(size[1], 16) + 2
        return None

    def _find(self, wanted: bytes, start: int) -> int | None:
        while (found := self._data.find(wanted, start)) < 0:
            if not self._more():
                return None
        return found

    def _until(self, length: int) -> int | None:
        while len(self._data) < length:
            if not self._more():
                return None
        return length

    def _more(self) -> bool:
        piece = self._sock.recv(65536)
        self._data += piece
        return bool(piece)


# -- pieces that arrive as pieces ----------------------------------------------------------------------------


def _play(sock: socket.socket, peer: tuple[object, ...], script: Script) -> None:
    client = _fd_of(peer) if len(script.pieces) > 1 else None
    for number, piece in enumerate(script.pieces):
        if number:
            _wait_until_read(client)
        sock.sendall(piece)


def _hang_up(sock: socket.socket, ending: Ending) -> None:
    if ending is Ending.RESET:
        _wait_until_arrived(sock)  # a reset takes back what has not arrived
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _fd_of(peer: tuple[object, ...]) -> int | None:
    """The client's end, which is a socket of this very process: the system tells how much it has to read."""
    for fd in _open_files():
        try:
            seen = socket.socket(fileno=fd)
        except OSError:
            continue
        try:
            if seen.family in {socket.AF_INET, socket.AF_INET6} and seen.getsockname() == peer:
                return fd
        except OSError:
            continue
        finally:
            seen.detach()
    return None


def _open_files() -> Iterator[int]:
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return
    yield from sorted((int(name) for name in names), reverse=True)


def _wait_until_read(client: int | None) -> None:
    """Until the client has taken what was sent; not for long, since it may have no use for it."""
    until = time.monotonic() + _LANDED_WITHIN
    while client is not None and time.monotonic() < until:
        try:
            left = fcntl.ioctl(client, termios.FIONREAD, b"\0\0\0\0")
        except OSError:
            return
        if left == b"\0\0\0\0":
            return
        time.sleep(0)


def _wait_until_arrived(sock: socket.socket) -> None:
    until = time.monotonic() + _ANSWERED_WITHIN
    while time.monotonic() < until:
        try:
            left = fcntl.ioctl(sock.fileno(), _UNSENT, b"\0\0\0\0")
        except OSError:
            return
        if left == b"\0\0\0\0":
            return
        time.sleep(0)
