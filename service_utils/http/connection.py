"""Connections whose every operation ends by a moment: connecting, TLS handshake, sending, receiving.

They are urllib3's own with three things changed. The time for an operation is what is left until the moment
of the :class:`~service_utils.http.sending.Sending` they carry, or the time-out where that is shorter. They
tell the sending how far it came. And they know when they had better not be used again.
"""

from __future__ import annotations

import http.client
import math
import os
import socket
import sys
import weakref
from dataclasses import dataclass
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.util import connection as tcp

from service_utils import forks
from service_utils.clock import SYSTEM
from service_utils.http.reading import AnswerSource
from service_utils.http.replaced import send_replaced
from service_utils.http.resolver import resolve
from service_utils.http.sending import Sending

__all__ = ["BoundedConnection", "BoundedHTTPConnection", "BoundedHTTPSConnection"]

_PIECE = 262_144  # bytes given to the socket at once
_STOCK_CREATE_CONNECTION = tcp.create_connection
_LEAST_SHARE = 2.0  # seconds that one of several addresses gets at least, as in Go's net.Dialer


@dataclass(frozen=True, slots=True)
class Replay:
    """What has been received before the ordinary way begins to read: bytes, then an error or the end."""

    received: bytes = b""
    error: Exception | None = None
    ended: bool = False


_NOTHING = Replay()


