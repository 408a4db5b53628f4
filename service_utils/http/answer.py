"""Plain answers: heads that every reader understands in the same way, and bodies whose end is certain."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import DecodeError

from service_utils.clock import SYSTEM

__all__ = ["Answer", "Fields", "Incoming", "is_token", "raw_response", "read_answer"]

Fields = dict[str, tuple[str, str]]

_STATUS_LINE = re.compile(r"HTTP/1\.1 ([2-5][0-9]{2})(?: ([\x20-\x7e]*))?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}")
_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_UNUSUAL = frozenset({"", "set-cookie", "upgrade", "trailer"})
_WITHOUT_BODY = frozenset({204, 304})
_MAX_FIELDS = 100  # http.client refuses more
_MAX_CHUNK_LINE = 64
_CHUNKED = -1
_PIECE = 65_536


@dataclass(slots=True)
class Answer:
    """A plain answer.

    Attributes:
        status: The status code.
        reason: The words after it.
        fields: Name and value of each header, by its lower-case name.
        body: All of it, decoded.
        head_at: When the head had arrived, in seconds of the machine's monotonic clock.
        reusable: Whether the connection may be used again.
        raw: What decoded the body, or None.
    """

    status: int
    reason: str
    fields: Fields
    body: bytes
    head_at: float
    reusable: bool
    raw: HTTPResponse | None = None


class Incoming:
    """The bytes of one answer as they come in; all of them are kept.

    Args:
        receive: Brings up to so many bytes more, none at the end.
        in_time: Raises an ``OSError`` when the time for all of it is over.

    Attributes:
        ended: Whether the end has come.
    """

    __slots__ = ("_pieces", "_receive", "ended", "in_time")

    def __init__(self, receive: Callable[[int], bytes], in_time: Callable[[], object]) -> None:
        self._receive = receive
        self.in_time = in_time
        self._pieces: list[bytes] = []
        self.ended = False

    def more(self, size: int = _PIECE) -> bytes:
        """The next piece."""
        piece = self._receive(size)
        self._pieces.append(piece)
        self.ended = not piece
        return piece

    def received(self) -> bytes:
        """All that has come so far."""
        return b"".join(self._pieces)


@dataclass(slots=True)
class _Head:
    status: int
    reason: str
    fields: Fields
    length: int  # or _CHUNKED
    coding: str | None
    reusable: bool


def read_answer(incoming: Incoming, *, head_only: bool, longest: float) -> Answer | None:
    """Read an answer.

    Args:
        incoming: Where it comes from.
        head_only: Whether it answers a HEAD request.
        longest: Bytes of the longest body to be read here.

    Returns:
        The answer; None where it is not plain.

    Raises:
        OSError: Of receiving.
    """
    first = incoming.more()
    head_at = SYSTEM.monotonic()
    end = first.find(b"\r\n\r\n")
    head = None if end < 0 else _read_head(first[:end].decode("latin-1"), head_only=head_only)
    if head is None:
        return None
    start = first[end + 4 :]
    if head.length == _CHUNKED:
        body, clean = _read_chunked(incoming, start, longest)
    else:
        body, clean = _read_length(incoming, start, head.length, longest)
    raw: HTTPResponse | None = None
    if body is not None and head.coding is not None:
        raw = raw_response(head.status, head.reason, head.fields.values(), body)
        body = _decoded(raw, longest, incoming)
    if body is None:
        return None
    return Answer(head.status, head.reason, head.fields, body, head_at, head.reusable and clean, raw)


def raw_response(
    status: int, reason: str | None, headers: Iterable[tuple[str, str]], body: bytes
) -> HTTPResponse:
    """What urllib3 would have made of an answer, its body still to be read."""
    source = io.BytesIO(body)
    raw = HTTPResponse(
        source, HTTPHeaderDict(headers), status, version=11, reason=reason, preload_content=False
    )
    raw.version_string = "HTTP/1.1"
    return raw


def _read_head(text: str, *, head_only: bool) -> _Head | None:
    """Take a plain head apart; None for one that is not plain."""
    lines = text.split("\r\n")
    plain = _STATUS_LINE.fullmatch(lines[0])
    if plain is None:
        return None
    fields: Fields = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not (colon and value.isprintable()):
            return None
        fields[name.lower()] = (name, value.lstrip(" "))
    if not 0 < len(fields) == len(lines) - 1 < _MAX_FIELDS or not is_token("".join(fields)):
        return None  # a name that comes twice, for one
    status = int(plain[1])
    if not _UNUSUAL.isdisjoint(fields) or (300 <= status < 400 and "location" in fields):
        return None
    length, coding = _body_length(fields), _value(fields, "content-encoding")
    if head_only or status in _WITHOUT_BODY:
        length = None if _claims_body(fields, length) else 0
    if length is None or (coding is not None and coding not in _CODINGS):
        return None
    reusable = "close" not in (_value(fields, "connection") or "")
    return _Head(status, (plain[2] or "").strip(), fields, length, coding if length else None, reusable)


def _claims_body(fields: Fields, length: int | None) -> bool:
    """Whether the head of an answer that has no body says more of one than its length."""
    if "transfer-encoding" in fields or "content-encoding" in fields:
        return True
    return length is None and "content-length" in fields


def is_token(name: str) -> bool:
    """Whether it may be the name of a header, of the kind that names are: letters, digits, - and _."""
    return name.replace("-", "").replace("_", "").isalnum() and name.isascii()


def _value(fields: Fields, name: str) -> str | None:
    field = fields.get(name)
    return None if field is None else field[1].lower()


def _body_length(fields: Fields) -> int | None:
    """Bytes of the body as stated, or that it is chunked; None where that is not certain."""
    length, transfer = _value(fields, "content-length"), _value(fields, "transfer-encoding")
    if transfer is not None:
        return _CHUNKED if transfer == "chunked" and length is None else None
    return int(length) if length is not None and _LENGTH.fullmatch(length) else None


def _read_length(incoming: Incoming, start: bytes, length: int, longest: float) -> tuple[bytes | None, bool]:
    """A body of a stated length, and whether nothing came after it; None where it is cut off or too long."""
    missing = length - len(start)
    if missing <= 0:
        return start[:length] if missing else start, missing == 0
    if length > longest:
        return None, False
    pieces = [start]
    while missing > 0:
        piece = incoming.more(min(missing, _PIECE))
        if not piece:
            return None, False
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces), True


def _read_chunked(incoming: Incoming, start: bytes, longest: float) -> tuple[bytes | None, bool]:
    """The same of a chunked body, without extensions and trailers."""
    buffer, body = bytearray(start), bytearray()
    while True:
        size_end = buffer.find(b"\r\n")
        while size_end < 0:
            if (
                len(buffer) > _MAX_CHUNK_LINE
                or b"\n" in buffer
                or not _fill(incoming, buffer, len(buffer) + 1)
            ):
                return None, False
            size_end = buffer.find(b"\r\n")
        size_text = _CHUNK_SIZE.fullmatch(buffer, 0, size_end)
        if size_text is None:
            return None, False
        size, data_at = int(size_text[0], 16), size_end + 2
        end = data_at + size
        if (
            len(body) + size > longest
            or not _fill(incoming, buffer, end + 2)
            or buffer[end : end + 2] != b"\r\n"
        ):
            return None, False
        if size == 0:
            return bytes(body), len(buffer) == end + 2
        body += buffer[data_at:end]
        del buffer[: end + 2]


def _fill(incoming: Incoming, buffer: bytearray, length: int) -> bool:
    """Have at least so many bytes in the buffer; False when they do not come."""
    while len(buffer) < length:
        piece = incoming.more()
        if not piece:
            return False
        buffer += piece
    return True


def _decoded(raw: HTTPResponse, longest: float, incoming: Incoming) -> bytes | None:
    """The body as urllib3 decodes it; None where it cannot, or where it becomes too long."""
    pieces: list[bytes] = []
    length = 0
    try:
        for piece in raw.stream(_PIECE, decode_content=True):
            pieces.append(piece)
            length += len(piece)
            if length > longest:
                return None
            incoming.in_time()
    except DecodeError:
        return None
    return b"".join(pieces)
