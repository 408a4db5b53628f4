"""What a :class:`~service_utils.testing.FaultServer` can send: answers, broken answers, and anything else.

::

    Answer(200, "hello", delay=0.5)            half a second before the head
    Answer.json({"id": 1}, status=201)
    Answer(200, page, drip=Drip(10, every=0.1))    the body in tens of bytes, ten a second
    Answer(200, page, chunk_size=100)          chunked transfer coding
    Answer(200, page).truncated(at=50)         the whole is announced, 50 bytes come, then end of file
    Answer(200, page).reset_at(50)             ... then a TCP reset
    Answer(200, page).stalled_at(50)           ... then silence
    Answer(200, page).then_close()             whole, then closed without a word: a trap for connection pools
    close_connection(), reset_connection(), blackhole(), garbage()      instead of an answer
    undecodable_gzip()                         an answer that says gzip and is none
    drop_reply()                               the handler does its work, but nobody hears of it
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Any

__all__ = [
    "Answer",
    "Drip",
    "Ending",
    "Handled",
    "Piece",
    "Raw",
    "Reply",
    "blackhole",
    "close_connection",
    "drop_reply",
    "garbage",
    "reset_connection",
    "undecodable_gzip",
]


class Ending(StrEnum):
    """What becomes of the connection after the last byte."""

    KEEP_OPEN = "keep_open"
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Drip:
    """A slow sender: ``size`` bytes, a pause of ``every`` seconds, the next ``size`` bytes."""

    size: int = 1
    every: float = 0.1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size!r}: must be at least 1 byte")
        _check_seconds("every", self.every)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes for the wire, and the seconds to let pass before they are sent."""

    wait: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that are sent as they are, be they HTTP or not.

    Attributes:
        data: The bytes.
        delay: Seconds before the first of them.
        drip: How slowly they are sent; None for all at once.
        ending: What becomes of the connection then.
    """

    data: bytes = b""
    _: KW_ONLY
    delay: float = 0.0
    drip: Drip | None = None
    ending: Ending = Ending.CLOSE

    def __post_init__(self) -> None:
        _check_seconds("delay", self.delay)

    def pieces(self, method: str) -> Iterator[Piece]:
        """What to send, in order. ``method`` is that of the request."""
        return _dripped(self.data, self.drip, self.delay)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP/1.1 answer, sent correctly unless told otherwise.

    ``Content-Length`` (or ``Transfer-Encoding``) is added unless ``headers`` has one, right or wrong.

    Attributes:
        status: The HTTP status.
        body: Bytes; a ``str`` becomes UTF-8.
        headers: A mapping or pairs; repeated names are sent repeatedly.
        delay: Seconds before the head.
        body_delay: Seconds between head and body.
        drip: How slowly the body is sent; None for all at once.
        drip_head: How slowly the head is sent.
        chunk_size: Bytes per chunk of a chunked body; None for ``Content-Length``.
        cut_at: How many bytes of the body are sent; None for all. See the methods below.
        ending: What becomes of the connection then.

    Raises:
        ValueError: A number is out of range.
    """

    status: int = 200
    body: bytes | str = b""
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    _: KW_ONLY
    delay: float = 0.0
    body_delay: float = 0.0
    drip: Drip | None = None
    drip_head: Drip | None = None
    chunk_size: int | None = None
    cut_at: int | None = None
    ending: Ending = Ending.KEEP_OPEN

    def __post_init__(self) -> None:
        if not 100 <= self.status <= 999:
            raise ValueError(f"status={self.status!r}: must have three digits")
        _check_seconds("delay", self.delay)
        _check_seconds("body_delay", self.body_delay)
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size={self.chunk_size!r}: must be at least 1 byte")
        body = self.body.encode() if isinstance(self.body, str) else self.body
        if self.cut_at is not None and not 0 <= self.cut_at <= len(body):
            raise ValueError(f"cut_at={self.cut_at!r}: must be within the body's {len(body)} bytes")
        pairs = tuple(self.headers.items() if isinstance(self.headers, Mapping) else self.headers)
        for name, value in pairs:
            if any(ord(char) > 255 for char in name + value):
                raise ValueError(f"headers: {name!r}: {value!r} must be Latin-1, as headers are on the wire")
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "headers", pairs)

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        """An answer whose body is ``value`` as JSON."""
        return cls(status, json.dumps(value), {"Content-Type": "application/json", **(headers or {})})

    def then_close(self) -> Answer:
        """The whole answer without a ``Connection: close``; then the connection is closed all the same."""
        return replace(self, ending=Ending.CLOSE)

    def truncated(self, at: int) -> Answer:
        """End of file after ``at`` bytes of a body that was announced whole (chunked: without its end)."""
        return replace(self, cut_at=at, ending=Ending.CLOSE)

    def reset_at(self, at: int) -> Answer:
        """A TCP reset after ``at`` bytes of the body; 0 is right after the head."""
        return replace(self, cut_at=at, ending=Ending.RESET)

    def stalled_at(self, at: int) -> Answer:
        """Silence after ``at`` bytes of the body, until the client goes or the server is closed."""
        return replace(self, cut_at=at, ending=Ending.HANG)

    def pieces(self, method: str) -> Iterator[Piece]:
        """What to send, in order. ``method`` is that of the request."""
        yield from _dripped(self._head(), self.drip_head, self.delay)
        if method != "HEAD" and self._may_have_body():
            yield from _dripped(self._wire_body(), self.drip, self.body_delay)

    def header(self, name: str) -> str | None:
        """The value of one header, whatever the case of its name, or None."""
        return next((value for key, value in self._pairs() if key.lower() == name.lower()), None)

    def _pairs(self) -> tuple[tuple[str, str], ...]:
        assert isinstance(self.headers, tuple)  # __post_init__ saw to it
        return self.headers

    def _bytes(self) -> bytes:
        assert isinstance(self.body, bytes)  # likewise
        return self.body

    def _may_have_body(self) -> bool:
        return self.status >= 200 and self.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)

    def _head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {_phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in (*self._pairs(), *self._framing())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _framing(self) -> tuple[tuple[str, str], ...]:
        said = self.header("Content-Length") or self.header("Transfer-Encoding")
        if said is not None or not self._may_have_body():
            return ()
        if self.chunk_size is not None:
            return (("Transfer-Encoding", "chunked"),)
        return (("Content-Length", str(len(self._bytes()))),)

    def _wire_body(self) -> bytes:
        if self.chunk_size is None:
            return self._bytes()[: self.cut_at]
        return b"".join(self._chunks(self.chunk_size))

    def _chunks(self, size: int) -> Iterator[bytes]:
        body = self._bytes()
        end = len(body) if self.cut_at is None else self.cut_at
        for start in range(0, end, size):
            chunk = body[start : start + size]
            yield b"%x\r\n" % len(chunk)
            if start + len(chunk) > end:
                yield chunk[: end - start]  # announced whole, cut in the middle
            else:
                yield chunk + b"\r\n"
        if self.cut_at is None:
            yield b"0\r\n\r\n"


Reply = Answer | Raw


@dataclass(frozen=True, slots=True)
class Handled:
    """In a script: this request goes to the server's handler as usual.

    Attributes:
        send: What the client gets instead of the handler's answer; None for just that answer.
    """

    send: Reply | None = None


def close_connection() -> Raw:
    """End of file instead of an answer."""
    return Raw()


def reset_connection() -> Raw:
    """A TCP reset instead of an answer."""
    return Raw(ending=Ending.RESET)


def blackhole() -> Raw:
    """No answer at all: the request is read, and then there is silence until the server is closed."""
    return Raw(ending=Ending.HANG)


def garbage(data: bytes = b"\x00\xffnot HTTP at all\r\n\r\n") -> Raw:
    """Bytes that are no HTTP, and then end of file."""
    return Raw(data)


def undecodable_gzip(status: int = 200) -> Answer:
    """An answer whose body is not the gzip its head promises."""
    return Answer(status, b"this was never compressed", {"Content-Encoding": "gzip"})


def drop_reply() -> Handled:
    """The handler does its work, then the connection is closed without a byte: done, and nobody knows."""
    return Handled(close_connection())


def _dripped(data: bytes, drip: Drip | None, delay: float) -> Iterator[Piece]:
    if drip is None:
        yield Piece(delay, data)
        return
    for start in range(0, len(data), drip.size):
        yield Piece(drip.every if start else delay, data[start : start + drip.size])


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _check_seconds(name: str, seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name}={seconds!r}: must be a number of seconds >= 0")
