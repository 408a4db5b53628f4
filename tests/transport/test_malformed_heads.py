"""Heads that no server should send: no hang, no second answer let in, the connection not used again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from service_utils import ResilientServiceClient, RetryPolicy, ServiceRegistry, call_of
from service_utils.testing import FakeClock

from .outcomes import Outcome, outcome_of
from .pieces import Ending, Script
from .plainness import SMUGGLED, RawAnswer, is_plain
from .raw_server import RawServer
from .sessions import fast_session, stock_session, warm, whence

PATIENCE = 0.25  # seconds; some of these are waited for to the end, by stock requests as well
BOUND = 5.0

OK = b"HTTP/1.1 200 OK\r\n"
FIVE = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
HELLO = b"\r\nhello"
CHUNKS = b"\r\n5\r\nhello\r\n0\r\n\r\n"
MANY = b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(10_000))

HEADS = {
    "folded": OK + b"X: 1\r\n 2\r\n" + FIVE + HELLO,
    "folded by a tab": OK + FIVE + b"X: 1\r\n\t2\r\n" + HELLO,
    "folded length": OK + b"Content-Length:\r\n 5\r\n" + HELLO,
    "folded coding": OK + b"Transfer-Encoding:\r\n chunked\r\n" + CHUNKS,
    "folded first line": OK + b" X: 1\r\n" + FIVE + HELLO,
    "folded into a length": OK + b"X: 1\r\n Content-Length: 5\r\n" + b"Content-Length: 2\r\n" + HELLO,
    "folded away": OK + b"Content-Length: 5\r\n 0\r\n" + HELLO,
    "blank line of blanks": OK + FIVE + b" \r\n" + HELLO,
    "no colon": OK + b"no colon\r\n" + FIVE + HELLO,
    "no colon at the end": OK + FIVE + b"no colon\r\n" + HELLO,
    "no colon behind the length": OK + FIVE + b"no colon\r\nContent-Length: 2\r\n" + HELLO,
    "no name": OK + b": nameless\r\n" + FIVE + HELLO,
    "blank before the colon": OK + b"X : 1\r\n" + FIVE + HELLO,
    "blank before the colon of the length": OK + b"Content-Length : 5\r\n" + HELLO,
    "blank before the colon of the coding": OK + b"Transfer-Encoding : chunked\r\n" + FIVE + CHUNKS,
    "blank in a name": OK + b"X Y: 1\r\n" + FIVE + HELLO,
    "odd letters in a name": OK + b"X(Y): 1\r\n" + FIVE + HELLO,
    "name beyond ASCII": OK + b"\xdc: 1\r\n" + FIVE + HELLO,
    "two equal lengths": OK + FIVE + FIVE + HELLO,
    "two lengths": OK + FIVE + b"Content-Length: 2\r\n" + HELLO,
    "two lengths, the shorter first": OK + b"Content-Length: 2\r\n" + FIVE + HELLO,
    "list of equal lengths": OK + b"Content-Length: 5, 5\r\n" + HELLO,
    "list of lengths": OK + b"Content-Length: 5, 2\r\n" + HELLO,
    "length and chunks": OK + FIVE + CHUNKED + CHUNKS,
    "chunks and length": OK + CHUNKED + FIVE + CHUNKS,
    "short length and chunks": OK + b"Content-Length: 1\r\n" + CHUNKED + CHUNKS + SMUGGLED,
    "length, but no chunks": OK + FIVE + CHUNKED + HELLO,
    "coded twice": OK + CHUNKED + CHUNKED + CHUNKS,
    "coded by who knows what": OK + b"Transfer-Encoding: chunked, who-knows\r\n" + FIVE + CHUNKS,
    "coded, nearly": OK + b"Transfer-Encoding: \x0bchunked\r\n" + FIVE + CHUNKS,
    "negative length": OK + b"Content-Length: -5\r\n" + HELLO,
    "length with a plus": OK + b"Content-Length: +5\r\n" + HELLO,
    "length with an underscore": OK + b"Content-Length: 0_5\r\n" + HELLO,
    "length in hex": OK + b"Content-Length: 0x5\r\n" + HELLO,
    "length with a letter": OK + b"Content-Length: 5a\r\n" + HELLO,
    "no length at all": OK + b"Content-Length: \r\n" + HELLO,
    "length beyond all bounds": OK + b"Content-Length: %s\r\n" % (b"9" * 30) + HELLO,
    "length of 5000 digits": OK + b"Content-Length: %s5\r\n" % (b"0" * 5000) + HELLO,
    "bare CR in a value": OK + b"X: 1\r2\r\n" + FIVE + HELLO,
    "bare CR before another header": OK + b"X: 1\rContent-Length: 2\r\n" + FIVE + HELLO,
    "bare CR before the line end": OK + b"X: 1\r\r\n" + FIVE + HELLO,
    "bare CR for a line": OK + b"\r\r\n" + FIVE + HELLO,
    "bare CR for all line ends": (OK + FIVE + b"\r\n").replace(b"\r\n", b"\r") + b"hello",
    "bare CR in the status line": b"HTTP/1.1 200 OK\rContent-Length: 2\r\n" + FIVE + HELLO,
    "bare LF": OK + b"X: 1\n" + FIVE + HELLO,
    "bare LF for all line ends": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "bare LF at the end": OK + FIVE + b"\nhello",
    "NUL in a value": OK + b"X: 1\x002\r\n" + FIVE + HELLO,
    "NUL in a name": OK + b"X\x00: 1\r\n" + FIVE + HELLO,
    "NUL in the length": OK + b"Content-Length: 5\x00\r\n" + HELLO,
    "line of 64 KiB": OK + b"X: " + b"v" * 65_536 + b"\r\n" + FIVE + HELLO,
    "name of 64 KiB": OK + b"X" * 65_536 + b": v\r\n" + FIVE + HELLO,
    "reason of 64 KiB": b"HTTP/1.1 200 " + b"v" * 65_536 + b"\r\n" + FIVE + HELLO,
    "line of 1 MiB without an end": OK + b"X: " + b"v" * 2**20,
    "10,000 headers": OK + MANY + FIVE + HELLO,
    "10,000 headers and no end": OK + MANY,
    "1,000 interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "other protocol": b"HTTP/2.0 200 OK\r\n" + FIVE + HELLO,
    "no protocol": b"<html>hello</html>\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x50",
    "status of two digits": b"HTTP/1.1 20 OK\r\n" + FIVE + HELLO,
    "status of four digits": b"HTTP/1.1 2000 OK\r\n" + FIVE + HELLO,
    "status with a sign": b"HTTP/1.1 +200 OK\r\n" + FIVE + HELLO,
    "status in words": b"HTTP/1.1 OK 200\r\n" + FIVE + HELLO,
    "empty line first": b"\r\n" + OK + FIVE + HELLO,
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + SMUGGLED,
    "more than its length": OK + b"Content-Length: 2\r\n" + HELLO,
    "second answer": OK + FIVE + HELLO + SMUGGLED,
    "second answer behind an empty line": OK + FIVE + HELLO + b"\r\n" + SMUGGLED,
    "second answer behind no content": b"HTTP/1.1 204 No Content\r\n\r\n" + SMUGGLED,
    "second answer behind no change": b"HTTP/1.1 304 Not Modified\r\n" + FIVE + b"\r\n" + SMUGGLED,
    "second answer behind chunks": OK + CHUNKED + CHUNKS + SMUGGLED,
    "body of no content": b"HTTP/1.1 204 No Content\r\n" + FIVE + HELLO,
    "chunks of no content": b"HTTP/1.1 204 No Content\r\n" + CHUNKED + CHUNKS,
    "chunks of no change": b"HTTP/1.1 304 Not Modified\r\n" + CHUNKED + CHUNKS,
    "chunks and length of no content": b"HTTP/1.1 204 No Content\r\n" + FIVE + CHUNKED + b"\r\n",
    "lengths of no content": b"HTTP/1.1 204 No Content\r\nContent-Length: 2, 5\r\n\r\n",
    "who knows what of no content": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: who-knows\r\n\r\n",
    "length with a vertical tab": OK + b"Content-Length: 5\x0b\r\n" + HELLO,
    "chunk size in another hex": OK + CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size with a plus": OK + CHUNKED + b"\r\n+5\r\nhello\r\n0\r\n\r\n",
    "chunk size with an underscore": OK + CHUNKED + b"\r\n0_5\r\nhello\r\n0\r\n\r\n",
    "chunk size that is negative": OK + CHUNKED + b"\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk size of nothing": OK + CHUNKED + b"\r\n\r\nhello\r\n0\r\n\r\n",
    "chunk size beyond all bounds": OK + CHUNKED + b"\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk with another end": OK + CHUNKED + b"\r\n5\r\nhello\rX0\r\n\r\n",
    "chunk without an end": OK + CHUNKED + b"\r\n5\r\nhello000\r\n\r\n",
    "chunk longer than its size": OK + CHUNKED + b"\r\n2\r\nhello\r\n0\r\n\r\n",
    "chunk shorter than its size": OK + CHUNKED + b"\r\n6\r\nhello\r\n0\r\n\r\n",
    "chunk extension of 64 KiB": OK + CHUNKED + b"\r\n5;" + b"e" * 65_536 + b"\r\nhello\r\n0\r\n\r\n",
    "trailers without end": OK + CHUNKED + b"\r\n0\r\n" + b"X: 1\r\n" * 1000,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer(patience=2 * BOUND) as server:
        yield server


@pytest.fixture(scope="module")
def expected() -> dict[str, Outcome]:
    """What stock requests makes of a head."""
    return {}


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("warmed", [False, True], ids=["new", "warmed"])
@pytest.mark.parametrize("name", HEADS)
def test_stock_answer_and_no_connection_kept(
    name: str, warmed: bool, server: RawServer, expected: dict[str, Outcome]
) -> None:
    """What stock makes of it, within the time-out; the next request gets its own answer somewhere else."""
    server.scripts["/odd"] = Script((HEADS[name],), Ending.OPEN)
    if name not in expected:
        with stock_session() as stock:
            expected[name] = outcome_of(lambda: stock.get(server.url + "/odd", timeout=PATIENCE))
    with fast_session() as ours:
        if warmed:
            warm(ours, server)
        server.take()
        began = time.monotonic()
        outcome = outcome_of(lambda: ours.get(server.url + "/odd", timeout=PATIENCE))
        took = time.monotonic() - began
        (asked,) = server.take()
        following = ours.get(server.url + "/next", timeout=BOUND)

    assert outcome == expected[name]
    assert took < BOUND
    assert following.text.endswith(" /next")
    assert whence(following)[0] != asked.connection


def test_all_of_them_are_malformed() -> None:
    """None of these heads says plainly where its answer ends; those that do are too long, or not for us."""
    plain = {name for name, head in HEADS.items() if is_plain(RawAnswer("GET", head))}

    assert plain == {
        "line of 64 KiB",
        "name of 64 KiB",
        "reason of 64 KiB",
        "10,000 headers",
        "chunk extension of 64 KiB",
        "switching protocols",
    }


def test_bytes_that_nobody_asked_for(server: RawServer) -> None:
    """A connection on which something arrives while it is idle is not used again."""
    server.scripts["/late"] = Script((OK + FIVE + HELLO, SMUGGLED), Ending.OPEN)
    with fast_session() as session:
        connection = warm(session, server)
        assert session.get(server.url + "/late", timeout=BOUND).text == "hello"
        server.wait_until_played("/late")
        following = session.get(server.url + "/next", timeout=BOUND)

    assert following.text.endswith(" /next")
    assert whence(following)[0] != connection


def test_body_of_an_answer_to_head(server: RawServer) -> None:
    """A HEAD is answered by a head; what comes behind it is nobody's answer."""
    server.scripts["/odd"] = Script((OK + FIVE + HELLO,), Ending.OPEN)
    with fast_session() as session:
        connection = warm(session, server)
        response = session.head(server.url + "/odd", timeout=BOUND)
        following = session.get(server.url + "/next", timeout=BOUND)

    assert (response.content, response.headers["Content-Length"]) == (b"", "5")
    assert following.text.endswith(" /next")
    assert whence(following)[0] != connection


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize(
    "name", ["list of lengths", "length and chunks", "two lengths", "coded by who knows what"]
)
def test_malformed_answer_to_head(name: str, server: RawServer) -> None:
    """That no body follows makes a head no better."""
    server.scripts["/odd"] = Script((HEADS[name].partition(b"\r\n\r\n")[0] + b"\r\n\r\n",), Ending.OPEN)
    with stock_session() as stock, fast_session() as ours:
        expected = outcome_of(lambda: stock.head(server.url + "/odd", timeout=BOUND))
        connection = warm(ours, server)
        assert outcome_of(lambda: ours.head(server.url + "/odd", timeout=BOUND)) == expected
        following = ours.get(server.url + "/next", timeout=BOUND)

    assert following.text.endswith(" /next")
    assert whence(following)[0] != connection


