"""An answer of our session is a Response like any other: whatever one asks of it, it says what stock says."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict

from service_utils import ResilientServiceClient, ServiceRegistry, call_of

from .codings import CODERS
from .outcomes import outcome_of_error
from .pieces import Ending, Script
from .raw_server import RawServer
from .rows import TIMEOUT
from .sessions import fast_session, stock_session, warm

_ZIPPED = CODERS["gzip"](b"zipped text")


@dataclass(frozen=True)
class Case:
    """An answer, and how it is asked for."""

    data: bytes
    method: str = "GET"
    settings: dict[str, Any] = field(default_factory=dict)


def _answer(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


_JSON = _answer(b'{"a": "\xc3\xbc"}', "Content-Type: application/json")

CASES = {
    "json": Case(_JSON),
    "json that is none": Case(_answer(b"{", "Content-Type: application/json")),
    "text": Case(_answer("Grüße\nzwei\r\n\r\nEnde".encode("latin-1"), "Content-Type: text/plain")),
    "text of a charset": Case(_answer("Grüße".encode(), "Content-Type: text/html; charset=UTF-8")),
    "text of no charset there is": Case(_answer("Grüße".encode(), "Content-Type: text/html; charset=nix")),
    "no type": Case(_answer("Größe über alles, so schön wie möglich".encode(), "X-Own: 1")),
    "nothing": Case(_answer(b"", "X-Own: 1")),
    "no content": Case(b"HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n", "DELETE"),
    "not modified": Case(b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 9\r\n\r\n'),
    "head": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD"),
    "posted": Case(_answer(b"ok", "Location: /items/1", status="201 Created"), "POST", {"json": {"a": 1}}),
    "not found": Case(_answer(b"no", "X-Own: 1", status="404 N\xf6t Found")),
    "failed": Case(_answer(b"no", "Retry-After: 1", status="503 Service Unavailable"), "PUT", {"data": b"x"}),
    "no reason": Case(_answer(b"ok", "X: 1", status="200")),
    "links": Case(_answer(b"", 'Link: </a?page=2>; rel="next", <http://b/>; rel=last; title="x"')),
    "odd letters": Case(_answer(b"ok", "x-LOWER:  1 \t", "X-Empty:", "X-Latin: caf\xe9")),
    "cookies": Case(_answer(b"ok", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2; HttpOnly")),
    "zipped": Case(_answer(_ZIPPED, "Content-Encoding: gzip", "Content-Type: text/plain")),
    "chunked": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
    "old": Case(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "redirect not followed": Case(
        _answer(b"go", "Location: /b?c#d", status="301 Moved"),
        "POST",
        {"allow_redirects": False, "data": b"x"},
    ),
    "redirect": Case(_answer(b"go", "Location: /landed", status="302 Found"), "POST", {"data": {"a": "1"}}),
    "redirect nowhere": Case(_answer(b"go", "X-Own: 1", status="302 Found")),
    "with all of it": Case(
        _JSON,
        "PATCH",
        {
            "params": {"q": "1"},
            "headers": {"X-A": "b"},
            "cookies": {"c": "d"},
            "auth": ("e", "f"),
            "data": "ü",
        },
    ),
    "with a hook": Case(_JSON, settings={"hooks": {"response": lambda response, **_settings: None}}),
    "stream": Case(_JSON, settings={"stream": True}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer(patience=TIMEOUT) as server:
        server.scripts["/landed"] = Script((_JSON,))
        yield server


@pytest.fixture(scope="module")
def answers(server: RawServer) -> Iterator[Callable[[Case], list[requests.Response]]]:
    """The answers to three sessions: a stock one, one of ours without a connection, one of ours in use."""
    sessions = [stock_session(), fast_session(), fast_session()]

    def ask(case: Case) -> list[requests.Response]:
        server.scripts["/asked"] = server.scripts["/asked?q=1"] = Script((case.data,), Ending.OPEN)
        sessions[1].close()
        warm(sessions[2], server)
        for session in sessions:
            session.cookies.clear()
        settings = {"timeout": TIMEOUT, **case.settings}
        return [session.request(case.method, server.url + "/asked", **settings) for session in sessions]

    yield ask
    for session in sessions:
        session.close()


def seen(look: Callable[[requests.Response], Any], response: requests.Response) -> Any:
    """What one sees, or what is raised."""
    try:
        return look(response)
    except Exception as error:
        return outcome_of_error(error)


def _of_request(request: requests.PreparedRequest | None) -> Any:
    if request is None:
        return None
    jar: Any = request._cookies  # type: ignore[attr-defined]
    return {
        "type": type(request),
        "method": request.method,
        "url": request.url,
        "path_url": request.path_url,
        "headers": (type(request.headers), list(request.headers.items())),
        "body": request.body,
        "hooks": request.hooks,
        "cookies": None if jar is None else sorted(jar.items()),
        "repr": repr(request),
    }


# Each is asked of a fresh answer, since some of them read it.
LOOKS: dict[str, Callable[[Any], Any]] = {
    "status_code": lambda each: (type(each.status_code), each.status_code),
    "reason": lambda each: each.reason,
    "ok": lambda each: each.ok,
    "bool": bool,
    "repr": repr,
    "str": str,
    "url": lambda each: (type(each.url), each.url),
    "headers": lambda each: (type(each.headers), list(each.headers.items()), repr(each.headers)),
    "header in any case": lambda each: (each.headers.get("CONTENT-type"), "x-OWN" in each.headers),
    "headers are a copy's": lambda each: list(each.headers.copy().lower_items()),
    "content": lambda each: (type(each.content), each.content),
    "content twice": lambda each: each.content is each.content,
    "encoding": lambda each: each.encoding,
    "apparent_encoding": lambda each: each.apparent_encoding,
    "text": lambda each: each.text,
    "json": lambda each: each.json(),
    "json, with an argument": lambda each: each.json(parse_int=float),
    "links": lambda each: each.links,
    "cookies": lambda each: (type(each.cookies), sorted(each.cookies.items()), each.cookies.get_dict()),
    "cookies, once more": lambda each: each.cookies is each.cookies,
    "history": lambda each: (type(each.history), [(old.status_code, old.content) for old in each.history]),
    "is_redirect": lambda each: (each.is_redirect, each.is_permanent_redirect),
    "next": lambda each: _of_request(each.next),
    "raise_for_status": lambda each: each.raise_for_status(),
    "iter_content": lambda each: list(each.iter_content(2)),
    "iter_content, all": lambda each: list(each.iter_content(None)),
    "iter_content, decoded": lambda each: list(each.iter_content(3, decode_unicode=True)),
    "iter_content, of a bad size": lambda each: list(each.iter_content("2")),
    "iter_content, of size 0": lambda each: [each.content, list(each.iter_content(0))][0],
    "iter_content, twice": lambda each: [list(each.iter_content(4)), list(each.iter_content(4))],
    "iter_lines": lambda each: list(each.iter_lines()),
    "iter_lines, decoded": lambda each: list(each.iter_lines(decode_unicode=True, delimiter="\r")),
    "iteration": list,
    "content after iteration": lambda each: (list(each), each.content),
    "elapsed": lambda each: type(each.elapsed),
    "request": lambda each: _of_request(each.request),
    "request, copied": lambda each: _of_request(each.request.copy()),
    "requests of the history": lambda each: [_of_request(old.request) for old in each.history],
    "connection": lambda each: (isinstance(each.connection, HTTPAdapter), callable(each.connection.send)),
    "context": lambda each: each.__enter__() is each,
    "public names": lambda each: [name for name in dir(requests.Response()) if not hasattr(each, name)],
    "values": lambda each: sorted(vars(touched(each)).keys() - {"call"}),
    "state": lambda each: sorted(each.__getstate__().keys() - {"call"}),
    "attributes kept": lambda each: [name for name in each.__attrs__ if name != "call"],
    "instance": lambda each: isinstance(each, requests.Response),
    "raw": lambda each: [each.content, _of_raw(each.raw)],
    "raw, before the content": lambda each: _of_raw(each.raw),
    "raw, read": lambda each: [each.content, each.raw.read(), each.raw.read(10), each.raw.read1()],
    "raw, data": lambda each: [each.content, each.raw.data],
    "raw, streamed": lambda each: [each.content, list(each.raw.stream(10))],
    "raw, read on": lambda each: [each.raw.read(3), each.raw.read(decode_content=True)],
    "raw, copied": lambda each: copied(each.raw),
    "raw, closed": lambda each: [each.content, each.raw.close(), each.raw.closed, each.raw.isclosed()],
    "raw, released": lambda each: [each.content, each.raw.release_conn(), each.raw.drain_conn()],
    "raw, cookies": lambda each: sorted(jar_of(each).items()),
    "closed": lambda each: [each.content, each.close(), each.close(), each.raw.closed, each.content],
    "closed before it is read": lambda each: [each.close(), each.raw.closed],
    "read after a with-block": lambda each: [left(each).content],
}  # fmt: skip


def touched(response: requests.Response) -> requests.Response:
    """Attributes may be made when they are first asked for."""
    for name in ("content", "raw", "cookies", "history", "elapsed", "next"):
        getattr(response, name)
    return response


def copied(raw: Any) -> bytes:
    target = io.BytesIO()
    shutil.copyfileobj(raw, target)
    return target.getvalue()


def jar_of(response: requests.Response) -> RequestsCookieJar:
    """Code that keeps cookies by itself does it like this."""
    jar = RequestsCookieJar()
    extract_cookies_to_jar(jar, response.request, response.raw)
    return jar


def left(response: requests.Response) -> requests.Response:
    with response:
        pass
    return response


def _of_raw(raw: Any) -> Any:
    return {
        "status": raw.status,
        "reason": raw.reason,
        "version": (raw.version, raw.version_string),
        "headers": (type(raw.headers), list(raw.headers.items()), list(raw.headers.iteritems())),
        "getheader": (raw.getheader("content-type"), raw.getheader("X-None", "none")),
        "info": list(raw.info().items()),
        "url": raw.geturl(),
        "location": raw.get_redirect_location(),
        "chunked": raw.chunked,
        "decode_content": raw.decode_content,
        "length_remaining": raw.length_remaining,
        "closed": (raw.closed, raw.isclosed()),
        "readable": raw.readable(),
        "tell": raw.tell(),
        "retries": type(raw.retries),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", CASES)
def test_same_as_stock(name: str, look: str, answers: Callable[[Case], list[requests.Response]]) -> None:
    """Whatever one looks at first, on a new connection or on one in use."""
    stock, new, warmed = answers(CASES[name])
    expected = seen(LOOKS[look], stock)

    assert seen(LOOKS[look], new) == expected
    assert seen(LOOKS[look], warmed) == expected


# -- what changes from answer to answer ----------------------------------------------------------------------


def test_elapsed(server: RawServer) -> None:
    """The time until the head had come, no more than the whole call took."""
    with fast_session() as session:
        warm(session, server)
        began = time.perf_counter()
        response = session.get(server.url + "/a", timeout=TIMEOUT)
        took = time.perf_counter() - began

    assert timedelta() < response.elapsed <= timedelta(seconds=took)


def test_elapsed_ends_with_the_head(server: RawServer) -> None:
    """How long the body took does not count."""
    elapsed: list[timedelta] = []
    server.scripts["/slow"] = Script((b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"b", b"o", b"dy"))
    for session in (stock_session(), fast_session()):
        with session:
            warm(session, server)
            began = time.perf_counter()
            response = session.get(server.url + "/slow", timeout=TIMEOUT)
            elapsed.append(response.elapsed)
            assert timedelta() < response.elapsed < timedelta(seconds=time.perf_counter() - began)


def test_attributes_can_be_set(answers: Callable[[Case], list[requests.Response]]) -> None:
    """As hooks, tests and other libraries do."""
    for response in answers(CASES["text"]):
        other = requests.Response()
        response.encoding = "utf-16"
        response.raw = io.BytesIO(b"other")
        response.history = [other]
        response.cookies = RequestsCookieJar()
        response.cookies.set("a", "1")
        response.headers = CaseInsensitiveDict({"X": "1"})
        response.elapsed = timedelta(seconds=1)
        response.url = "http://elsewhere/"
        response.reason = "Own"
        response.status_code = 418
        response._content = "Tee".encode("utf-16")

        assert (response.text, response.raw.read(), response.history) == ("Tee", b"other", [other])
        assert (dict(response.cookies), dict(response.headers)) == ({"a": "1"}, {"X": "1"})
        assert (response.elapsed.seconds, response.url, response.reason) == (1, "http://elsewhere/", "Own")
        with pytest.raises(requests.HTTPError, match="418 Client Error: Own for url: http://elsewhere/"):
            response.raise_for_status()


def test_two_answers_share_nothing(server: RawServer) -> None:
    """What one does to an answer or its request, no other one sees."""
    with fast_session() as session:
        warm(session, server)
        first = session.get(server.url + "/a", timeout=TIMEOUT)
        first.headers["X-Mine"] = "1"
        first.request.headers["X-Mine"] = "1"
        first.request.hooks["response"].append(print)
        first.cookies.set("mine", "1")
        first.history.append(first)
        second = session.get(server.url + "/a", timeout=TIMEOUT)

    assert "X-Mine" not in second.headers
    assert "X-Mine" not in second.request.headers
    assert second.request.hooks == {"response": []}
    assert not second.history
    assert not second.cookies


def test_request_can_be_sent_again(server: RawServer) -> None:
    """The request of an answer is a whole one."""
    with fast_session() as session:
        warm(session, server)
        server.take()
        response = session.post(server.url + "/a", json={"a": 1}, timeout=TIMEOUT)
        session.send(response.request, timeout=TIMEOUT)
        with stock_session() as other:
            other.send(response.request.copy(), timeout=TIMEOUT)

    assert len({each.raw for each in server.take()}) == 1


# -- pickling and copying ------------------------------------------------------------------------------------

_AFTERWARDS = [
    "status_code", "reason", "url", "headers", "content", "encoding", "text", "json", "links", "cookies",
    "history", "is_redirect", "raise_for_status", "iter_content", "iter_lines", "elapsed", "request",
    "request, copied", "repr", "bool", "state", "attributes kept", "instance",
]  # fmt: skip
_COPIES: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {number}": lambda each, number=number: pickle.loads(pickle.dumps(each, number))
        for number in (2, 5)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle of a copy": lambda each: pickle.loads(pickle.dumps(copy.copy(each))),
}


@pytest.mark.parametrize("how", _COPIES)
@pytest.mark.parametrize("name", [name for name in CASES if name != "with a hook"])
def test_copies(name: str, how: str, answers: Callable[[Case], list[requests.Response]]) -> None:
    """A pickled or copied answer has kept what a stock one keeps, whether it was looked at before or not."""
    stock, new, warmed = (_COPIES[how](each) for each in answers(CASES[name]))

    for look in _AFTERWARDS:
        expected = seen(LOOKS[look], stock)
        assert seen(LOOKS[look], new) == expected
        assert seen(LOOKS[look], warmed) == expected
    assert new.raw is warmed.raw is None
    assert hasattr(stock, "connection") == hasattr(new, "connection") == hasattr(warmed, "connection")


def test_copies_are_the_same_as_what_was_copied(server: RawServer) -> None:
    """Also the time it took, which no two answers share."""
    with fast_session() as session:
        warm(session, server)
        response = session.get(server.url + "/a", timeout=TIMEOUT)
    for how in _COPIES.values():
        again = how(response)
        assert (again.elapsed, again.content, again.url) == (response.elapsed, response.content, response.url)


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    registry = ServiceRegistry()
    yield registry
    registry.close()


@pytest.mark.parametrize("how", _COPIES)
@pytest.mark.parametrize("settings", [{}, {"stream": True}, {"hooks": {}}, {"params": {"a": "1"}}])
def test_record_of_the_call_is_kept(
    how: str, settings: dict[str, Any], server: RawServer, registry: ServiceRegistry
) -> None:
    """The record that a client attaches to its answer is still there behind a queue or a cache."""
    client = ResilientServiceClient(server.url, registry=registry)
    for _ in range(3):  # on a new connection, and on one in use
        response = client.get("/a", **settings)
        again = _COPIES[how](response)

        assert call_of(again) == call_of(response)
        assert call_of(again).attempts[0].status == 200
        assert again.text == response.text


@pytest.mark.parametrize("how", _COPIES)
def test_record_is_kept_with_a_session_of_the_users(
    how: str, server: RawServer, registry: ServiceRegistry
) -> None:
    """Also where the client was given the session that it sends with."""
    with stock_session() as session:
        client = ResilientServiceClient(server.url, registry=registry, session=session)
        response = client.post("/a", json={})

        assert call_of(_COPIES[how](response)) == call_of(response)
