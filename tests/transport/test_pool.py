"""The pool of bounded connections: which idle ones are used again, and which are closed."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from urllib3.exceptions import ClosedPoolError

from service_utils.http.fast import FastSession
from service_utils.http.pool import BoundedPool, IdleStack, is_quiet
from service_utils.testing import Answer, Drip, FaultServer

from .certificates import Certificates
from .pieces import Script
from .raw_server import RawServer
from .sessions import warm, whence


class Kept:
    """Stands for an idle connection."""

    def __init__(self, idle_since: float = 0.0) -> None:
        self.idle_since = idle_since
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def session() -> Iterator[FastSession]:
    with FastSession(idle_timeout=10.0, max_connection_age=100.0) as session:
        yield session


def pool_of(session: FastSession, url: str) -> BoundedPool:
    """The pool that served a URL."""
    request = requests.Request("GET", url).prepare()
    pool = session.get_adapter(url).get_connection_with_tls_context(request, True)
    assert isinstance(pool, BoundedPool)
    return pool


def idle_of(pool: BoundedPool) -> Any:
    """The connection that lies on top of the pool's stack."""
    return pool.pool._items[-1]  # type: ignore[union-attr]


def test_last_in_first_out() -> None:
    """The connection used last is used next; the others may grow old."""
    stack = IdleStack(4)
    first, second = Kept(), Kept()
    for each in (None, first, second):
        stack.put(each)

    assert stack.qsize() == 2
    assert [stack.get(), stack.get()] == [second, first]
    with pytest.raises(queue.Empty):
        stack.get()


def test_no_more_than_maxsize() -> None:
    """What does not fit is refused, or takes the place of one that is closed."""
    stack = IdleStack(1)
    stack.put(Kept())
    with pytest.raises(queue.Full):
        stack.put(Kept())
    assert stack.qsize() == 1


def test_no_more_than_maxsize_among_threads() -> None:
    """Many threads that give connections back at once do not make the stack grow."""
    stack, barrier = IdleStack(8), threading.Barrier(16)
    given = [[Kept() for _ in range(200)] for _ in range(16)]

    def give(own: list[Kept]) -> None:
        barrier.wait(10)
        for each in own:
            try:
                stack.put(each)
            except queue.Full:
                each.close()

    threads = [threading.Thread(target=give, args=(own,)) for own in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert stack.qsize() <= 8
    kept = sum(not each.closed for own in given for each in own)
    assert kept == stack.qsize()


def test_oldest_is_dropped() -> None:
    """A connection at the bottom that nobody needs any more does not stay for ever."""
    stack = IdleStack(4)
    old, young = Kept(1.0), Kept(5.0)
    stack.put(old)
    stack.put(young)
    for _ in range(3):
        stack.drop_oldest(3.0)
    assert (old.closed, young.closed, stack.qsize()) == (True, False, 1)
    stack.get()
    stack.drop_oldest(9.0)  # of an empty stack there is none to drop


@pytest.mark.parametrize(("name", "seconds"), [("idle_since", 11.0), ("opened_at", 101.0)])
def test_old_connection_is_not_used(
    session: FastSession, fault_server: FaultServer, name: str, seconds: float
) -> None:
    """After idle_timeout or max_connection_age the next request opens a new connection."""
    for _ in range(2):
        session.get(fault_server.url)
    assert fault_server.connections == 1

    conn = idle_of(pool_of(session, fault_server.url))
    setattr(conn, name, getattr(conn, name) - seconds)

    assert session.get(fault_server.url).status_code == 200
    assert fault_server.connections == 2


def test_connection_that_says_something_is_not_used(session: FastSession, fault_server: FaultServer) -> None:
    """Bytes nobody asked for are not taken for the next answer."""
    session.get(fault_server.url)
    near, far = socket.socketpair()
    conn = idle_of(pool_of(session, fault_server.url))
    conn.sock.close()
    conn.sock = near
    far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmugg")

    assert session.get(fault_server.url).content == b""
    far.close()


_UNASKED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmugg"
_LONG_HEAD = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 8000\r\nX-Fill: "


@pytest.mark.parametrize(
    ("pieces", "stream"),
    [
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 40, b"x" * 60 + _UNASKED), False),
        # As much as http.client asks for at once, and more in the same TLS record.
        ((_LONG_HEAD.ljust(8192 - 8004, b"f") + b"\r\n\r\n" + b"x" * 8000 + _UNASKED,), True),
    ],
    ids=["fast way", "ordinary way"],
)
def test_connection_that_has_said_something_in_tls_is_not_used(
    pieces: tuple[bytes, ...], stream: bool, session: FastSession, certificates: Certificates
) -> None:
    """What TLS has decrypted along with an answer, and is no part of it, is not taken for the next one."""
    session.verify = certificates.authority
    with RawServer(tls=certificates.server(), patience=10) as server:
        warm(session, server)
        server.scripts["/more"] = Script(pieces)

        assert set(session.get(f"{server.url}/more", stream=stream).text) == {"x"}
        assert whence(session.get(f"{server.url}/next")) == (2, 1)


def test_closed_socket_is_not_quiet() -> None:
    """A socket that is gone cannot be used, and finding out raises nothing."""
    near, far = socket.socketpair()
    assert is_quiet(near)
    near.close()
    assert not is_quiet(near)
    far.close()


def test_closed_session(session: FastSession, fault_server: FaultServer) -> None:
    """A session that has been closed opens new connections when it is used again."""
    session.get(fault_server.url)
    session.close()
    fault_server.script(Answer(200, "again"))
    assert session.get(fault_server.url).text == "again"
    assert fault_server.connections == 2


def test_pool_closed_between_two_steps(session: FastSession, fault_server: FaultServer) -> None:
    """A pool that is closed in the middle gives urllib3's own error."""
    for _ in range(2):
        session.get(fault_server.url)
    pool = pool_of(session, fault_server.url)
    pool.close()
    with pytest.raises(ClosedPoolError):
        pool.take_idle()
    with pytest.raises(requests.ConnectionError):
        session.get(fault_server.url)


def test_connection_given_back_too_early(session: FastSession, fault_server: FaultServer) -> None:
    """A connection that still owes the rest of a body is not used again, even if somebody releases it."""
    session.get(fault_server.url)
    fault_server.script(Answer(200, "x" * 50_000, drip=Drip(10_000, every=0.01)), Answer(200, "next"))

    session.get(fault_server.url, stream=True).raw.release_conn()

    assert session.get(fault_server.url).text == "next"
    assert fault_server.connections == 2
