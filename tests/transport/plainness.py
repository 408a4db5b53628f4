"""A strict judge of what is plain, and the answer that it judges."""

from __future__ import annotations

import re
from dataclasses import dataclass

SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nSMUGGLED"


@dataclass(frozen=True)
class RawAnswer:
    """An answer, and the method of the request that it is given to."""

    method: str
    data: bytes

    def __repr__(self) -> str:
        data = self.data if len(self.data) < 4000 else self.data[:2000] + b" ... " + self.data[-1000:]
        return f"RawAnswer({self.method!r}, {data!r})"


_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [^\r\n\x00]*)?\r\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([^\r\n\x00]*)\r\n")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(?:[\t ]*;[\t -~]*)?\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_TRAILERS = re.compile(rb"(?:[^\r\n\x00]+\r\n)*\r\n")  # nobody reads what they say
_NO_BODY = {b"204", b"304"}


def is_plain(answer: RawAnswer) -> bool:
    """Whether an answer follows the letter of RFC 9112 and ends where it says, so that nothing is doubtful.

    After one that does not, a careful client closes the connection.
    """
    position = 0
    while True:
        status = _STATUS_LINE.match(answer.data, position)
        if status is None:
            return False
        fields, position = _fields(answer.data, status.end())
        if fields is None:
            return False
        if not status[1].startswith(b"1") or status[1] == b"101":
            break
    rest = answer.data[position:]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        return False
    if codings and codings[0].lower() != b"chunked":
        return False
    if answer.method == "HEAD" or status[1] in _NO_BODY:
        return not rest
    if codings:
        return _is_chunked(rest)
    return not lengths or len(rest) == int(lengths[0])


def _fields(data: bytes, position: int) -> tuple[list[tuple[bytes, bytes]] | None, int]:
    fields = []
    while data[position : position + 2] != b"\r\n":
        field = _FIELD.match(data, position)
        if field is None:
            return None, position
        fields.append((field[1].lower(), field[2].rstrip(b" \t")))
        position = field.end()
    return fields, position + 2


def _is_chunked(data: bytes) -> bool:
    position = 0
    while True:
        size = _CHUNK.match(data, position)
        if size is None:
            return False
        length = int(size[1], 16)
        if not length:
            return _TRAILERS.fullmatch(data, size.end()) is not None
        position = size.end() + length
        if data[position : position + 2] != b"\r\n":
            return False
        position += 2
