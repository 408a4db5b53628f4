"""A server that sends scripted bytes in scripted pieces, and keeps every byte that it was sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Self

from .pieces import Ending, Script, hang_up, play
from .request_reader import RequestReader

_ANSWERED_WITHIN = 20.0
_GONE_WITHIN = 5.0


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
        reader = RequestReader(sock)
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
                play(sock, peer, script)
                if script.ending is not Ending.OPEN:
                    hang_up(sock, script.ending)
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