class BoundedConnection(HTTPConnection):
    """What plain and TLS connections have in common. One thread uses it at a time.

    Attributes:
        moment: When the operation under way must have ended, in real monotonic seconds, or None.
        spoilt: Whether something odd has been seen, so that it must not be used again.
        served: Answers it has brought.
        opened_at: When it was connected.
        idle_since: When its last answer had been read.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.moment: float | None = None
        self.spoilt = False
        self.served = 0
        self.opened_at = 0.0
        self.idle_since = 0.0
        self._sending: Sending | None = None
        self._muted = False
        self._send_error: Exception | None = None
        self._replay = _NOTHING
        self._answer: http.client.HTTPResponse | None = None  # http.client's, of the ordinary way

    # -- what it carries ----------------------------------------------------------------------------

    def carry(self, sending: Sending) -> None:
        """Be bound by this sending from now on."""
        self._sending = sending
        self.moment = sending.moment
        sending.conn = self
        sending.reused = self.served > 0 and self.sock is not None

    def rest(self) -> None:
        """Be bound by nothing, the answer having been read; one that owes some of it is not used again."""
        if self._answer is not None and not self._answer.isclosed():
            self.spoilt = True
        self._answer, self._sending, self.moment = None, None, None
        self._muted, self._replay = False, _NOTHING
        self.served += 1
        self.idle_since = SYSTEM.monotonic()

    def hand_over(
        self,
        received: bytes,
        error: Exception | None = None,
        *,
        while_sending: bool = False,
        ended: bool = False,
    ) -> None:
        """Let the ordinary way go on with a request that has been sent on this connection.

        Args:
            received: What has been received of the answer.
            error: What was raised after that, or None.
            while_sending: Whether the error came of sending.
            ended: Whether nothing more will come.
        """
        self._muted = True
        self._send_error = error if while_sending else None
        self._replay = Replay(received, None if while_sending else error, ended)

    def take_replay(self) -> Replay:
        """What :meth:`hand_over` was given, once."""
        replay, self._replay = self._replay, _NOTHING
        return replay

    def longest_body(self) -> float:
        """Bytes of the longest body that may be read at once."""
        return math.inf if self._sending is None else self._sending.longest_body

    def time_for(self) -> float | None:
        """Seconds that the next operation may take.

        Raises:
            TimeoutError: There are none left.
        """
        timeout: float | None = self.timeout
        if self.moment is None:
            return timeout
        left = self.moment - SYSTEM.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left if timeout is None or left < timeout else timeout

    def note_received(self, count: int) -> None:
        """So many bytes of an answer have come."""
        if self._sending is not None:
            self._sending.received += count

    # -- what http.client and urllib3 call -----------------------------------------------------------

    def _new_conn(self) -> socket.socket:
        if self.moment is None:
            return super()._new_conn()
        try:
            sock = self._connect_within(self.moment)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out.") from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def _connect_within(self, moment: float) -> socket.socket:
        """Try the addresses of the host one after the other, each with its share of the time."""
        host = self._dns_host.strip("[]")
        if tcp.create_connection is not _STOCK_CREATE_CONNECTION:
            # Somebody's own, which may know names that nobody else does.
            return tcp.create_connection(
                (self._dns_host, self.port),
                self.time_for(),
                source_address=self.source_address,
                socket_options=self.socket_options,
            )
        try:
            found = resolve(host, self.port, tcp.allowed_gai_family(), moment)
        except UnicodeError:
            raise LocationParseError(f"'{host}', label empty or too long") from None
        last: OSError = OSError("getaddrinfo returns an empty list")
        for index, (family, kind, protocol, _, address) in enumerate(found):
            time_left = self.time_for()
            if time_left is not None and index < len(found) - 1:
                time_left = min(time_left, max(time_left / (len(found) - index), _LEAST_SHARE))
            try:
                return self._dial(socket.socket(family, kind, protocol), address, time_left)
            except OSError as error:
                last = error
        raise last

    def _dial(self, sock: socket.socket, address: Any, timeout: float | None) -> socket.socket:
        """Connect a socket, as urllib3 does; what is left of the time is for the TLS handshake."""
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            if self.source_address:
                sock.bind(self.source_address)
            sock.settimeout(timeout)
            sock.connect(address)
            sock.settimeout(self.time_for())
        except BaseException:
            sock.close()
            raise
        return sock

    def _tunnel(self) -> None:
        """Ask a proxy for a tunnel; see :class:`http.client.HTTPConnection`."""
        super()._tunnel()
        if self.moment is not None:
            self.sock.settimeout(self.time_for())  # for the handshake inside the tunnel

    def connect(self) -> None:
        """Connect; see :class:`urllib3.connection.HTTPConnection`."""
        super().connect()
        self.spoilt, self.served, self.opened_at = False, 0, SYSTEM.monotonic()
        _note_open(self.sock)

    def send(self, data: Any) -> None:
        """Send bytes, all by the moment; a TLS socket by itself would begin the time anew for each piece."""
        if self._muted:
            if self._send_error is not None:
                raise self._send_error
            return
        if self.sock is None:
            self.connect()
        plain = isinstance(data, bytes | bytearray | memoryview)
        if self._sending is None or self.debuglevel or not plain or send_replaced():
            self._send_as_ever(data)
            return
        sys.audit("http.client.send", self, data)
        self.send_bounded(data)

    def _send_as_ever(self, data: Any) -> None:
        """Leave it to http.client, which prints it where that is asked for, or to a stand-in."""
        if self._sending is not None:
            self._sending.sent += 1  # for all that is known
            self.sock.settimeout(self.time_for())
        super().send(data)

    def send_bounded(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes on the open socket, and count them."""
        view = memoryview(data).cast("B")
        sock: Any = self.sock
        while view:
            sock.settimeout(self.time_for())
            count = sock.send(view[:_PIECE])
            if self._sending is not None:
                self._sending.sent += count
            view = view[count:]

    def receive(self, size: int) -> bytes:
        """Receive up to so many bytes; none at the end."""
        sock: Any = self.sock
        sock.settimeout(self.time_for())
        piece: bytes = sock.recv(size)
        if self._sending is not None:
            self._sending.received += len(piece)
        return piece

    def response_class(self, sock: Any, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        """Make http.client's response, reading within bounds."""
        self._muted, self._send_error = False, None
        source: Any = AnswerSource(self, sock)
        self._answer = http.client.HTTPResponse(source, *args, **kwargs)
        return self._answer


class BoundedHTTPConnection(BoundedConnection):
    """For http."""


class BoundedHTTPSConnection(BoundedConnection, HTTPSConnection):
    """For https."""


# -- forks -------------------------------------------------------------------------------------------

_open: dict[int, weakref.ref[Any]] = {}


def _note_open(sock: Any) -> None:
    """Remember a socket, so that a forked child can let go of it."""
    if isinstance(sock, socket.socket):
        number = id(sock)
        _open[number] = weakref.ref(sock, lambda _gone: _open.pop(number, None))


def _let_go_of_sockets() -> None:
    """In a child: give up the parent's sockets. Closing the descriptor shuts nothing down for the parent."""
    inherited = [reference() for reference in list(_open.values())]
    _open.clear()
    for sock in inherited:
        if sock is None:
            continue
        number = sock.detach()
        if number >= 0:
            os.close(number)


forks.in_child(_let_go_of_sockets)
