"""Takes requests off a connection as they come, byte for byte."""

from __future__ import annotations

import re
import select
import socket

_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]+)[^\r\n]*\r\n")


class RequestReader:
    """Takes one request after the other off a connection, each with all of its bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""

    def next(self, patience: float | None) -> bytes | None:
        """The next request; None when the client has gone, or nothing came for so many seconds."""
        if not self._data and patience is not None and not select.select([self._sock], [], [], patience)[0]:
            return None
        end = self._find(b"\r\n\r\n", 0)
        if end is None:
            return None
        head = self._data[: end + 4].lower()
        length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head)
        if b"\r\ntransfer-encoding: chunked\r\n" in head and not (length and self._is_no_chunk(end + 4)):
            whole = self._chunked(end + 4)
        else:
            whole = self._until(end + 4 + (int(length[1]) if length else 0))
        if whole is None:
            return None
        raw, self._data = self._data[:whole], self._data[whole:]
        return raw

    def _is_no_chunk(self, start: int) -> bool:
        """A body with both headers is what requests makes of it: in chunks, or not."""
        self._until(start + 3)
        return _CHUNK_LINE.match(self._data, start) is None

    def _chunked(self, start: int) -> int | None:
        while (end := self._find(b"\r\n", start)) is not None:
            size = _CHUNK_LINE.match(self._data, start)
            assert size is not None, self._data[start:end]
            if int(size[1], 16) == 0:
                return self._until(end + 4)
            start = end + 2 + int(size[1], 16) + 2
        return None

    def _find(self, wanted: bytes, start: int) -> int | None:
        while (found := self._data.find(wanted, start)) < 0:
            if not self._more():
                return None
        return found

    def _until(self, length: int) -> int | None:
        while len(self._data) < length:
            if not self._more():
                return None
        return length

    def _more(self) -> bool:
        piece = self._sock.recv(65536)
        self._data += piece
        return bool(piece)
