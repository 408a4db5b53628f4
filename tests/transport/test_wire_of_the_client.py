"""What a client sends is what stock requests would send for the same headers, byte for byte."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from service_utils import ResilientServiceClient, ServiceRegistry, StaticToken

from .raw_server import RawServer
from .rows import SCRIPTS, TIMEOUT
from .rows_of_bodies import from_generator, positioned
from .sessions import stock_session, warm, whence

Call = Callable[[Any, str], requests.Response]
"""Made with a client and a path, or with a session and an address."""

_OWN = {"headers": {"X-Request-ID": "r-1", "Idempotency-Key": "k-1"}}


def _call(method: str, path: str = "/a", **settings: Any) -> Call:
    def call(sender: Any, base: str) -> requests.Response:
        made = {
            name: value() if name == "data" and callable(value) else value for name, value in settings.items()
        }
        headers = _OWN["headers"] | made.pop("headers", {})
        response: requests.Response = sender.request(method, base + path, headers=headers, **made)
        return response

    return call


CALLS = {
    **{method: _call(method) for method in ("GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH")},
    "lower case": _call("get"),
    "letters to encode": _call("GET", "/ü a%2fb%7e;c?d=é f&g=%zz"),
    "a part": _call("GET", "/a?b#c"),
    "params": _call("GET", params={"a": "1", "b": ["2", "ü"], "c": None}),
    "params and query": _call("GET", "/a?b=1", params=[("c", "d e")]),
    "params as text": _call("GET", params="a=b c"),
    "json": _call("POST", json={"a": 1, "ü": "ö"}),
    "json of nothing": _call("POST", json={}),
    "json that is falsy": _call("PUT", json=0),
    "json with a type": _call("POST", json=[], headers={"content-type": "application/x+json"}),
    "json and data": _call("POST", json={"a": 1}, data="b"),
    "bytes": _call("POST", data=b"bytes"),
    "empty bytes": _call("POST", data=b""),
    "many bytes": _call("PUT", data=b"x" * 300_000),
    "text": _call("POST", data="tëxt ☃"),
    "form": _call("POST", data={"a": "1", "b": ["2", "3"]}),
    "generator": _call("POST", data=from_generator),
    "file": _call("PUT", data=lambda: io.BytesIO(b"of a file")),
    "file read before": _call("PUT", data=positioned),
    "files": _call("POST", files={"f": ("name.txt", b"bytes", "text/plain")}, data={"a": "1"}),
    "body of a get": _call("GET", data=b"body"),
    "body of a delete": _call("DELETE", json={"a": 1}),
    "odd case": _call("GET", headers={"x-LOWER": "1", "USER-AGENT": "mine", "accept": "*/*; q=1"}),
    "empty value": _call("GET", headers={"X-Empty": ""}),
    "latin value": _call("GET", headers={"X-Latin": "caf\xe9"}),
    "header taken away": _call("GET", headers={"User-Agent": None, "Accept": None}),
    "other host": _call("GET", headers={"Host": "other.example"}),
    "closing": _call("GET", headers={"Connection": "close"}),
    "no coding": _call("GET", headers={"Accept-Encoding": "identity"}),
    "cookies": _call("GET", cookies={"a": "1", "b": "2"}),
    "credentials": _call("GET", auth=("user", "pässword")),
    "hook": _call("GET", hooks={"response": lambda response, **_settings: None}),
    "stream": _call("GET", stream=True),
    "redirect": _call("POST", "/303", json={"a": 1}),
    "redirect that keeps the body": _call("POST", "/307", json={"a": 1}),
    "redirect not followed": _call("GET", "/302", allow_redirects=False),
}


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer(patience=TIMEOUT) as server:
        server.scripts.update(SCRIPTS)
        yield server


@pytest.fixture(autouse=True)
def fixed_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boundary between the parts of a multipart body, which is chosen at random."""
    monkeypatch.setattr("urllib3.filepost.choose_boundary", lambda: "0123456789abcdef")


