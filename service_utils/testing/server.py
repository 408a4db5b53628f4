"""FaultServer: a service on the loopback interface that fails the way it is told to."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from service_utils.policies.deadline import Deadline
from service_utils.testing.connections import HOST, Connection, Listener, bound_socket
from service_utils.testing.replies import Answer, Handled, Reply
from service_utils.testing.wire import RecordedRequest

__all__ = ["FaultServer", "Handler"]

Handler = Callable[[RecordedRequest], Reply]

_CLOSE_WITHIN = 5.0  # seconds for all threads to end; they have nothing to wait for then


class FaultServer:
    """An HTTP/1.1 server on 127.0.0.1 with real sockets, to see what a client does when a service fails.

    It listens from its making on, at a free port, and serves each connection in a thread of its own. A
    request gets the next reply of the script; once that is used up, the handler's; without one, ``default``::

        with FaultServer() as server:
            server.script(Answer(503), reset_connection(), Answer(200, "at last"))
            assert requests.get(server.url + "/a").status_code == 503
            assert server.requests[0].path == "/a"

    All replies are in :mod:`service_utils.testing.replies`. Every method may be called from any thread.

    Args:
        handler: Called with each request that the script does not answer, in the connection's thread. If it
            raises, the client gets a 500, and leaving the ``with`` block raises the error again.
        default: The reply when there is neither script nor handler.
        tls: A server-side context; the server then speaks https.

    Attributes:
        handler: See above; may be changed at any time.
        default: See above; may be changed at any time.
        handler_errors: What the handler raised, in order.
        port: The port, the same for the server's whole life.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        default: Reply | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.handler = handler
        self.default: Reply = default if default is not None else Answer()
        self.handler_errors: list[Exception] = []
        self._tls = tls
        self._changed = threading.Condition()
        self._script: deque[Reply | Handled] = deque()
        self._requests: list[RecordedRequest] = []
        self._open: set[Connection] = set()
        self._connections = 0
        self._held = False
        self._closed = False
        self._reserved = bound_socket(0)  # the port stays ours while nobody listens on it
        self.port: int = self._reserved.getsockname()[1]
        self._listener: Listener | None = self._listen()

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{'http' if self._tls is None else 'https'}://{HOST}:{self.port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests so far, in the order in which they had been read whole."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        with self._changed:
            return self._connections

    @property
    def open_connections(self) -> int:
        """How many of them are open."""
        with self._changed:
            return len(self._open)

    @property
    def pending(self) -> int:
        """How many replies of the script are left."""
        with self._changed:
            return len(self._script)

    def script(self, *replies: Reply | Handled) -> None:
        """Add replies for the next requests, one each."""
        with self._changed:
            self._script.extend(replies)

    def clear(self) -> None:
        """Forget the rest of the script and the requests so far."""
        with self._changed:
            self._script.clear()
            self._requests.clear()

    def wait_for_requests(self, n: int, timeout: float = 5.0) -> None:
        """Block until at least ``n`` requests have come, whether answered yet or not.

        Args:
            n: How many.
            timeout: Real seconds to wait at most.

        Raises:
            TimeoutError: There were fewer all the time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= n, timeout):
                raise TimeoutError(
                    f"{len(self._requests)} instead of {n} requests after {timeout} real seconds"
                )

    def hold(self) -> None:
        """Read and record requests, but let their replies wait for :meth:`release`."""
        with self._changed:
            self._held = True

    def release(self) -> None:
        """Send all the replies held back, and hold back no more."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def disconnect(self) -> None:
        """Close every open connection at once, in use or idle, as when a load balancer goes down."""
        with self._changed:
            connections = list(self._open)
        for connection in connections:
            connection.stop()
        with self._changed:
            self._changed.notify_all()

    def stop_listening(self) -> None:
        """Refuse new connections, close idle ones, still answer what is under way; the port stays taken."""
        with self._changed:
            listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close(_CLOSE_WITHIN)
        with self._changed:
            connections = list(self._open)
        for connection in connections:
            connection.stop_when_idle()

    def resume(self) -> None:
        """Accept connections again, at the same port.

        Raises:
            RuntimeError: The server was closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("a closed FaultServer cannot resume")
            if self._listener is None:
                self._listener = self._listen()

    def close(self) -> None:
        """Stop at once, whatever is under way, and give the port back. A second time does nothing.

        Raises:
            RuntimeError: A connection's thread did not end within 5 seconds, because the handler holds it up.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self.stop_listening()
        self._reserved.close()
        with self._changed:
            threads = [each.thread for each in self._open]
        self.disconnect()
        self._join([each for each in threads if each is not threading.current_thread()])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self.handler_errors:
            raise self.handler_errors[0]

    def __repr__(self) -> str:
        return f"FaultServer({self.url!r})"

    def _listen(self) -> Listener:
        return Listener(self.port, self._admit)

    def _admit(self, sock: socket.socket) -> None:
        with self._changed:
            self._connections += 1
            number = self._connections
        connection = Connection(sock, number, self._tls, self._choose, self._forget)
        with self._changed:
            if self._closed:
                connection.stop()
            connection.thread.start()
            self._open.add(connection)

    def _forget(self, connection: Connection) -> None:
        with self._changed:
            self._open.discard(connection)

    def _choose(self, request: RecordedRequest, connection: Connection) -> Reply:
        with self._changed:
            self._requests.append(request)
            planned = self._script.popleft() if self._script else Handled()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._held or connection.stopped.is_set())
        if not isinstance(planned, Handled):
            return planned
        answer = self._handle(request)
        return planned.send if planned.send is not None else answer

    def _handle(self, request: RecordedRequest) -> Reply:
        if self.handler is None:
            return self.default
        try:
            return self.handler(request)
        except Exception as error:
            self.handler_errors.append(error)
            return Answer(500, f"the handler of the FaultServer raised {error!r}")

    def _join(self, threads: list[threading.Thread]) -> None:
        deadline = Deadline.after(_CLOSE_WITHIN)
        for thread in threads:
            thread.join(deadline.remaining())
        left = [thread.name for thread in threads if thread.is_alive()]
        if left:
            raise RuntimeError(f"{self!r} cannot close, its handler holds up {', '.join(left)}")
