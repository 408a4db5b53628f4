"""A proxy as a whole: where it leads, what it notes, how it comes and goes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random

import pytest
import requests

from service_utils.testing import (
    Answer,
    End,
    Ending,
    Fault,
    FaultProxy,
    FaultServer,
    RecordedRequest,
    close_connection,
    faults,
    reset_connection,
)
from tests.side_by_side import together

pytest_plugins = ["service_utils.testing.fixtures"]


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """One that keeps connections, and asks no environment about them."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def _address(server: FaultServer) -> tuple[str, int]:
    return "127.0.0.1", server.port


def test_passes_everything_on(
    fault_server: FaultServer, fault_proxy: FaultProxy, session: requests.Session
) -> None:
    """Without a fault, request and answer arrive as they were sent."""
    fault_server.script(Answer(201, "made", {"X-Kind": "a"}))
    answer = session.post(f"{fault_proxy.url}/things?a=1", data=b"body", timeout=10)
    assert (answer.status_code, answer.text, answer.headers["X-Kind"]) == (201, "made", "a")
    request = fault_server.requests[0]
    assert (request.method, request.target, request.body) == ("POST", "/things?a=1", b"body")


def test_notes_each_exchange(
    fault_server: FaultServer, fault_proxy: FaultProxy, session: requests.Session
) -> None:
    """The log says what was asked, what was done about it and how it ended."""
    fault_server.script(Answer(404, "none"))
    session.put(f"{fault_proxy.url}/a?b", data=b"12345", timeout=10)
    (noted,) = fault_proxy.wait_for(1)
    assert (noted.number, noted.connection, noted.fault, noted.end) == (1, 1, faults.nothing(), End.PASSED)
    assert (noted.method, noted.target, noted.status, noted.request_whole) == ("PUT", "/a?b", 404, True)
    assert noted.request_bytes > 5
    assert noted.response_bytes > 4


def test_one_fault_for_each_exchange_of_a_kept_connection(
    fault_proxy: FaultProxy, session: requests.Session
) -> None:
    """The script goes on from request to request, whether or not they share a connection."""
    fault_proxy.script([faults.nothing(), faults.nothing(), faults.drop_reply(), faults.nothing()])
    statuses = []
    for _ in range(4):
        try:
            statuses.append(session.get(fault_proxy.url, timeout=10).status_code)
        except requests.ConnectionError:
            statuses.append(0)
    assert statuses == [200, 200, 0, 200]
    assert [each.connection for each in fault_proxy.wait_for(4)] == [1, 1, 1, 2]
    assert fault_proxy.connections == 2


def test_default_is_what_is_left(fault_proxy: FaultProxy, session: requests.Session) -> None:
    """After the script comes the default, which may be changed at any time."""
    fault_proxy.default = faults.truncate_at(0)
    fault_proxy.script([faults.nothing()])
    assert fault_proxy.pending == 1
    assert session.get(fault_proxy.url, timeout=10).ok
    with pytest.raises(requests.ConnectionError):
        session.get(fault_proxy.url, timeout=10)
    fault_proxy.default = faults.nothing()
    assert session.get(fault_proxy.url, timeout=10).ok
    assert fault_proxy.pending == 0


def test_bodies_in_chunks_and_interim_answers_are_followed(
    fault_server: FaultServer, fault_proxy: FaultProxy
) -> None:
    """A chunked request after a 100 and its chunked answer are one exchange, then comes one more."""
    fault_server.script(Answer(200, b"x" * 1000, chunk_size=99), Answer(204))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", fault_proxy.port), timeout=10) as sock:
        sock.sendall(head)
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"3\r\nabc\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        log = fault_proxy.wait_for(2)
    assert [(each.method, each.status, each.end) for each in log] == [
        ("POST", 200, End.PASSED),
        ("GET", 204, End.PASSED),
    ]
    assert fault_server.requests[0].body == b"abc"


def test_answer_that_ends_with_its_connection(fault_server: FaultServer, fault_proxy: FaultProxy) -> None:
    """An answer without a length is whole when the service closes."""
    fault_server.script(Answer(200, "all of it", {"Transfer-Encoding": "identity"}, ending=Ending.CLOSE))
    assert requests.get(fault_proxy.url, timeout=10).text == "all of it"
    assert fault_proxy.wait_for(1)[0].end is End.PASSED


def test_large_bodies_both_ways_at_once(session: requests.Session) -> None:
    """Many megabytes go through whole."""

    def echo(request: RecordedRequest) -> Answer:
        return Answer(200, request.body)

    body = Random(1).randbytes(4 * 2**20)
    with FaultServer(echo) as server, FaultProxy(_address(server)) as proxy:
        assert session.post(proxy.url, data=body, timeout=20).content == body


