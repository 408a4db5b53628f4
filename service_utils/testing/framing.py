"""Where an HTTP/1 message ends in a stream of bytes that is passed on as it comes."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

__all__ = ["Framing", "Side"]

_LONGEST_HEAD = 2**16
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_REQUEST = re.compile(rb"([!-~]+) (\S+) HTTP/1\.[01]\r?\n")
_RESPONSE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\n]*)?\r?\n")
_LENGTH = re.compile(rb"\n(?i:content-length)[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?\n")
_CHUNKED = re.compile(rb"\n(?i:transfer-encoding)[ \t]*:[^\n]*(?i:chunked)[ \t]*\r?\n")
_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})")

_SWITCHING = 101
_WITHOUT_BODY = frozenset({204, 304})


class Side(StrEnum):
    """Which kind of message it is."""

    REQUEST = "request"
    RESPONSE = "response"


class Framing:
    """Follows one message, byte for byte, without holding it.

    What is no HTTP/1, TLS for one, counts as one message without end.

    Args:
        side: Which kind of message it is.
        method: For a response: the method of its request.

    Attributes:
        complete: Whether the message is over.
        started: Whether anything of it has come.
        method: Of a request, once its head is there; of a response, that of its request.
        target: Path and query of a request, once its head is there.
        status: Of a response, once its head is there.
    """

    def __init__(self, side: Side, method: str | None = None) -> None:
        self.complete = False
        self.started = False
        self.method = method
        self.target: str | None = None
        self.status: int | None = None
        self._side = side
        self._kept = b""
        self._left = 0
        self._step: Callable[[bytes], int] = self._head

    @property
    def until_closed(self) -> bool:
        """Whether nothing but the end of the stream ends the message."""
        return self._step == self._everything

    def feed(self, data: bytes) -> int:
        """Take the next bytes of the stream; how many of them belong to this message."""
        at = 0
        while at < len(data) and not self.complete:
            self.started = True
            at += self._step(data[at:])
        return at

    def _head(self, data: bytes) -> int:
        known, self._kept = len(self._kept), self._kept + data
        end = _HEAD_END.search(self._kept)
        if end is None:
            if len(self._kept) > _LONGEST_HEAD or not self._may_be_http():
                self._step = self._everything
            return len(data)
        head, self._kept = self._kept[: end.end()], b""
        self._after_head(head)
        return end.end() - known

    def _may_be_http(self) -> bool:
        """Whether the first bytes look like it; TLS begins with a byte that no method has."""
        if self._side is Side.RESPONSE:
            return self._kept[:7] == b"HTTP/1."[: len(self._kept)]
        line, newline, _ = self._kept.partition(b"\n")
        return bool(_REQUEST.fullmatch(line + b"\n")) if newline else bool(re.match(rb"[!-~]", line))

    def _after_head(self, head: bytes) -> None:
        first = (_REQUEST if self._side is Side.REQUEST else _RESPONSE).match(head)
        if first is None:
            self._step = self._everything
        elif self._side is Side.REQUEST:
            self.method, self.target = (part.decode("latin-1") for part in first.groups())
            self._expect_body(head, none=self.method == "CONNECT", open_ended=False)
        else:
            self._after_status(int(first[1]), head)

    def _after_status(self, status: int, head: bytes) -> None:
        if 100 <= status < 200 and status != _SWITCHING:
            return  # an interim answer: the head of the real one follows
        self.status = status
        if status == _SWITCHING or (self.method == "CONNECT" and 200 <= status < 300):
            self._step = self._everything
        else:
            self._expect_body(head, none=self.method == "HEAD" or status in _WITHOUT_BODY, open_ended=True)

    def _expect_body(self, head: bytes, *, none: bool, open_ended: bool) -> None:
        length = _LENGTH.search(head)
        if none:
            self.complete = True
        elif _CHUNKED.search(head):
            self._step = self._chunk_size
        elif length is not None:
            self._left = int(length[1])
            self.complete = self._left == 0
            self._step = self._body
        elif open_ended:
            self._step = self._everything
        else:
            self.complete = True

    def _body(self, data: bytes) -> int:
        taken = min(len(data), self._left)
        self._left -= taken
        self.complete = self._left == 0
        return taken

    def _line(self, data: bytes) -> tuple[int, bytes | None]:
        """How many bytes go to the line, and the whole line when it has come."""
        end = data.find(b"\n") + 1
        self._kept += data[:end] if end else data
        if not end:
            return len(data), None
        line, self._kept = self._kept, b""
        return end, line.strip()

    def _chunk_size(self, data: bytes) -> int:
        taken, line = self._line(data)
        if line is None:
            return taken
        size = _SIZE.match(line)
        if size is None:
            self._step = self._everything  # wrongly framed: what ends it, nobody can say
        elif int(size[1], 16) == 0:
            self._step = self._trailer
        else:
            self._left = int(size[1], 16)
            self._step = self._chunk
        return taken

    def _chunk(self, data: bytes) -> int:
        taken = min(len(data), self._left)
        self._left -= taken
        if self._left == 0:
            self._step = self._chunk_end
        return taken

    def _chunk_end(self, data: bytes) -> int:
        taken, line = self._line(data)
        if line is not None:
            self._step = self._chunk_size
        return taken

    def _trailer(self, data: bytes) -> int:
        taken, line = self._line(data)
        self.complete = line == b""
        return taken

    def _everything(self, data: bytes) -> int:
        return len(data)
