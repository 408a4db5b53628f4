"""The sockets of a fault server: one that accepts, and one thread for each connection."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import BinaryIO

from service_utils.testing.replies import Answer, Ending, Reply
from service_utils.testing.wire import RecordedRequest, read_request

__all__ = ["HOST", "Connection", "Listener", "bound_socket"]

HOST = "127.0.0.1"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends a reset


def bound_socket(port: int) -> socket.socket:
    """A socket that holds a port without listening on it; several may hold the same. 0 is any free one."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    return sock


class Listener:
    """Accepts connections in a thread of its own, from its making to :meth:`close`."""

    def __init__(self, port: int, on_connection: Callable[[socket.socket], object]) -> None:
        self._on_connection = on_connection
        self._socket = bound_socket(port)
        self._socket.listen(128)
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"fault-server-{port}", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Stop, so that new connections are refused; returns when no more will be handed on."""
        self._stop.send(b".")
        self._thread.join(timeout)
        for sock in (self._socket, self._stop, self._stopped):
            sock.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            while self._stopped not in [key.fileobj for key, _ in selector.select()]:
                self._accept()

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # the client has gone again
        try:
            self._on_connection(sock)
        except OSError:
            sock.close()  # likewise, a moment later


class Connection:
    """One connection: reads requests, asks what to answer and sends it, until either side has had enough.

    Args:
        sock: The accepted socket.
        number: Its number among the server's connections.
        tls: The server's context for https, or None.
        choose: Gives the reply to a request; may take its time.
        on_end: Called when the connection is over.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        tls: ssl.SSLContext | None,
        choose: Callable[[RecordedRequest, Connection], Reply],
        on_end: Callable[[Connection], object],
    ) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.number = number
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"fault-connection-{number}", daemon=True)
        self._socket = sock
        self._choose = choose
        self._on_end = on_end
        self._lock = threading.Lock()
        self._busy = False
        self._last = False

    def stop(self) -> None:
        """End it now, whatever it is doing."""
        self.stopped.set()
        # The lock keeps the descriptor ours: once closed, its number may belong to a stranger.
        with self._lock, contextlib.suppress(OSError):  # it is over already
            # Not SSLSocket.shutdown: that takes the TLS layer away from under the thread that reads.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def stop_when_idle(self) -> None:
        """End it now if no request is being answered, else after the answer."""
        with self._lock:
            self._last = True
            idle = not self._busy
        if idle:
            self.stop()

    def _run(self) -> None:
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.do_handshake()
            with self._socket.makefile("rb") as stream:
                while self._serve_one(stream):
                    pass
        except (OSError, EOFError):
            return  # the client went away, or stop() was called: either way there is nobody to answer
        finally:
            with self._lock:
                self._socket.close()
            self._on_end(self)

    def _serve_one(self, stream: BinaryIO) -> bool:
        """Answer one request; whether another may follow."""
        try:
            read = read_request(stream, self.number, self._send_continue)
        except ValueError as error:
            self._send(Answer(400, f"not an HTTP/1 request: {error}"), "GET")
            return False
        if read is None or not self._begin():
            return False
        request, client_keeps = read
        reply = self._choose(request, self)
        server_keeps = self._send(reply, request.method)
        return self._end() and client_keeps and server_keeps

    def _begin(self) -> bool:
        with self._lock:
            self._busy = not self._last
            return self._busy

    def _end(self) -> bool:
        with self._lock:
            self._busy = False
            return not self._last

    def _send_continue(self) -> None:
        self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _send(self, reply: Reply, method: str) -> bool:
        for piece in reply.pieces(method):
            if self.stopped.wait(piece.wait):
                return False
            self._socket.sendall(piece.data)
        if reply.ending is Ending.HANG:
            self.stopped.wait()
        elif reply.ending is Ending.RESET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        return reply.ending is Ending.KEEP_OPEN and not _says_close(reply)


def _says_close(reply: Reply) -> bool:
    return isinstance(reply, Answer) and (reply.header("Connection") or "").lower() == "close"
