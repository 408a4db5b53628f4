"""Requests as they come in from a socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

__all__ = ["RecordedRequest", "RequestHeaders", "read_request"]

_LONGEST_LINE = 2**16


class RequestHeaders(Mapping[str, str]):
    """Headers by name, whatever its case; the values of a repeated name are joined with commas.

    Attributes:
        pairs: Every header as it came, in order.
    """

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        self.pairs = pairs

    def get_all(self, name: str) -> list[str]:
        """Each value of a name that may be repeated; empty when it is absent."""
        return [value for key, value in self.pairs if key.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter({key.lower(): key for key, _ in self.pairs}.values())

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self.pairs})

    def __repr__(self) -> str:
        return f"RequestHeaders({[key for key, _ in self.pairs]!r})"  # names alone: values may be credentials


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that was read whole.

    Attributes:
        method: As sent, such as ``GET``.
        target: Path and query as sent.
        headers: All headers.
        body: The body, with any chunked coding taken off.
        connection: The number of the connection it came on; the server's first is 1.
    """

    method: str
    target: str
    headers: RequestHeaders
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What stands behind the question mark, undecoded; empty when there is none."""
        return self.target.partition("?")[2]

    def json(self) -> Any:
        """The body read as JSON.

        Raises:
            ValueError: It is none.
        """
        return json.loads(self.body)


def read_request(
    stream: BinaryIO, connection: int, send_continue: Callable[[], object]
) -> tuple[RecordedRequest, bool] | None:
    """Read one request.

    Args:
        stream: Where it comes from.
        connection: The number to record.
        send_continue: Called before the body is read, when the client waits for a 100 to send it.

    Returns:
        The request and whether the client wants to keep the connection; None when it closed it instead.

    Raises:
        ValueError: What came is no HTTP/1 request.
        EOFError: The client went away in the middle of it.
    """
    start = stream.readline(_LONGEST_LINE)
    if not start:
        return None
    method, target, version = start.decode("latin-1").split()
    headers = RequestHeaders(tuple(_read_fields(stream)))
    if headers.get("Expect", "").lower() == "100-continue":
        send_continue()
    request = RecordedRequest(method, target, headers, _read_body(stream, headers), connection)
    return request, version != "HTTP/1.0" and headers.get("Connection", "").lower() != "close"


def _read_fields(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    while line := _read_line(stream):
        name, colon, value = line.partition(b":")
        if not colon:
            raise ValueError(f"no header line: {line[:40]!r}")
        yield name.decode("latin-1"), value.strip().decode("latin-1")


def _read_body(stream: BinaryIO, headers: RequestHeaders) -> bytes:
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        return b"".join(_read_chunks(stream))
    length = headers.get("Content-Length", "0")
    if not length.isdecimal():
        raise ValueError(f"Content-Length: {length!r}")
    return _read_exactly(stream, int(length))


def _read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    while size := int(_read_line(stream).partition(b";")[0], 16):
        yield _read_exactly(stream, size)
        _read_line(stream)
    for _ in _read_fields(stream):
        pass  # trailers are read off the wire, nobody asks for them


def _read_line(stream: BinaryIO) -> bytes:
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise EOFError("the request ends in the middle of a line")
    return line.rstrip(b"\r\n")


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError(f"{len(data)} bytes of a body of {size}")
    return data
