"""What goes out is what stock requests would send, byte for byte."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from .outcomes import outcome_of
from .raw_server import RawServer
from .rows import SCRIPTS, TIMEOUT, Row
from .rows_of_bodies import BODIES, FILES
from .rows_of_heads import HEADERS, METHODS, PARAMS, PATHS
from .rows_of_sessions import AUTH, COOKIES, OTHERS, PREPARED, PROXIED, REDIRECTS
from .sessions import fast_session, has_ipv6, stock_session, warm

TABLE: dict[str, Row] = (
    METHODS
    | PATHS
    | PARAMS
    | HEADERS
    | BODIES
    | FILES
    | COOKIES
    | AUTH
    | REDIRECTS
    | PREPARED
    | OTHERS
    | PROXIED
)

_CHANGES = re.compile(rb'(cnonce|response)="[0-9a-f]+"')  # of a digest, from call to call


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer(patience=TIMEOUT) as server:
        server.scripts.update(SCRIPTS)
        yield server


@pytest.fixture(autouse=True)
def fixed_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boundary between the parts of a multipart body, which is chosen at random."""
    monkeypatch.setattr("urllib3.filepost.choose_boundary", lambda: "0123456789abcdef")


def sent(session: requests.Session, server: RawServer, row: Row) -> tuple[list[bytes], object]:
    """All that a session sends for a row of the table; and the status, or the exception that came of it."""
    server.take()
    outcome = outcome_of(lambda: row(session, server.url))
    seen = outcome.get("status", outcome)
    return [_CHANGES.sub(rb"\1", each.raw) for each in server.take()], seen


def compare(server: RawServer, row: Row, make: Callable[[], requests.Session] = fast_session) -> None:
    """A row as a stock session sends it, as ours does, and as ours does on a connection in use."""
    with stock_session() as stock, make() as new, make() as warmed:
        expected = sent(stock, server, row)
        assert sent(new, server, row) == expected
        connection = warm(warmed, server)
        assert sent(warmed, server, row) == expected
        assert warm(warmed, server, 1) >= connection


@pytest.mark.parametrize("name", TABLE)
def test_same_bytes(name: str, server: RawServer) -> None:
    """Every kind of request goes out as it always did, also on a connection in use."""
    compare(server, TABLE[name])


def test_plain_requests_stay_on_their_connection(server: RawServer) -> None:
    """One after the other, they all go over the connection that is open."""
    with fast_session() as session:
        connection = warm(session, server)
        server.take()
        for name in ("method GET", "method POST", "json {'a': 1}", "params {'a': '1'}", "data b'bytes'"):
            TABLE[name](session, server.url)

        assert {each.connection for each in server.take()} == {connection}


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6() -> None:
    """An address of IPv6 stands in brackets in the Host header."""
    with RawServer("::1") as server:
        compare(server, TABLE["method GET"])
        compare(server, TABLE["json {'a': 1}"])


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copied_sessions(how: Callable[[requests.Session], requests.Session], server: RawServer) -> None:
    """A session that was copied or pickled sends what the one it was made from sends."""
    with fast_session() as session:
        session.headers["X-Own"] = "1"
        session.auth = ("user", "password")
        warm(session, server)
        expected = sent(session, server, TABLE["json {'a': 1}"])
        with how(session) as copied:
            assert sent(copied, server, TABLE["json {'a': 1}"]) == expected
            warm(copied, server)
            assert sent(copied, server, TABLE["json {'a': 1}"]) == expected


# -- the environment, where a session is asked to heed it ----------------------------------------------------


def trusting() -> requests.Session:
    session = fast_session()
    session.trust_env = True
    return session


def trusting_row(address: str) -> Row:
    def row(session: requests.Session, url: str) -> requests.Response:
        session.trust_env = True
        return session.get(address or f"{url}/a", timeout=TIMEOUT)

    return row


def test_proxy_of_the_environment(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set after the session's first requests, and heeded all the same."""

    def row(session: requests.Session, url: str) -> requests.Response:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HTTP_PROXY", url.replace("://", "://user:password@"))
            return trusting_row("http://example.invalid/a")(session, url)

    compare(server, row)


def test_no_proxy_of_the_environment(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is excepted is called directly."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")

    compare(server, trusting_row(""), trusting)


def test_netrc(server: RawServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The password of the machine's file."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    compare(server, trusting_row(""))
    compare(server, trusting_row(""), trusting)
    compare(server, TABLE["method GET"])
