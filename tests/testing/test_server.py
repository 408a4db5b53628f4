"""FaultServer: how it is scripted, what it records, how it stops."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from service_utils.testing import (
    Answer,
    FaultServer,
    Handled,
    RecordedRequest,
    Reply,
    blackhole,
    close_connection,
    drop_reply,
    reset_connection,
)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def exchange(server: FaultServer, sent: bytes) -> bytes:
    """All that comes back for some bytes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(sent)
        with sock.makefile("rb") as stream:
            return stream.read()


def test_answers_200_when_told_nothing(server: FaultServer, session: requests.Session) -> None:
    """Without script, handler or default every request gets an empty 200."""
    response = session.get(server.url + "/anything")
    assert (response.status_code, response.content) == (200, b"")


def test_default_answers_what_the_script_does_not(session: requests.Session) -> None:
    """The default is for requests beyond the script."""
    with FaultServer(default=Answer(404)) as server:
        server.script(Answer(201))
        assert [session.get(server.url).status_code for _ in range(3)] == [201, 404, 404]


def test_script_is_played_in_order(server: FaultServer, session: requests.Session) -> None:
    """Each request gets the next reply; more can be added at any time; ``pending`` counts what is left."""
    server.script(Answer(500), Answer(502))
    server.script(Answer(503))
    assert server.pending == 3
    assert [session.get(server.url).status_code for _ in range(4)] == [500, 502, 503, 200]
    assert server.pending == 0


def test_handler_answers_by_the_request(session: requests.Session) -> None:
    """A handler is a function from the request to the reply."""

    def echo(request: RecordedRequest) -> Reply:
        return Answer.json({"path": request.path, "said": request.json()}, status=201)

    with FaultServer(echo) as server:
        response = session.post(server.url + "/a?b=c", json=[1])
    assert response.status_code == 201
    assert response.json() == {"path": "/a", "said": [1]}
    assert response.headers["Content-Type"] == "application/json"


def test_script_comes_before_the_handler(session: requests.Session) -> None:
    """A scripted reply is sent in the handler's place, which hears nothing of the request."""
    handled: list[str] = []

    def handler(request: RecordedRequest) -> Reply:
        handled.append(request.path)
        return Answer(200)

    with FaultServer(handler) as server:
        server.script(Answer(503))
        assert [session.get(server.url + path).status_code for path in ("/1", "/2")] == [503, 200]
    assert handled == ["/2"]


def test_handled_leaves_the_turn_to_the_handler(session: requests.Session) -> None:
    """``Handled()`` in a script lets one request through; ``Handled(reply)`` changes what is answered."""
    handled: list[str] = []

    def handler(request: RecordedRequest) -> Reply:
        handled.append(request.path)
        return Answer(201)

    with FaultServer(handler) as server:
        server.script(Handled(), Answer(503), Handled(Answer(504)))
        assert [session.get(server.url + path).status_code for path in ("/1", "/2", "/3")] == [201, 503, 504]
    assert handled == ["/1", "/3"]


def test_drop_reply_lets_the_work_be_done_and_says_nothing(session: requests.Session) -> None:
    """The classic doubt: the service has committed, and the connection ends before the answer."""
    ledger: list[bytes] = []

    def commit(request: RecordedRequest) -> Reply:
        ledger.append(request.body)
        return Answer(201)

    with FaultServer(commit) as server:
        server.script(drop_reply())
        with pytest.raises(requests.ConnectionError):
            session.post(server.url, data=b"charge 5")
    assert ledger == [b"charge 5"]


def test_a_broken_handler_is_a_500_and_fails_the_test() -> None:
    """What a handler raises becomes a 500 for the client and is raised again at the end of the block."""

    def broken(request: RecordedRequest) -> Reply:
        raise LookupError("no such account")

    def use() -> None:
        with FaultServer(broken) as server:
            response = requests.get(server.url, timeout=10)
            assert response.status_code == 500
            assert "no such account" in response.text

    with pytest.raises(LookupError, match="no such account"):
        use()


def test_a_failure_of_the_test_itself_is_not_hidden_by_the_handlers() -> None:
    """When the block already ends with an exception, that one is raised."""

    def broken(request: RecordedRequest) -> Reply:
        raise LookupError("no such account")

    def use() -> None:
        with FaultServer(broken) as server:
            requests.get(server.url, timeout=10).raise_for_status()

    with pytest.raises(requests.HTTPError):
        use()


def test_records_what_was_sent(server: FaultServer, session: requests.Session) -> None:
    """Method, target, headers and body are kept as they came."""
    session.put(server.url + "/x/y?q=1&q=2", data=b"\x00body", headers={"X-Mine": "yes"})
    (request,) = server.requests
    assert (request.method, request.target) == ("PUT", "/x/y?q=1&q=2")
    assert (request.path, request.query) == ("/x/y", "q=1&q=2")
    assert request.body == b"\x00body"
    assert request.headers["x-mine"] == "yes"
    assert ("X-Mine", "yes") in request.headers.pairs


