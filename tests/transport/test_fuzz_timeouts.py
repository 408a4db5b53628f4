"""A server that falls silent: the exception is the one that a stock session raises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import urllib3

from .comparing import Comparison
from .pieces import Ending
from .plainness import RawAnswer
from .raw_server import RawServer

pytestmark = pytest.mark.no_cover  # the tracer would take half of the time

GET = RawAnswer("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
POST = RawAnswer("POST", GET.data)
CHUNKED = RawAnswer("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
PLACES = {
    "before the answer": 0,
    "in the status line": 10,
    "in the head": 30,
    "before the body": 38,
    "in the body": 40,
}


@pytest.fixture(scope="module")
def compared() -> Iterator[Comparison]:
    with RawServer(patience=5) as server:
        made = Comparison(server)
        yield made
        made.close()


@pytest.mark.parametrize("place", PLACES)
def test_silence(place: str, compared: Comparison) -> None:
    """Wherever the answer stops."""
    compared.check(GET, [GET.data[: PLACES[place]]], Ending.OPEN, timeout=0.1)


@pytest.mark.parametrize("timeout", [(5, 0.1), (None, 0.1), urllib3.Timeout(connect=5, read=0.1)])
def test_kinds_of_timeouts(timeout: object, compared: Comparison) -> None:
    """However the time-out is given."""
    compared.check(GET, [b""], Ending.OPEN, timeout=timeout)


@pytest.mark.parametrize("place", [0, -2, -7, -12])
def test_silence_between_chunks(place: int, compared: Comparison) -> None:
    """Also in the middle of a chunked body."""
    compared.check(CHUNKED, [CHUNKED.data[:place]], Ending.OPEN, timeout=0.1)


@pytest.mark.parametrize("settings", [{}, {"stream": True}])
def test_silence_after_a_post(settings: dict[str, bool], compared: Comparison) -> None:
    """A write is not sent again because nothing came."""
    compared.check(POST, [b""], Ending.OPEN, timeout=0.1, **settings)
