"""The fast way of one plain request over a connection that is open already: one send, one look at the answer.

Plain is what most answers are: HTTP/1.1, a head of unambiguous lines, a body of a stated length, no coding.
Everything else is left to urllib3 and http.client, which get the very bytes that were received so far, and
the error that came after them if one did. So whatever is odd ends as it always did: same answer, same
exception.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.util import SKIP_HEADER

from service_utils.clock import SYSTEM
from service_utils.http.connection import BoundedConnection

__all__ = ["Answer", "Timeouts", "exchange", "header_pairs", "headers_of", "wire_form"]

Timeouts: TypeAlias = "tuple[float | None, float | None]"

# What http.client, urllib3 and requests put on the wire without changing a letter of it.
_TARGET = re.compile(r"/(?:[A-Za-z0-9/_.~!$&'()*+,;=:@?-]|%[0-9A-F]{2})*")
_METHOD = re.compile(r"[A-Z]+")
_FIELDS = re.compile(
    r"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: (?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?\r\n)*"
)
# What they write themselves where it is missing, or treat in a way of their own.
_NEEDED = ("user-agent", "accept-encoding")
_UNUSUAL = ("host", "transfer-encoding", "expect", "upgrade")

# A head that every reader understands in the same way.
_HEAD = re.compile(
    r"HTTP/1\.1 ([2-5][0-9]{2})(?: ([\x20-\x7e]*))?"
    r"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*)*"
)
_LEFT_TO_URLLIB3 = ("transfer-encoding", "content-encoding", "set-cookie", "upgrade")
_WITHOUT_BODY = (204, 304)
_LENGTH = re.compile(r"[0-9]{1,18}")
_MAX_FIELDS = 100  # http.client refuses more
_PIECE = 65_536


@dataclass(slots=True)
class Answer:
    """A plain answer.

    Attributes:
        status: The status code.
        reason: The words after it.
        fields: Name and value of each header, by its lower-case name.
        body: All of it.
        head_at: When the head had arrived, in seconds of the machine's monotonic clock.
        reusable: Whether the connection may be used again.
    """

    status: int
    reason: str
    fields: dict[str, tuple[str, str]]
    body: bytes
    head_at: float
    reusable: bool


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
    method, target, body = request.method, request.path_url, request.body
    if body is None:
        data = b""
    elif type(body) is bytes:
        data = body
    elif type(body) is str:
        data = body.encode()
    else:
        return None
    length = pairs.get("content-length")
    if (length[1] if length else "0") != str(len(data)) or (length is None and method not in ("GET", "HEAD")):
        return None
    if not method or not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target):
        return None
    if any(name not in pairs for name in _NEEDED) or any(name in pairs for name in _UNUSUAL):
        return None
    try:
        fields = "".join([name + ": " + value + "\r\n" for name, value in pairs.values()])
    except TypeError:  # bytes, which urllib3 takes as well
        return None
    if not _FIELDS.fullmatch(fields) or SKIP_HEADER in fields:
        return None
    return f"{method} {target} HTTP/1.1\r\n{host_line}{fields}\r\n".encode("latin-1") + data


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
    try:
        conn.send_bounded(data)
    except (BrokenPipeError, ConnectionResetError):
        conn.hand_over(b"")  # there may be an answer all the same, as urllib3 knows
        return None
    except OSError as error:
        conn.hand_over(b"", error, while_sending=True)
        return None
    conn.timeout = read_timeout
    pieces: list[bytes] = []
    try:
        return _receive(conn, pieces, head_only=head_only)
    except OSError as error:
        conn.hand_over(b"".join(pieces), error)
        return None


def _receive(conn: BoundedConnection, pieces: list[bytes], *, head_only: bool) -> Answer | None:
    """Read an answer. All that has come is in ``pieces``, whatever happens."""
    first = conn.receive(_PIECE)
    pieces.append(first)
    head_at = SYSTEM.monotonic()
    end = first.find(b"\r\n\r\n")
    head = None if end < 0 else _read_head(first[:end].decode("latin-1"), head_only=head_only)
    if head is None or head.length > conn.longest_body():
        conn.hand_over(first, ended=not first)
        return None
    body, reusable = first[end + 4 :], head.reusable
    missing = head.length - len(body)
    if missing > 0:
        while missing > 0:
            piece = conn.receive(min(missing, _PIECE))
            if not piece:
                conn.hand_over(b"".join(pieces), ended=True)
                return None
            pieces.append(piece)
            missing -= len(piece)
        body = b"".join((body, *pieces[1:]))
    elif missing < 0:
        body, reusable = body[: head.length], False  # whose the rest is, nobody knows
    return Answer(head.status, head.reason, head.fields, body, head_at, reusable)


@dataclass(slots=True)
class _Head:
    status: int
    reason: str
    fields: dict[str, tuple[str, str]]
    length: int
    reusable: bool


def _read_head(text: str, *, head_only: bool) -> _Head | None:
    """Take a plain head apart; None for one that is not plain."""
    plain = _HEAD.fullmatch(text)
    if plain is None:
        return None
    lines = text.split("\r\n")
    fields: dict[str, tuple[str, str]] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields[name.lower()] = (name, value.lstrip(" \t"))
    if not 0 < len(fields) == len(lines) - 1 < _MAX_FIELDS:
        return None  # a name that comes twice, for one
    for name in _LEFT_TO_URLLIB3:
        if name in fields:
            return None
    status = int(plain[1])
    if 300 <= status < 400 and "location" in fields:
        return None
    length = 0 if head_only or status in _WITHOUT_BODY else _stated_length(fields)
    if length is None:
        return None
    connection = fields.get("connection")
    reusable = connection is None or "close" not in connection[1].lower()
    return _Head(status, (plain[2] or "").strip(), fields, length, reusable)


def _stated_length(fields: dict[str, tuple[str, str]]) -> int | None:
    field = fields.get("content-length")
    if field is None or not _LENGTH.fullmatch(field[1]):
        return None
    return int(field[1])