def test_reads_a_chunked_upload(server: FaultServer, session: requests.Session) -> None:
    """A body of unknown length is read to its end and the coding is taken off."""
    session.post(server.url, data=iter([b"one ", b"two ", b"three"]))
    assert server.requests[0].body == b"one two three"
    assert session.get(server.url).status_code == 200


def test_reads_chunk_extensions_and_trailers(server: FaultServer) -> None:
    """What may stand beside the chunks is read off the wire and left out of the body."""
    sent = (
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;note=1\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"
    )
    assert exchange(server, sent).startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.requests[0].body == b"abc"


def test_sends_100_continue_to_those_who_wait_for_it(server: FaultServer) -> None:
    """A client that asks before it sends its body is told to go on."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Expect", "100-continue")
    connection.putheader("Content-Length", "4")
    connection.endheaders()
    assert connection.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(b"body")
    assert connection.getresponse().status == 200
    connection.close()
    assert server.requests[0].body == b"body"


def test_keeps_connections_open(server: FaultServer, session: requests.Session) -> None:
    """Requests of one pooled connection are numbered alike."""
    for _ in range(3):
        session.get(server.url)
    assert [request.connection for request in server.requests] == [1, 1, 1]
    assert (server.connections, server.open_connections) == (1, 1)


def test_numbers_connections(server: FaultServer) -> None:
    """Each new connection gets the next number."""
    for _ in range(2):
        exchange(server, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert [request.connection for request in server.requests] == [1, 2]
    assert server.connections == 2


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
)
def test_closes_when_the_client_wants_it(server: FaultServer, head: bytes) -> None:
    """HTTP/1.0 and ``Connection: close`` end the connection after the answer."""
    assert exchange(server, head) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_closes_when_the_answer_says_so(server: FaultServer, session: requests.Session) -> None:
    """An answer with ``Connection: close`` is the connection's last."""
    server.script(Answer(200, headers={"Connection": "close"}))
    session.get(server.url)
    session.get(server.url)
    assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_says_when_a_request_is_none(server: FaultServer, sent: bytes) -> None:
    """What is no HTTP request gets a 400 and is not recorded."""
    assert exchange(server, sent).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert server.requests == []


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nbo"]
)
def test_a_client_that_goes_away_midway_is_forgotten(server: FaultServer, sent: bytes) -> None:
    """A request that never became whole is not recorded, and the next client is served."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1000)
    assert server.requests == []
    assert requests.get(server.url, timeout=10).status_code == 200


def test_clear_forgets_script_and_record(server: FaultServer, session: requests.Session) -> None:
    """A second phase of a test can begin with a clean sheet."""
    server.script(Answer(500), Answer(500))
    session.get(server.url)
    server.clear()
    assert (server.requests, server.pending) == ([], 0)
    assert session.get(server.url).status_code == 200


def test_answers_many_at_once(server: FaultServer) -> None:
    """Every scripted reply goes to exactly one of many concurrent requests."""
    server.script(*[Answer(503)] * 20)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: requests.get(server.url, timeout=10).status_code, range(40)))
    assert sorted(statuses) == [200] * 20 + [503] * 20
    assert len(server.requests) == 40


def test_hold_lets_requests_come_and_replies_wait(server: FaultServer) -> None:
    """While replies are held back the test can see who is waiting; release() sends them."""
    server.hold()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(requests.get, server.url, timeout=10) for _ in range(3)]
        server.wait_for_requests(3)
        assert not any(each.done() for each in waiting)
        server.release()
        assert [each.result(10).status_code for each in waiting] == [200, 200, 200]


def test_wait_for_requests_gives_up(server: FaultServer) -> None:
    """Waiting for requests that never come ends with a TimeoutError that counts them."""
    with pytest.raises(TimeoutError, match="0 instead of 1 requests"):
        server.wait_for_requests(1, timeout=0.01)


def test_stop_listening_refuses_new_connections(server: FaultServer) -> None:
    """A stopped service's port refuses, it does not time out."""
    server.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=10)


def test_stop_listening_closes_idle_connections(server: FaultServer, session: requests.Session) -> None:
    """A pooled connection is no way into a service that has stopped."""
    session.get(server.url)
    server.stop_listening()
    with pytest.raises(requests.ConnectionError):
        session.get(server.url)
    assert len(server.requests) == 1


