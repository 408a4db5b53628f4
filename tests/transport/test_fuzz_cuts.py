"""An answer that breaks off, wherever it does: our session gives what the stock one gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given

from .codings import CODERS
from .comparing import Comparison, comparison, split
from .fuzzing import EVERY, examples, fuzz
from .pieces import Ending
from .plainness import SMUGGLED, RawAnswer
from .raw_answers import raw_answers

pytestmark = pytest.mark.no_cover  # the tracer would take half of the time

SMALL = 90  # bytes; of a longer answer this many places are enough
GENERATED = 3

_CODED = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s"
_ZIPPED = CODERS["gzip"](b"hello")
_BROTLI = CODERS["br"](b"hello")
_ZSTD = CODERS["zstd"](b"hello")

ANSWERS = {
    "plain": RawAnswer(
        "GET",
        b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n"
        b'{"a": 1}',
    ),
    "posted": RawAnswer("POST", b"HTTP/1.1 201 Created\r\nX: 1\r\nContent-Length: 2\r\n\r\nok"),
    "empty": RawAnswer("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "no content": RawAnswer("DELETE", b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
    "head": RawAnswer("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    "not modified": RawAnswer("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 5\r\n\r\n'),
    "until close": RawAnswer("GET", b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nhello"),
    "old": RawAnswer("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"),
    "continue": RawAnswer(
        "GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    ),
    "chunked": RawAnswer(
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX: 1\r\n\r\n",
    ),
    "gzip": RawAnswer("GET", _CODED % (b"gzip", len(_ZIPPED), _ZIPPED)),
    "brotli": RawAnswer("GET", _CODED % (b"br", len(_BROTLI), _BROTLI)),
    "zstd": RawAnswer("GET", _CODED % (b"zstd", len(_ZSTD), _ZSTD)),
    "redirect": RawAnswer("GET", b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 2\r\n\r\ngo"),
    "cookie": RawAnswer("GET", b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 2\r\n\r\nok"),
    "closing": RawAnswer("GET", b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"),
    "folded": RawAnswer("GET", b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok"),
    "too much": RawAnswer("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + SMUGGLED),
}


@pytest.fixture(scope="module")
def compared() -> Iterator[Comparison]:
    with comparison() as made:
        yield made


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("name", ANSWERS)
def test_cut_at_every_byte(name: str, compared: Comparison) -> None:
    """Closed or reset behind any byte of an answer, which for the rest comes in one piece."""
    answer = ANSWERS[name]
    for length in range(len(answer.data) + 1):
        compared.check(answer, [answer.data[:length]], Ending.CLOSE if length % 2 else Ending.RESET)


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("name", ["plain", "posted"])
def test_cut_behind_a_single_byte(name: str, compared: Comparison) -> None:
    """The same where the last byte before the end comes by itself."""
    answer = ANSWERS[name]
    for length in range(2, len(answer.data) + 1):
        pieces = split(answer.data[:length], [length - 1])
        compared.check(answer, pieces, Ending.RESET if length % 2 else Ending.CLOSE)


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("name", ANSWERS)
def test_in_two_pieces_parted_anywhere(name: str, compared: Comparison) -> None:
    """Where one piece ends and the next begins makes no difference, wherever one tries it."""
    answer = ANSWERS[name]
    for place in range(1, len(answer.data), EVERY):
        compared.check(answer, split(answer.data, [place]), Ending.OPEN)


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.timeout(60 + 4 * examples(GENERATED))
def test_generated_answers_cut_at_every_byte() -> None:
    """The same for answers that nobody has thought of; of long ones, evenly spread places."""
    with comparison() as compared:

        @fuzz(GENERATED)
        @given(raw_answers())
        def check(answer: RawAnswer) -> None:
            step = max(len(answer.data) // SMALL, 1)
            for length in range(0, len(answer.data), step):
                compared.check(answer, [answer.data[:length]], Ending.RESET if length % 3 else Ending.CLOSE)

        check()
