"""One scripted answer, given to a stock session and to one of ours, on a new and on a warmed connection."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import requests

from .outcomes import Outcome, outcome_of
from .pieces import Ending, Script
from .plainness import RawAnswer, is_plain
from .raw_server import RawServer, Received
from .sessions import fast_session, stock_session, warm, whence

_PATIENCE = 10.0  # seconds; nobody who reads on waits longer than the server leaves connections open
_MAY_BE_REPEATED = {"GET", "HEAD", "DELETE", "PUT", "OPTIONS"}


class Comparison:
    """Makes the same requests with both kinds of session, and complains about every difference.

    Attributes:
        made: How many answers of ours were compared with the stock one.
    """

    def __init__(self, server: RawServer, verify: bool | str = True) -> None:
        self.server = server
        self.made = 0
        self._numbers = itertools.count(1)
        self._stock, self._new, self._warmed = stock_session(), fast_session(), fast_session()
        for session in (self._stock, self._new, self._warmed):
            session.verify = verify

    def close(self) -> None:
        for session in (self._stock, self._new, self._warmed):
            session.close()

    def check(self, answer: RawAnswer, pieces: Iterable[bytes], ending: Ending, **settings: Any) -> None:
        """Compare what comes of one answer.

        Args:
            answer: What the server has to say.
            pieces: As much of it as the server sends, in the pieces in which it does.
            ending: What the server does then.
            **settings: For ``Session.request``.
        """
        script = Script(tuple(pieces), ending)
        path = f"/odd/{next(self._numbers)}"
        self._stock.close()
        expected, _ = self._ask(self._stock, path, answer, script, settings)
        for session, warmed in ((self._new, False), (self._warmed, True)):
            if warmed:
                connection = warm(session, self.server)
            else:
                session.close()
                connection = 0
            outcome, asked = self._ask(session, path, answer, script, settings)
            told = f"{'warmed' if warmed else 'new'} connection, {answer}, {script}, {settings}"
            _assert_same(outcome, expected, told)
            _check_connections(asked, connection, answer, script, told)
            self._check_next(session, asked[-1].connection, answer, script, told)
            self.made += 1

    def _ask(
        self, session: requests.Session, path: str, answer: RawAnswer, script: Script, settings: Any
    ) -> tuple[Outcome, list[Received]]:
        self.server.scripts[path] = script
        url = self.server.url + path
        settings = {"timeout": _PATIENCE, "allow_redirects": False, **settings}
        if answer.method == "POST":
            settings["data"] = b"posted"
        outcome = outcome_of(lambda: session.request(answer.method, url, **settings))
        outcome["session cookies"] = sorted((each.name, each.value) for each in session.cookies)
        session.cookies.clear()
        self.server.wait_until_played(path)
        return outcome, self.server.forget(path)

    def _check_next(
        self, session: requests.Session, former: int, answer: RawAnswer, script: Script, told: str
    ) -> None:
        """The next request gets its own answer, and not on a connection of which anything is in doubt."""
        path = f"/next/{next(self._numbers)}"
        response = session.get(self.server.url + path, timeout=_PATIENCE)
        self.server.forget(path)
        assert response.text.endswith(" " + path), f"an answer to another request after {told}"
        if not is_plain(RawAnswer(answer.method, script.data)):
            assert whence(response)[0] != former, f"connection used again after {told}"


def _assert_same(outcome: Outcome, expected: Outcome, told: str) -> None:
    names = outcome.keys() | expected.keys()
    different = {
        name: (outcome.get(name, "-"), expected.get(name, "-"))
        for name in sorted(names)
        if outcome.get(name, "-") != expected.get(name, "-")
    }
    assert not different, f"ours and stock differ: {different}\nafter {told}"


def _check_connections(
    asked: list[Received], connection: int, answer: RawAnswer, script: Script, told: str
) -> None:
    """It was sent once, on the connection it should be; twice only where the first one proved dead."""
    if connection:
        assert asked[0].connection == connection, f"not on the warmed connection: {told}"
    repeatable = bool(connection) and not script.data and answer.method in _MAY_BE_REPEATED
    assert len(asked) == 1 or (len(asked) == 2 and repeatable), f"sent {len(asked)} times: {told}"


@contextmanager
def comparison() -> Iterator[Comparison]:
    """A comparison with a server of its own."""
    with RawServer() as server:
        made = Comparison(server)
        try:
            yield made
        finally:
            made.close()


def split(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut data at these places."""
    marks = sorted({0, len(data), *(place for place in places if 0 < place < len(data))})
    return [data[start:end] for start, end in itertools.pairwise(marks)]