def test_stop_listening_lets_requests_under_way_end(server: FaultServer, session: requests.Session) -> None:
    """Who was let in gets an answer, but not a second one on the same connection."""
    server.hold()
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(session.get, server.url)
        server.wait_for_requests(1)
        server.stop_listening()
        server.release()
        assert under_way.result(10).status_code == 200
    with pytest.raises(requests.ConnectionError):
        session.get(server.url)


def test_stop_listening_twice_is_once(server: FaultServer) -> None:
    """A service that is stopped already stays so."""
    server.stop_listening()
    server.stop_listening()


def test_nobody_can_take_the_port_of_a_stopped_server(server: FaultServer) -> None:
    """While the server refuses, its port is not free for others."""
    server.stop_listening()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", server.port))


def test_resume_listens_at_the_same_port(server: FaultServer, session: requests.Session) -> None:
    """A restarted service is found where it was."""
    url = server.url
    server.stop_listening()
    server.resume()
    server.resume()
    assert server.url == url
    assert session.get(url).status_code == 200


def test_a_closed_server_cannot_resume() -> None:
    """close() is for good."""
    server = FaultServer()
    server.close()
    with pytest.raises(RuntimeError, match="closed"):
        server.resume()


def test_disconnect_cuts_connections_in_use(server: FaultServer) -> None:
    """A request under way ends without an answer, one that comes later is served."""
    server.hold()
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(requests.get, server.url, timeout=10)
        server.wait_for_requests(1)
        server.disconnect()
        with pytest.raises(requests.ConnectionError):
            under_way.result(10)
    server.release()
    assert requests.get(server.url, timeout=10).status_code == 200


@pytest.mark.parametrize(
    "reply",
    [
        blackhole(),
        Answer(200, delay=60),
        Answer(200, "body", body_delay=60),
        Answer(200, "body").stalled_at(2),
    ],
)
def test_close_ends_every_wait_at_once(reply: Reply) -> None:
    """However long a reply would take, close() does not wait for it and leaves no thread behind."""
    server = FaultServer(default=reply)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_for_requests(1)
        server.close()
        while sock.recv(1000):
            pass
    assert server.open_connections == 0
    assert not [each for each in threading.enumerate() if each.name.endswith(f"-{server.port}")]


def test_close_ends_held_replies(server: FaultServer) -> None:
    """A test that forgets release() is not held up by close()."""
    server.hold()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_for_requests(1)
        server.close()
    assert server.open_connections == 0


def test_close_ends_a_send_that_nobody_reads() -> None:
    """A client that stops reading does not keep the server from closing."""
    server = FaultServer(default=Answer(200, bytes(20_000_000)))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_for_requests(1)
        server.close()
    assert server.open_connections == 0


def test_close_twice_is_once(server: FaultServer) -> None:
    """close() may be called again, by the end of the block for instance."""
    server.close()
    server.close()


def test_close_says_when_a_handler_holds_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that does not come back is named as the reason why the server cannot close."""
    monkeypatch.setattr("service_utils.testing.server._CLOSE_WITHIN", 0.05)
    come_back = threading.Event()

    def stuck(request: RecordedRequest) -> Reply:
        come_back.wait(10)
        return Answer(200)

    server = FaultServer(stuck)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_for_requests(1)
        with pytest.raises(RuntimeError, match="handler holds up fault-connection-1"):
            server.close()
        come_back.set()


def test_a_handler_may_stop_its_own_server(session: requests.Session) -> None:
    """A service that goes down while it answers: the answer still comes, the next request is refused."""
    servers: list[FaultServer] = []

    def last_words(request: RecordedRequest) -> Reply:
        servers[0].stop_listening()
        return Answer(200, "goodbye")

    with FaultServer(last_words) as server:
        servers.append(server)
        assert session.get(server.url).text == "goodbye"
        with pytest.raises(requests.ConnectionError):
            session.get(server.url)


def test_a_handler_may_close_its_own_server() -> None:
    """close() out of a handler does not wait for the thread it runs in."""
    servers: list[FaultServer] = []

    def last_words(request: RecordedRequest) -> Reply:
        servers[0].close()
        return Answer(200)

    with FaultServer(last_words) as server:
        servers.append(server)
        with pytest.raises(requests.ConnectionError):
            requests.get(server.url, timeout=10)


@pytest.mark.parametrize("fault", [close_connection, reset_connection])
def test_the_next_request_after_a_fault_is_served(
    server: FaultServer, session: requests.Session, fault: Callable[[], Reply]
) -> None:
    """A fault takes its own connection down and nothing else."""
    server.script(fault())
    with pytest.raises(requests.ConnectionError):
        session.get(server.url)
    assert session.get(server.url).status_code == 200
    assert server.connections == 2


def test_repr_says_where_it_is(server: FaultServer) -> None:
    """The repr has the address, for messages of failing tests."""
    assert repr(server) == f"FaultServer('http://127.0.0.1:{server.port}')"
