"""Over TLS, too, an answer that breaks off gives what it gives with a stock session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .certificates import Certificates
from .comparing import Comparison, split
from .pieces import Ending
from .plainness import SMUGGLED, RawAnswer
from .raw_server import RawServer

pytestmark = pytest.mark.no_cover  # the tracer would take half of the time

ANSWERS = {
    "plain": RawAnswer("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + b'{"a": 1}'),
    "posted": RawAnswer("POST", b"HTTP/1.1 201 Created\r\nX: 1\r\nContent-Length: 2\r\n\r\nok"),
    "until close": RawAnswer("GET", b"HTTP/1.1 200 OK\r\n\r\nhello"),
    "chunked": RawAnswer("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    "too much": RawAnswer("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + SMUGGLED),
}
CLOSINGS = [Ending.CLOSE, Ending.NOTIFY, Ending.RESET]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparison]:
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    with RawServer(tls=certificates.server()) as server:
        made = Comparison(server, certificates.authority)
        yield made
        made.close()


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("name", ANSWERS)
def test_cut_at_every_byte(name: str, compared: Comparison) -> None:
    """Closed with a word of TLS or without, or reset, behind any byte of an answer."""
    answer = ANSWERS[name]
    for length in range(len(answer.data) + 1):
        compared.check(answer, [answer.data[:length]], CLOSINGS[length % len(CLOSINGS)])


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("ending", CLOSINGS)
@pytest.mark.parametrize(
    "length", [0, 1, 20, -1], ids=["nothing", "a byte", "part of the head", "nearly all"]
)
def test_ways_to_close(ending: Ending, length: int, compared: Comparison) -> None:
    """Each of these ways, where it matters most."""
    answer = ANSWERS["plain"]
    compared.check(answer, [answer.data[:length]], ending)


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.parametrize("name", ANSWERS)
def test_in_two_pieces(name: str, compared: Comparison) -> None:
    """One record after the other."""
    answer = ANSWERS[name]
    for place in range(1, len(answer.data), 3):
        compared.check(answer, split(answer.data, [place]), Ending.OPEN)
