"""The fast way of one plain request over a connection that is open already: one send, one look at the answer.

Plain is what most answers are: HTTP/1.1, a head of unambiguous lines, a body of a stated length, no coding.
Everything else is left to urllib3 and http.client, which get the very bytes that were received so far, and
the error that came after them if one did. So whatever is odd ends as it always did: same answer, same
exception.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from typing import Any, TypeAlias

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.util import SKIP_HEADER

from service_utils.http.answer import Answer, Incoming, is_token, read_answer
from service_utils.http.connection import BoundedConnection

__all__ = ["Timeouts", "exchange", "header_pairs", "headers_of", "wire_form"]

Timeouts: TypeAlias = "tuple[float | None, float | None]"

# What http.client, urllib3 and requests put on the wire without changing a letter of it; requests before 2.34
# drops one of two slashes.
_TARGET = re.compile(r"/(?!/)(?:[A-Za-z0-9/_.~!$&'()*+,;=:@?-]|%[0-9A-F]{2})*")
_METHOD = re.compile(r"[A-Z]+")
# What they write themselves where it is missing, or treat in a way of their own.
_NEEDED = frozenset({"user-agent", "accept-encoding"})
_UNUSUAL = frozenset({"", "host", "transfer-encoding", "expect", "upgrade"})


def _store_is_known() -> bool:
    """Whether CaseInsensitiveDict keeps what we know it to keep."""
    known = {"a-b": ("A-b", "1")}
    probe: Any = CaseInsensitiveDict({"A-b": "1"})
    return vars(probe) == {"_store": known} and isinstance(vars(probe)["_store"], dict)


_KNOWN_STORE = _store_is_known()


def header_pairs(headers: Any) -> dict[str, tuple[Any, Any]]:
    """Name and value of each header, by its lower-case name."""
    if _KNOWN_STORE and type(headers) is CaseInsensitiveDict:
        known: Any = headers
        pairs: dict[str, tuple[Any, Any]] = known._store
        return pairs
    return {str(name).lower(): (name, value) for name, value in headers.items()}


def headers_of(fields: dict[str, tuple[str, str]]) -> CaseInsensitiveDict[str]:
    """The headers as ``requests`` keeps them."""
    if not _KNOWN_STORE:
        return CaseInsensitiveDict(fields.values())
    headers: CaseInsensitiveDict[str] = CaseInsensitiveDict.__new__(CaseInsensitiveDict)
    headers._store = fields  # type: ignore[attr-defined]
    return headers


def wire_form(request: requests.PreparedRequest, host_line: str) -> bytes | None:
    """The bytes of a plain request as urllib3 would send them, or None for one that is not plain.

    Args:
        request: The request.
        host_line: The Host header of its connection, with its line end.
    """
    pairs = header_pairs(request.headers)
    method, body = request.method, request.body
    if body is None:
        data = b""
    elif type(body) is bytes:
        data = body
    elif type(body) is str:
        data = body.encode()
    else:
        return None
    length = pairs.get("content-length")
    if length is None:
        if body is not None or method not in ("GET", "HEAD"):
            return None
    elif length[1] != str(len(data)):
        return None
    target = _target_of(request)
    if not method or not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        return None
    if not pairs.keys() >= _NEEDED or not _UNUSUAL.isdisjoint(pairs):
        return None
    fields = _field_lines(pairs.values())
    if fields is None:
        return None
    return f"{method} {target} HTTP/1.1\r\n{host_line}{fields}\r\n".encode("latin-1") + data


def _target_of(request: requests.PreparedRequest) -> str:
    """Path and query; ``path_url`` takes the URL apart for them."""
    url = str(request.url)
    start = url.find("/", len("https://"))
    return request.path_url if start < 0 or "#" in url or url.endswith("?") else url[start:]


def _field_lines(pairs: Collection[tuple[Any, Any]]) -> str | None:
    """The lines of the headers; None where one is not of plain letters."""
    try:
        names, values = "".join([name for name, _ in pairs]), "".join([value for _, value in pairs])
    except TypeError:  # bytes, which urllib3 takes as well
        return None
    if not is_token(names) or not values.isprintable() or not values.isascii() or SKIP_HEADER in values:
        return None
    return "".join([f"{name}: {value}\r\n" for name, value in pairs])


def exchange(conn: BoundedConnection, data: bytes, timeouts: Timeouts, *, head_only: bool) -> Answer | None:
    """Send a request on an open connection and read its answer.

    Args:
        conn: The connection; it carries the sending.
        data: The request.
        timeouts: Seconds that one sending and one receiving may take; None for any time.
        head_only: Whether it is a HEAD request.

    Returns:
        The answer, or None: then the connection has been handed what is needed to go on in the ordinary way.
    """
    conn.timeout, read_timeout = timeouts
    sys.audit("http.client.send", conn, data)
    try:
        conn.send_bounded(data)
    except (BrokenPipeError, ConnectionResetError):
        conn.hand_over(b"")  # there may be an answer all the same, as urllib3 knows
        return None
    except OSError as error:
        conn.hand_over(b"", error, while_sending=True)
        return None
    conn.timeout = read_timeout
    incoming = Incoming(conn.receive, conn.time_for)
    try:
        answer = read_answer(incoming, head_only=head_only, longest=conn.longest_body())
    except OSError as error:
        conn.hand_over(incoming.received(), error)
        return None
    if answer is None:
        conn.hand_over(incoming.received(), ended=incoming.ended)
    return answer