def test_hundred_headers_are_not_too_many(server: RawServer) -> None:
    """As many as http.client takes are taken; with one more, both say so."""
    lines = b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(102))
    with stock_session() as stock, fast_session() as ours:
        for count in (98, 99, 100, 101):
            head = OK + FIVE + b"".join(lines.splitlines(keepends=True)[:count])
            server.scripts["/many"] = Script((head + HELLO,), Ending.CLOSE)
            expected = outcome_of(lambda: stock.get(server.url + "/many", timeout=BOUND))
            warm(ours, server)
            assert outcome_of(lambda: ours.get(server.url + "/many", timeout=BOUND)) == expected


def test_no_thread_gets_what_was_smuggled(server: RawServer) -> None:
    """Many threads on one session: whatever is sent along with an answer, no other request gets to see it."""
    server.scripts["/smuggling"] = Script((OK + FIVE + HELLO + SMUGGLED,), Ending.OPEN)
    server.scripts["/smuggling/late"] = Script((OK + FIVE + HELLO, SMUGGLED), Ending.OPEN)
    seen: list[tuple[str, str]] = []
    with fast_session() as session:

        def ask(thread: int) -> None:
            for number in range(30):
                path = f"/own/{thread}/{number}"
                seen.append((session.get(server.url + path, timeout=BOUND).text, path))
                if number % 3 == 0:
                    session.get(server.url + "/smuggling", timeout=BOUND)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(6 * BOUND)

    assert len(seen) == 8 * 30
    assert [text for text, path in seen if not text.endswith(" " + path)] == []


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("name", ["two lengths", "10,000 headers", "no protocol", "line of 64 KiB"])
def test_clients_try_again(name: str, server: RawServer) -> None:
    """To a client an answer that nobody can read is a failed attempt, and the next one is made elsewhere."""
    registry = ServiceRegistry()
    server.scripts["/odd"] = Script((HEADS[name],), Ending.OPEN)
    with ResilientServiceClient(
        server.url, registry=registry, clock=FakeClock(), retry=RetryPolicy(max_attempts=3), timeout=BOUND
    ) as client:
        for _ in range(2):
            client.get("/warm")
        server.take()
        with pytest.raises(requests.RequestException):
            client.get("/odd")
        asked = server.take()

        assert client.get("/next").text.endswith(" /next")
    assert len({each.connection for each in asked}) == len(asked) == 3


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("name", HEADS)
def test_clients_raise_nothing_else(name: str, server: RawServer, registry: ServiceRegistry) -> None:
    """Whatever it is, it is no mistake of the caller's: an answer, or an exception that requests has, too."""
    server.scripts["/odd"] = Script((HEADS[name],), Ending.CLOSE)
    with ResilientServiceClient(server.url, registry=registry, max_retries=1, timeout=PATIENCE) as client:
        try:
            call = call_of(client.get("/odd"))
        except requests.RequestException as error:
            call = call_of(error)

    assert len(call.attempts) == 1
    assert call.ended != "caller_error"