def test_service_that_closes_is_passed_on(fault_server: FaultServer, fault_proxy: FaultProxy) -> None:
    """End of file and reset of the service reach the caller as what they are."""
    fault_server.script(close_connection(), reset_connection())
    for expected in (b"", ConnectionResetError):
        with socket.create_connection(("127.0.0.1", fault_proxy.port), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            if isinstance(expected, bytes):
                assert sock.recv(1) == expected
            else:
                with pytest.raises(expected):
                    sock.recv(1)
    assert [each.end for each in fault_proxy.wait_for(2)] == [End.UPSTREAM_LEFT] * 2


def test_service_that_is_away(session: requests.Session) -> None:
    """Where nobody listens behind the proxy, the caller's connection is reset, and the log says why."""
    with FaultServer() as server, FaultProxy(_address(server)) as proxy:
        server.stop_listening()
        with pytest.raises(requests.ConnectionError):
            session.get(proxy.url, timeout=10)
        assert proxy.wait_for(1)[0].end is End.UPSTREAM_AWAY
        server.resume()
        assert session.get(proxy.url, timeout=10).ok


def test_service_may_move(session: requests.Session) -> None:
    """A service that comes back at another port is found there by the next connection."""
    with (
        FaultServer(default=Answer(200, "first")) as first,
        FaultServer(default=Answer(200, "second")) as second,
        FaultProxy(f"127.0.0.1:{first.port}") as proxy,
    ):
        assert session.get(proxy.url, timeout=10).text == "first"
        first.close()
        proxy.upstream = _address(second)
        assert proxy.upstream == ("127.0.0.1", second.port)
        assert requests.get(proxy.url, timeout=10).text == "second"


def test_caller_who_leaves_takes_the_connection_along(
    fault_server: FaultServer, fault_proxy: FaultProxy, session: requests.Session
) -> None:
    """Who waits no longer closes, and the proxy closes towards the service."""
    fault_server.hold()
    with pytest.raises(requests.ReadTimeout):
        session.get(fault_proxy.url, timeout=0.05)
    (noted,) = fault_proxy.wait_for(1)
    assert (noted.end, noted.request_whole, noted.status) == (End.CALLER_LEFT, True, None)
    fault_server.release()


def test_nobody_listens_for_a_while(fault_proxy: FaultProxy, session: requests.Session) -> None:
    """While it does not listen, connections are refused; afterwards it is at the same port."""
    fault_proxy.stop_listening()
    fault_proxy.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", fault_proxy.port), timeout=10)
    fault_proxy.resume()
    fault_proxy.resume()
    assert session.get(fault_proxy.url, timeout=10).ok


def test_disconnect_closes_what_is_open(fault_proxy: FaultProxy) -> None:
    """Idle connections are closed at once, and new ones may be made."""
    with socket.create_connection(("127.0.0.1", fault_proxy.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        fault_proxy.wait_for(1)
        fault_proxy.disconnect()
        while sock.recv(2**16):
            pass
    assert requests.get(fault_proxy.url, timeout=10).ok


def test_close_ends_everything_under_way(fault_server: FaultServer) -> None:
    """Closing it lets go of a caller in a black hole, and its port is free again."""
    proxy = FaultProxy(_address(fault_server), default=faults.blackhole())
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.wait_for(1)
        proxy.close()
        proxy.close()
        assert sock.recv(1) == b""
    with pytest.raises(RuntimeError, match="closed"):
        proxy.resume()
    socket.create_server(("127.0.0.1", proxy.port)).close()


def test_exchange_that_is_cut_off_by_closing_is_noted(fault_server: FaultServer) -> None:
    """What was under way when the proxy was closed stands in the log, too."""
    fault_server.hold()
    with FaultProxy(_address(fault_server)) as proxy:
        sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        fault_server.wait_for_requests(1)
    sock.close()
    assert [each.end for each in proxy.log] == [End.STOPPED]


def test_many_callers_at_once(fault_proxy: FaultProxy) -> None:
    """Each caller gets the answer to his own request, and each exchange is noted once."""

    def call(number: int) -> None:
        with requests.Session() as session:
            for turn in range(10):
                assert session.get(f"{fault_proxy.url}/{number}/{turn}", timeout=20).ok

    together(8, call)
    log = fault_proxy.wait_for(80)
    assert sorted(each.number for each in log) == list(range(1, 81))
    assert {each.target for each in log} == {f"/{a}/{b}" for a in range(8) for b in range(10)}


def test_bytes_that_are_no_http_pass() -> None:
    """Whatever is no HTTP goes through as one exchange without a method."""
    with (
        socket.create_server(("127.0.0.1", 0)) as service,
        FaultProxy(("127.0.0.1", service.getsockname()[1])) as proxy,
    ):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as sock:
            sock.sendall(b"\x16\x03\x01hello")
            there, _ = service.accept()
            with there:
                assert there.recv(100) == b"\x16\x03\x01hello"
                there.sendall(b"\x16world")
                assert sock.recv(100) == b"\x16world"
        (noted,) = proxy.wait_for(1)
    assert (noted.method, noted.status) == (None, None)
    assert (noted.request_bytes, noted.response_bytes) == (8, 6)


def test_plan_that_raises_is_told(fault_server: FaultServer) -> None:
    """A mistake in what makes a fault is raised at the end of the block, and no caller is left hanging."""

    def wrong(_: Random) -> Fault:
        raise ZeroDivisionError("in a test")

    proxy = FaultProxy(_address(fault_server))
    proxy.random(seed=1, rate=1, faults=[wrong])
    with pytest.raises(ZeroDivisionError, match="in a test"), proxy:
        assert _hangs_up(proxy)


def _hangs_up(proxy: FaultProxy) -> bool:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as sock:
        return sock.recv(1) == b""


@pytest.mark.parametrize(
    "upstream", ["localhost", ":80", "a:b", "http://a:80", ("", 1), ("a", 0), ("a", 65536)]
)
def test_upstream_must_be_an_address(upstream: str | tuple[str, int]) -> None:
    """What is no host and port is refused at once, and the message shows it."""
    with pytest.raises(ValueError, match="upstream="):
        FaultProxy(upstream)


def test_repr_says_where_it_leads(fault_proxy: FaultProxy) -> None:
    """A glance tells both ends."""
    assert repr(fault_proxy) == f"FaultProxy({fault_proxy.url!r} -> 127.0.0.1:{fault_proxy.upstream[1]})"


def test_wait_for_gives_up(fault_proxy: FaultProxy) -> None:
    """Waiting for an exchange that never comes ends with an error."""
    with pytest.raises(TimeoutError, match="0 instead of 1"):
        fault_proxy.wait_for(1, timeout=0.01)
