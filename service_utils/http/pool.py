"""Pools of bounded connections: the idle ones on a stack that needs no lock, none kept beyond its time."""

from __future__ import annotations

import functools
import queue
import select
import ssl
from collections.abc import Callable
from typing import Any

import urllib3.connection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ClosedPoolError

from service_utils.clock import SYSTEM
from service_utils.http.connection import BoundedConnection, BoundedHTTPConnection, BoundedHTTPSConnection
from service_utils.http.sending import current_sending

__all__ = ["POOL_MAXSIZE", "BoundedPool", "pool_classes"]

POOL_MAXSIZE = 64  # connections kept where nobody says how many: more than most servers have threads

_PLAIN, _TLS = urllib3.connection.HTTPConnection, urllib3.connection.HTTPSConnection


class IdleStack:
    """What urllib3 keeps idle connections in, instead of a queue: the last one in is the first one out.

    It never waits, so it serves pools that do not block. Appending to a list and popping from it are single
    steps of the interpreter, which is all the locking there need be.

    Args:
        maxsize: How many it keeps.
    """

    __slots__ = ("_items", "_maxsize")

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Keep a connection; None, with which urllib3 fills its queues, is nothing to keep.

        Raises:
            queue.Full: There is no room.
        """
        if item is None:
            return
        self._items.append(item)
        if len(self._items) > self._maxsize:
            # Of many threads that come here at once each takes one away again, whosesoever.
            excess = self.get()
            if excess is item:
                raise queue.Full
            excess.close()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The connection kept last.

        Raises:
            queue.Empty: There is none.
        """
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def drop_oldest(self, unused_since: float) -> None:
        """Close the connection that has been kept longest, if nobody has used it since a moment."""
        try:
            if getattr(self._items[0], "idle_since", unused_since) < unused_since:
                self._items.pop(0).close()
        except IndexError:  # another thread was faster
            return

    def qsize(self) -> int:
        """How many there are."""
        return len(self._items)


class BoundedPool(HTTPConnectionPool):
    """A pool that hands out no connection which is too old, was idle too long or has been closed.

    Attributes:
        idle_timeout: Seconds an unused connection is kept, or None.
        max_connection_age: Seconds after which a connection is used no more, or None.
    """

    QueueCls: Any = IdleStack
    idle_timeout: float | None = None
    max_connection_age: float | None = None
    _bounded_class: type[BoundedConnection] = BoundedHTTPConnection
    _host_line: str | None = None

    def _new_pool_queue(self, maxsize: int) -> Any:
        return IdleStack(maxsize)

    @property
    def ConnectionCls(self) -> Any:  # type: ignore[override]  # noqa: N802 - urllib3's name
        """Ours; where somebody has put a class of his own into urllib3, such as vcrpy, his."""
        return self._bounded_class if HTTPConnectionPool.ConnectionCls is _PLAIN else self._foreign_class()

    def _foreign_class(self) -> Any:
        return HTTPConnectionPool.ConnectionCls

    def take_idle(self) -> BoundedConnection | None:
        """An idle connection that may be used, or None.

        Raises:
            urllib3.exceptions.ClosedPoolError: The pool has been closed.
        """
        idle = self.pool
        if idle is None:
            raise ClosedPoolError(self, "Pool is closed.")
        while True:
            try:
                conn: Any = idle.get(block=False)
            except queue.Empty:
                return None
            if isinstance(conn, BoundedConnection) and self._is_good(conn):
                return conn
            conn.close()

    def _is_good(self, conn: BoundedConnection) -> bool:
        sock = conn.sock
        if sock is None or conn.spoilt:
            return False
        now = SYSTEM.monotonic()
        if self.idle_timeout is not None and now - conn.idle_since > self.idle_timeout:
            return False
        if self.max_connection_age is not None and now - conn.opened_at > self.max_connection_age:
            return False
        return is_quiet(sock)

    def _get_conn(self, timeout: float | None = None) -> Any:
        sending = current_sending()
        if sending is None or self.ConnectionCls is not self._bounded_class:
            return super()._get_conn(timeout)
        conn, sending.handover = sending.handover, None
        if conn is None and not sending.fresh:
            conn = self.take_idle()
        if conn is None:
            conn = self._new_conn()  # type: ignore[assignment]
        conn.carry(sending)  # type: ignore[union-attr]
        return conn

    def _put_conn(self, conn: Any) -> None:
        if isinstance(conn, BoundedConnection):
            conn.rest()
            if conn.spoilt or conn.sock is None:
                conn.close()
                return
            idle = self.pool
            if self.idle_timeout is not None and idle is not None:
                idle.drop_oldest(conn.idle_since - self.idle_timeout)  # type: ignore[attr-defined]
        super()._put_conn(conn)

    def host_line(self) -> str:
        """The Host header as urllib3 writes it for this pool, its line end included."""
        if self._host_line is None:
            listening = _Listening(self.host, self.port)
            listening.default_port = self._bounded_class.default_port  # type: ignore[misc]
            listening.request("GET", "/", headers={})
            line = next(each for each in listening.heard.split(b"\r\n") if each.startswith(b"Host: "))
            self._host_line = line.decode("latin-1") + "\r\n"
        return self._host_line


class BoundedTLSPool(BoundedPool, HTTPSConnectionPool):
    """The same for https."""

    _bounded_class = BoundedHTTPSConnection

    @property
    def ConnectionCls(self) -> Any:  # type: ignore[override]  # noqa: N802 - urllib3's name
        """See :attr:`BoundedPool.ConnectionCls`."""
        return self._bounded_class if HTTPSConnectionPool.ConnectionCls is _TLS else self._foreign_class()

    def _foreign_class(self) -> Any:
        return HTTPSConnectionPool.ConnectionCls

    def _is_good(self, conn: BoundedConnection) -> bool:
        return super()._is_good(conn) and not _has_decrypted(conn.sock)


class _Listening(BoundedHTTPConnection):
    """Connected to nothing; hears what would be sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard = b""

    def send(self, data: Any) -> None:
        self.heard += data


def pool_classes(
    idle_timeout: float | None, max_connection_age: float | None
) -> dict[str, Callable[..., BoundedPool]]:
    """What to put into the ``pool_classes_by_scheme`` of a pool manager.

    Args:
        idle_timeout: Seconds an unused connection is kept, or None.
        max_connection_age: Seconds after which a connection is used no more, or None.
    """
    return {
        scheme: functools.partial(_pool, kind, idle_timeout, max_connection_age)
        for scheme, kind in (("http", BoundedPool), ("https", BoundedTLSPool))
    }


def _pool(
    kind: type[BoundedPool],
    idle_timeout: float | None,
    max_connection_age: float | None,
    *args: Any,
    **kwargs: Any,
) -> BoundedPool:
    pool = kind(*args, **kwargs)
    pool.idle_timeout, pool.max_connection_age = idle_timeout, max_connection_age
    return pool


def is_quiet(sock: Any) -> bool:
    """Whether an idle socket has nothing to say. One that has is closed, or owes an answer nobody awaits."""
    try:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError):
        return False
    except AttributeError:  # a platform without poll
        return not select.select([sock], [], [], 0)[0]


def _has_decrypted(sock: Any) -> bool:
    """Whether TLS has taken bytes from the socket that nobody has read, which the socket does not tell."""
    if isinstance(sock, ssl.SSLSocket):
        return sock.pending() > 0
    inside = getattr(sock, "sslobj", None)  # of urllib3's TLS within TLS
    return inside is not None and (
        inside.pending() > 0 or sock.incoming.pending > 0 or _has_decrypted(sock.socket)
    )