@pytest.mark.parametrize(
    "read",
    [
        lambda response: b"".join(iter(lambda: response.raw.read(2), b"")),
        lambda response: b"".join(iter(response.raw.read1, b"")),
        lambda response: (buffer := bytearray(5), response.raw._fp.readinto(buffer), response.raw.read())[0],
        lambda response: b"".join(response.iter_content(2)),
    ],
    ids=["read", "read1", "readinto", "iter_content"],
)
@pytest.mark.parametrize(("end", "used_again"), [(b"\r\n", True), (b"\rX", False)])
def test_end_of_a_chunk_that_is_streamed(
    end: bytes, used_again: bool, read: Callable[[requests.Response], bytes], server: RawServer
) -> None:
    """Whoever reads them: the two bytes behind a chunk are looked at."""
    server.scripts["/odd"] = Script((OK + CHUNKED + b"\r\n5\r\nhello" + end + b"0\r\n\r\n",), Ending.OPEN)
    with fast_session() as session:
        connection = warm(session, server)
        with session.get(server.url + "/odd", timeout=BOUND, stream=True) as response:
            assert read(response) == b"hello"
        following = session.get(server.url + "/next", timeout=BOUND)

    assert following.text.endswith(" /next")
    assert (whence(following)[0] == connection) == used_again
