"""What http.client reads an answer from: bounded in time, and watched for whatever is odd about it.

``http.client`` is generous: it takes heads that another reader would understand differently, and throws
away what comes after the end of a body. An answer like that is handed on as it is understood, but its
connection is not used again, lest the rest of it be taken for the answer to the next request.
"""

from __future__ import annotations

import http.client
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service_utils.http.connection import BoundedConnection

__all__ = ["AnswerSource"]

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n\0]*)?\r\n")
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)\r\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n\0]*)?\r\n")
_WITHOUT_BODY = (204, 304)
_MAX_LINE = 65_536  # as in http.client
_DIGITS = re.compile(rb"[0-9]{1,18}")


class AnswerSource:
    """Stands in for the socket when http.client makes a response of it.

    Args:
        conn: The connection, which says how long one may wait and is told what is odd.
        sock: Its socket.
    """

    def __init__(self, conn: BoundedConnection, sock: Any) -> None:
        self._conn = conn
        self._sock = sock

    def makefile(self, mode: str = "rb", *_args: Any, **_kwargs: Any) -> io.BufferedReader:
        """The file to read the answer from; it begins with what was received before."""
        return _Reader(_BoundedFile(self._conn, self._sock, self._sock.makefile("rb", buffering=0)))


class _BoundedFile(io.RawIOBase):
    """The socket as a raw file; no reading of it outlasts what the connection allows."""

    def __init__(self, conn: BoundedConnection, sock: Any, raw: io.RawIOBase) -> None:
        super().__init__()
        self._conn = conn
        self._sock = sock
        self._raw = raw
        replay = conn.take_replay()
        self._before, self._pending, self.ended = replay.received, replay.error, replay.ended

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self._before:
            if not self.ended:
                self._conn.time_for()  # taking millions of small pieces apart takes time, too
            view = memoryview(buffer)
            count = min(len(view), len(self._before))
            view[:count] = self._before[:count]
            self._before = self._before[count:]
            return count
        if self.ended:
            return 0
        if self._pending is not None:
            error, self._pending = self._pending, None
            raise error
        self._sock.settimeout(self._conn.time_for())
        count = self._raw.readinto(buffer) or 0
        self._conn.note_received(count)
        return count

    def spoil(self) -> None:
        """Tell the connection that it had better not be used again."""
        self._conn.spoilt = True

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            super().close()


class _Reader(io.BufferedReader):
    """The buffered file that http.client reads; looks at each line of the head as it goes by."""

    raw: _BoundedFile

    def __init__(self, raw: _BoundedFile) -> None:
        super().__init__(raw)
        self._status: int | None = None  # of the head being read
        self._in_head, self._in_trailer = True, False
        self._lengths: list[bytes] = []
        self._codings: list[bytes] = []
        self._in_chunk = False
        self._left = 0  # bytes of the chunk that is being read, less the line's end behind it

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self._in_chunk:
            self._look_at_data(data)
        return data

    def read1(self, size: int = -1, /) -> bytes:
        data = super().read1(size)
        if self._in_chunk:
            self._look_at_data(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        if self._in_chunk:
            self._look_at_data(memoryview(buffer)[:count])
        return count

    def readline(self, limit: int | None = -1, /) -> bytes:
        unlimited = limit is None or limit < 0  # as urllib3 before 2.8 asks for the lines between chunks
        line = super().readline(_MAX_LINE + 1 if unlimited else limit)
        if unlimited and len(line) > _MAX_LINE:
            self.raw.spoil()
            raise http.client.LineTooLong("chunk")
        if self._in_head:
            self._look_at(line)
        elif self._in_trailer:
            if line != b"\r\n" and not _HEADER_LINE.fullmatch(line):
                self.raw.spoil()
        else:
            self._look_at_chunk(line)
        return line

    def close(self) -> None:
        try:
            if not self.closed:
                self.raw.ended = True
                if self.peek(1):  # more came than belongs to this answer
                    self.raw.spoil()
        finally:
            super().close()

    def _look_at(self, line: bytes) -> None:
        if self._status is None:
            status = _STATUS_LINE.fullmatch(line)
            self._status = int(status[1]) if status else 0
            if status is None:
                self.raw.spoil()
        elif line == b"\r\n":
            self._end_head()
        else:
            self._look_at_header(line)

    def _look_at_header(self, line: bytes) -> None:
        header = _HEADER_LINE.fullmatch(line)
        if header is None:
            self.raw.spoil()
            return
        name = header[1].lower()
        if name == b"content-length":
            self._lengths.append(header[2].strip(b" \t"))
        elif name == b"transfer-encoding":
            self._codings.append(header[2].strip(b" \t").lower())

    def _look_at_chunk(self, line: bytes) -> None:
        chunk = _CHUNK_LINE.fullmatch(line)
        if chunk is None:
            self.raw.spoil()
        elif left := int(chunk[1], 16):
            self._in_chunk, self._left = True, left
        else:
            self._in_trailer = True

    def _look_at_data(self, data: bytes | memoryview) -> None:
        if self._left:
            self._left -= len(data)
            if self._left < 0:
                self.raw.spoil()  # nobody reads beyond a chunk; what was it that came behind it?
                self._in_chunk = False
        else:
            self._in_chunk = False
            if data != b"\r\n":  # http.client throws two bytes away, whatever they are
                self.raw.spoil()

    def _end_head(self) -> None:
        if self._status == 100:  # http.client passes over it and reads the next head
            self._status = None
            return
        self._in_head = False
        if len(self._lengths) + len(self._codings) > 1 or (self._status or 0) < 200:
            self.raw.spoil()
        if self._lengths and not _DIGITS.fullmatch(self._lengths[0]):
            self.raw.spoil()
        if self._codings and (self._codings[0] != b"chunked" or self._status in _WITHOUT_BODY):
            self.raw.spoil()
