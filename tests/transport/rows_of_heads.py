"""Methods, addresses and headers of every kind."""

from __future__ import annotations

from typing import Any

import requests
from urllib3.util import SKIP_HEADER

from .rows import TIMEOUT, changed, plain

METHODS = {
    **{
        f"method {name}": plain(name) for name in ("GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH")
    },
    "method in lower case": plain("get"),
    "method of our own": plain("PROPFIND"),
    "method with a dash": plain("M-SEARCH"),
    "method with a blank": plain("BAD METHOD"),
    "method with a line end": plain("GET / HTTP/1.1\r\nX: 1"),
    "method TRACE": plain("TRACE"),
    "method with an umlaut": plain("GÄT"),
    "session.get": lambda session, url: session.get(url + "/a", timeout=TIMEOUT),
    "session.head": lambda session, url: session.head(url + "/302", timeout=TIMEOUT),
    "session.post": lambda session, url: session.post(url + "/a", b"data", {"json": 1}, timeout=TIMEOUT),
    "session.delete": lambda session, url: session.delete(url + "/a", json=[1], timeout=TIMEOUT),
}

_PATHS = (
    "", "/", "//", "/a//b", "/./a/../b", "/a;b,c:d@e!$&'()*+=", "/~user", "/%7Euser", "/a%2fb", "/a%2Fb",
    "/a b", "/a%20b", "/a+b", "/ü", "/%C3%BC", "/%c3%bc", "/%FF", "/日本", "/a%zz", "/a%", "/100%25", "/a|b",
    "/[a]", '/"q"', "/a\\b", "/a^b", "/{a}", "/`a`", "/<a>", "/a#part", "#part", "/a?", "/a?b", "/a?b=c&&d=",
    "/a?b=ü", "/a?b=a b", "/a?b=%C3%BC", "/a?b=[1]&c={2}", "/a?b=c#d", "/a?b='c'", "/a?b=/c?d", "/a\tb",
    "/a\nb", "/a\x7fb", "/a\x00b",
)  # fmt: skip
PATHS = {f"path {path!r}": plain("GET", path) for path in _PATHS}

_PARAMS: tuple[Any, ...] = (
    {}, {"a": "1"}, {"a": 1, "b": 2.5}, {"a": None, "b": "x"}, {"a": None}, {"a": ["1", "2"]}, {"a": []},
    {"a": ()}, {"a": True}, {"ü": "ö"}, {"a": "b c+d&e=f/g?h"}, {"a": b"\xff\xfe"}, {b"a": b"b"}, {"": ""},
    {"a": ""}, [("a", "1"), ("b", "2"), ("a", "3")], (("a", "1"),), "a=1&b=2", "a b", "ü", b"a=1", "", b"",
    {"a": "%41"}, {"a": "~"}, {"a": {"b": 1}}, {"a": "☃"}, {"a b": "c"}, {1: 2},
)  # fmt: skip
PARAMS = {
    **{f"params {params!r}": plain("GET", params=params) for params in _PARAMS},
    "params and a query": plain("GET", "/a?b=1", params={"c": "2"}),
    "params and a part": plain("GET", "/a#part", params={"c": "2"}),
    "params of the session": changed({"params": {"s": "1"}}, plain("GET", params={"a": "2"})),
    "params that take one of the session away": changed(
        {"params": {"s": "1", "t": "2"}}, plain("GET", params={"s": None})
    ),
    "params of a post": plain("POST", params={"a": "1"}, data={"b": "2"}),
}

_HEADERS: tuple[Any, ...] = (
    {}, {"x-lower": "1", "X-UPPER": "2", "X-miXed": "3"}, {"X-Bytes": b"value"}, {b"X-Name": "value"},
    {b"X-Both": b"value"}, {"X-Empty": ""}, {"X-Blank-Behind": "a "}, {"X-Blank": " a"}, {"X-Tab": "a\tb"},
    {"X-Latin": "caf\xe9"}, {"X-Snow": "☃"}, {"X-UTF8": "é".encode()}, {"X-Line": "a\r\nX: b"},
    {"X-Line": "a\nb"}, {"X-Fold": "a\r\n b"}, {"X-CR": "a\rb"}, {"X-NUL": "a\x00b"}, {"X Y": "1"}, {"": "1"},
    {"X:": "1"}, {"X\n": "1"}, {"Ü": "1"}, {"X-Number": 1}, {"X-None": None}, {"X-List": ["a"]},
    {"X-A": "1", "x-a": "2"}, {"User-Agent": None}, {"user-agent": "mine"}, {"Accept-Encoding": None},
    {"Accept-Encoding": "identity"}, {"Accept": None}, {"Connection": None}, {"Connection": "close"},
    {"connection": "Keep-Alive"}, {"Host": "other.example"}, {"host": "other.example:80"}, {"Host": None},
    {"Host": ""}, {"Cookie": "by=hand"}, {"Authorization": "Bearer x"}, {"Authorization": None},
    {"Content-Type": "text/plain"}, {"Transfer-Encoding": "chunked"},
    {"Upgrade": "websocket", "Connection": "Upgrade"}, {"Range": "bytes=0-1"}, {"X-Long": "v" * 20_000},
    {f"X-{number}": str(number) for number in range(150)}, {"User-Agent": SKIP_HEADER},
    {"Accept-Encoding": SKIP_HEADER}, {"Host": SKIP_HEADER}, {"X-Other": SKIP_HEADER}, {"TE": "trailers"},
    {"Proxy-Authorization": "Basic x"}, {"Content-Length": "00"}, {"X-~!#$%&'*+-.^_`|": "1"},
)  # fmt: skip
HEADERS = {
    **{f"headers {repr(headers)[:60]}": plain("GET", headers=headers) for headers in _HEADERS},
    "headers of a post": plain("POST", json={}, headers={"x-a": "1", "Accept": "application/json"}),
    "host and a body": plain("POST", data=b"x", headers={"Host": "other.example"}),
    "chunked by hand": plain("POST", data=b"body", headers={"Transfer-Encoding": "chunked"}),
    "length by hand": plain("POST", data=b"body", headers={"Content-Length": "4"}),
    "headers of the session": changed(
        {"headers": {"X-S": "1", "User-Agent": "s"}}, plain("GET", headers={"X-C": "2"})
    ),
    "session's headers, one taken away": changed(
        {"headers": {"X-S": "1"}}, plain("GET", headers={"x-s": None})
    ),
    "session's headers of a kind of their own": changed({"headers": {"X-S": b"1"}}, plain("GET")),
    "session without headers": lambda session, url: changed({"headers": {}}, plain("GET"))(
        _stripped(session), url
    ),
    "session with a dict for headers": lambda session, url: plain("GET")(_dict_headers(session), url),
}


def _stripped(session: requests.Session) -> requests.Session:
    session.headers.clear()
    return session


def _dict_headers(session: requests.Session) -> requests.Session:
    session.headers = {"x-own": "1", "User-Agent": "dict"}  # type: ignore[assignment]
    return session
