"""Requests of every kind, each a function of a session and a server's address: what they are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests

from .pieces import Ending, Script

Row = Callable[[requests.Session, str], requests.Response]

TIMEOUT = 10


def _redirect(status: int, location: str, *lines: str) -> Script:
    head = [f"HTTP/1.1 {status} Elsewhere", f"Location: {location}", "Content-Length: 2", *lines]
    return Script(("\r\n".join([*head, "", "go"]).encode(),))


# What the server answers at these paths; at all others, the ordinary answer.
SCRIPTS = {
    **{f"/{status}": _redirect(status, "/landed?by=redirect") for status in (301, 302, 303, 307, 308)},
    "/302?a=1": _redirect(302, "?a=2"),
    "/relative/page": _redirect(302, "other#part"),
    "/twice": _redirect(302, "/302"),
    "/round": _redirect(302, "/round"),
    "/with-cookie": _redirect(302, "/landed", "Set-Cookie: seen=1; Path=/"),
    "/unicode": _redirect(302, "/ü ä%20%7e"),
    "/set-cookie": Script((b"HTTP/1.1 200 OK\r\nSet-Cookie: kept=1; Path=/\r\nContent-Length: 0\r\n\r\n",)),
    # A proxy that opens no tunnel.
    "example.invalid:443": Script((b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",), Ending.CLOSE),
    "/digest": Script(
        (
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n",
            b'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n\r\n',
        )
    ),
}


def plain(method: str, path: str = "/a", **settings: Any) -> Row:
    return lambda session, url: session.request(method, url + path, timeout=TIMEOUT, **settings)


def made(method: str, path: str = "/a", **makers: Callable[[], Any]) -> Row:
    """Arguments that can be used once are made for each request."""
    return lambda session, url: session.request(
        method, url + path, timeout=TIMEOUT, **{name: make() for name, make in makers.items()}
    )


def changed(settings: dict[str, Any], row: Row) -> Row:
    """A row for a session that was changed before."""

    def row_of_changed(session: requests.Session, url: str) -> requests.Response:
        for name, value in settings.items():
            old = getattr(session, name)
            if isinstance(value, dict) and hasattr(old, "update"):
                old.update(value)
            else:
                setattr(session, name, value)
        return row(session, url)

    return row_of_changed
