"""One sending of one request: what bounds it, and what has become of it.

Time-outs of ``requests`` hold for each operation of a socket by itself, so that a server which drips bytes
can stretch them without end. A :class:`Sending` carries the *moment* by which all of it must have ended;
the connections of this package (:mod:`service_utils.http.connection`) look at it before each operation. It
reaches them through ``requests`` and ``urllib3``, and through whatever instruments those, by a context
variable.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import requests

from service_utils.clock import SYSTEM

if TYPE_CHECKING:
    from service_utils.http.connection import BoundedConnection

__all__ = ["Sending", "bound", "current_sending"]

# The built-in ConnectionError: reset, broken pipe, closed without an answer.
_LOST = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Sending:
    """What the connections must know of the request they carry, and what they tell of it. For one thread.

    Args:
        moment: When it must have ended, in seconds of the machine's monotonic clock; None for never.
        longest_body: Bytes of the longest body that is read at once.

    Attributes:
        moment: See above.
        longest_body: See above.
        conn: The connection that was used last, or None.
        reused: Whether that one had served before.
        fresh: Whether it must be a new one.
        sent: Bytes that the connection took.
        received: Bytes of the answer.
        handover: A connection on which the request has been sent already: it waits for the ordinary way.
    """

    __slots__ = ("conn", "fresh", "handover", "longest_body", "moment", "received", "reused", "sent")

    def __init__(self, moment: float | None = None, longest_body: float = math.inf) -> None:
        self.moment = moment
        self.longest_body = longest_body
        self.conn: BoundedConnection | None = None
        self.reused = False
        self.fresh = False
        self.sent = 0
        self.received = 0
        self.handover: BoundedConnection | None = None

    def left(self) -> float | None:
        """Seconds that are left, not above zero when there are none; None without end."""
        return None if self.moment is None else self.moment - SYSTEM.monotonic()

    def found_dead(self, error: requests.RequestException) -> bool:
        """Whether a connection that had served before was lost before any byte of this answer."""
        if not self.reused or self.received or self.fresh:
            return False
        return any(isinstance(cause, _LOST) for cause in _causes(error))

    def again(self) -> None:
        """Begin anew, on a connection of its own."""
        self.conn, self.reused, self.fresh, self.sent = None, False, True, 0


_current: ContextVar[Sending | None] = ContextVar("service_utils_sending", default=None)
current_sending = _current.get


@contextmanager
def bound(sending: Sending) -> Iterator[None]:
    """Have the connections that are used inside carry this sending."""
    token = _current.set(sending)
    try:
        yield
    finally:
        _current.reset(token)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what is wrapped in its arguments, which is where requests and urllib3 put causes."""
    waiting, seen = [error], 0
    while waiting and seen < 16:
        current = waiting.pop()
        seen += 1
        yield current
        reason = getattr(current, "reason", None)
        waiting.extend(each for each in (*current.args, reason) if isinstance(each, BaseException))
