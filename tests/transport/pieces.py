"""Bytes that are sent in pieces, and arrive as such."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

_UNSENT = 0x894B  # SIOCOUTQNSD of Linux: bytes that have not left for the other end
_LANDED_WITHIN = 0.02  # seconds; a client that is content with less leaves the rest of a piece unread
_ARRIVED_WITHIN = 20.0


class Ending(Enum):
    """What becomes of the connection after the last piece."""

    OPEN = "open"  # for one more request; for a short while only, so that nobody waits for what never comes
    CLOSE = "close"
    NOTIFY = "notify"  # close, which TLS can say beforehand
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


def play(sock: socket.socket, peer: tuple[object, ...], script: Script) -> None:
    client = _fd_of(peer) if len(script.pieces) > 1 else None
    for number, piece in enumerate(script.pieces):
        if number:
            _wait_until_read(client)
        sock.sendall(piece)


def hang_up(sock: socket.socket, ending: Ending) -> None:
    if ending is Ending.RESET:
        _wait_until_arrived(sock)  # a reset takes back what has not arrived
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if ending is Ending.NOTIFY and isinstance(sock, ssl.SSLSocket):
        sock.settimeout(0)
        with contextlib.suppress(OSError):  # the other side has not said the same yet
            sock.unwrap()
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
    until = time.monotonic() + _ARRIVED_WITHIN
    while time.monotonic() < until:
        try:
            left = fcntl.ioctl(sock.fileno(), _UNSENT, b"\0\0\0\0")
        except OSError:
            return
        if left == b"\0\0\0\0":
            return
        time.sleep(0)
