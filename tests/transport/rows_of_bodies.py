"""Bodies of every kind."""

from __future__ import annotations

import array
import io
from collections.abc import Callable, Iterator
from typing import Any

from .rows import TIMEOUT, made, plain


def _pieces(*pieces: Any) -> Callable[[], Iterator[Any]]:
    return lambda: iter(pieces)


def from_generator() -> Iterator[bytes]:
    yield b"from "
    yield b"a generator"


def positioned() -> io.BytesIO:
    file = io.BytesIO(b"0123456789")
    file.seek(4)
    return file


class _ReadOnly:
    """A file whose length nobody knows."""

    def __init__(self) -> None:
        self._file = io.BytesIO(b"of unknown length")

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)


_JSON: tuple[Any, ...] = (
    {}, {"a": 1}, [], [1, None, True, 2.5], "text", "", 0, False, {"ü": "ö☃"}, {"a": float("nan")},
    {"a": {1, 2}}, None,
)  # fmt: skip
_DATA: tuple[Any, ...] = (
    b"bytes", b"", "text", "ü☃", "", {}, {"a": "1"}, {"a": ["1", "2"], "b": "ü"}, {"a": None}, {"a": b"\xff"},
    [("a", "1")], [("a", "1"), ("a", "2")], [], (("a", "1"),), bytearray(b"array"), memoryview(b"view"),
    array.array("B", b"array"), 5, b"x" * 300_000, "ü" * 100_000, object(),
)  # fmt: skip
BODIES = {
    **{f"json {value!r}": plain("POST", json=value) for value in _JSON},
    **{f"data {repr(value)[:40].partition(' at ')[0]}": plain("POST", data=value) for value in _DATA},
    "json with a type of the caller": plain("POST", json={}, headers={"content-type": "application/x+json"}),
    "json and data": plain("POST", json={"a": 1}, data={"b": 2}),
    "json and empty data": plain("POST", json={"a": 1}, data=b""),
    "json in a get": plain("GET", json={"a": 1}),
    "data in a get": plain("GET", data=b"body"),
    "data in a delete": plain("DELETE", data=b"body"),
    "data in a head": plain("HEAD", data=b"body"),
    "text with a type of the caller": plain(
        "PUT", data="ü", headers={"Content-Type": "text/plain; charset=x"}
    ),
    "generator": made("POST", data=from_generator),
    "generator of text": made("POST", data=_pieces("täxt", "more")),
    "generator with an empty piece": made("POST", data=_pieces(b"a", b"", b"b")),
    "generator of nothing": made("POST", data=_pieces()),
    "generator of numbers": made("POST", data=_pieces(1, 2)),
    "generator with its length given": lambda session, url: session.post(
        url + "/a", data=from_generator(), headers={"Content-Length": "16"}, timeout=TIMEOUT
    ),
    "file": made("PUT", data=lambda: io.BytesIO(b"of a file")),
    "large file": made("PUT", data=lambda: io.BytesIO(b"x" * 300_000)),
    "file that was read before": made("PUT", data=positioned),
    "file that is empty": made("PUT", data=io.BytesIO),
    "file of text": made("PUT", data=lambda: io.StringIO("text")),
    "file of unknown length": made("PUT", data=_ReadOnly),
    "range": plain("POST", data=range(0)),
    "empty post": plain("POST"),
    "empty post with a length": plain("POST", headers={"Content-Length": "0"}),
    "get with a length": plain("GET", headers={"Content-Length": "0"}),
}

_FILES: tuple[Any, ...] = (
    {"f": b"bytes"}, {"f": "text"}, {"f": ("name.txt", b"bytes")}, {"f": ("näme.txt", "ü")},
    {"f": ("a.json", b"{}", "application/json")}, {"f": ("a", b"x", "text/plain", {"X-Part": "1"})},
    [("f", ("a", b"1")), ("f", ("b", b"2"))], {"f": (None, "value")}, {"f": b""},
    {"f": ('quo"ted\r\n', b"x")}, {}, [],
)  # fmt: skip
FILES = {
    **{f"files {files!r}": plain("POST", files=files) for files in _FILES},
    "files and fields": plain("POST", files={"f": b"x"}, data={"a": "1", "b": ["2", "3"], "ü": "ö"}),
    "files and text": plain("POST", files={"f": b"x"}, data="text"),
    "files and a type": plain("POST", files={"f": b"x"}, headers={"Content-Type": "multipart/mixed"}),
    "files that are open": made("POST", files=lambda: {"f": io.BytesIO(b"open")}),
}