@pytest.fixture
def make_client(server: RawServer) -> Iterator[Callable[..., ResilientServiceClient]]:
    """Clients with a token and headers of their own."""
    registry = ServiceRegistry()

    def make(**options: Any) -> ResilientServiceClient:
        return ResilientServiceClient(
            server.url,
            registry=registry,
            timeout=TIMEOUT,
            headers={"X-Of-The-Client": "1", "accept": "application/json"},
            token_provider=StaticToken("secret"),
            **options,
        )

    yield make
    registry.close()


def sent(server: RawServer, sender: Any, call: Call, base: str = "") -> list[bytes]:
    server.take()
    call(sender, base).close()
    return [each.raw for each in server.take()]


def warmed(client: ResilientServiceClient) -> ResilientServiceClient:
    number = 0
    while number < 2:
        _, number = whence(client.get("/warm"))
    return client


@pytest.mark.parametrize("name", CALLS)
def test_same_bytes_as_over_a_stock_session(
    name: str, server: RawServer, make_client: Callable[..., ResilientServiceClient]
) -> None:
    """A client of its own, new or warmed, sends what one sends that was given a session of requests."""
    call = CALLS[name]
    with stock_session() as session:
        expected = sent(server, make_client(session=session), call)

    assert sent(server, make_client(), call) == expected
    assert sent(server, warmed(make_client()), call) == expected


@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith("redirect that")])
def test_same_bytes_as_a_stock_session_with_these_headers(
    name: str, server: RawServer, make_client: Callable[..., ResilientServiceClient]
) -> None:
    """The client adds headers and nothing else: a stock session that is given them sends the same."""
    call = CALLS[name]
    ours = sent(server, warmed(make_client()), call)[0]
    with stock_session() as session:
        warm(session, server)
        session.headers.update(_added(ours))
        theirs = sent(server, session, call, server.url)[0]

    assert _parts(ours) == _parts(theirs)


def _added(raw: bytes) -> dict[str, str | bytes]:
    names = (b"X-Of-The-Client", b"accept", b"X-INTERNAL-TOKEN", b"X-Request-Timeout-Ms")
    lines = (line.partition(b": ") for line in raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    return {name.decode(): value for name, _, value in lines if name in names}


def _parts(raw: bytes) -> tuple[bytes, list[bytes], bytes]:
    """The first line, the headers in the order of the alphabet, and the body."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    return first, sorted(headers), body


def test_many_calls_on_one_connection(
    server: RawServer, make_client: Callable[..., ResilientServiceClient]
) -> None:
    """Calls of the plain kinds all go over the connection that is open, each with its own arguments."""
    client = warmed(make_client())
    server.take()
    for number in range(3):
        client.get("/items/{id}", path_params={"id": f"a/{number} ü"}, params={"page": number})
        client.post("/items", json={"number": number}, headers={"X-Number": str(number)})
    seen = server.take()

    assert len({each.connection for each in seen}) == 1
    assert [each.target for each in seen] == [
        target for number in range(3) for target in (f"/items/a%2F{number}%20%C3%BC?page={number}", "/items")
    ]
    assert [each.raw.rpartition(b"\r\n\r\n")[2] for each in seen] == [
        body for number in range(3) for body in (b"", b'{"number": %d}' % number)
    ]
    assert [b"X-Number: %d" % number in seen[2 * number + 1].raw for number in range(3)] == [True] * 3


def test_nothing_is_left_of_an_earlier_call(
    server: RawServer, make_client: Callable[..., ResilientServiceClient]
) -> None:
    """No call carries what an earlier one was given."""
    client = warmed(make_client())
    plain = sent(server, client, CALLS["POST"])
    sent(server, client, _call("POST", json={"secret": 1}, headers={"Authorization": "x"}, params={"q": "1"}))
    sent(server, client, _call("POST", cookies={"mine": "1"}, auth=("user", "password")))

    assert sent(server, client, CALLS["POST"]) == plain
