"""Whatever a server sends, our session gives what the stock one gives, and keeps no doubtful connection."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .comparing import Comparison, comparison, split
from .fuzzing import examples, fuzz
from .pieces import Ending
from .plainness import RawAnswer
from .raw_answers import raw_answers

pytestmark = pytest.mark.no_cover  # the tracer would take half of the time

ANSWERS = 100
CUTS = 3  # of each answer, at random places
DELIVERIES = 2 + CUTS
SESSIONS = 2  # one on a new connection, one on a warmed one


@pytest.mark.usefixtures("quiet_urllib3")
@pytest.mark.timeout(60 + examples(ANSWERS))
def test_any_answer_any_cut_any_pieces() -> None:
    """Whole or cut off, in one piece or many: status, headers, body and exception are the stock ones."""
    with comparison() as compared:

        @fuzz(ANSWERS)
        @given(raw_answers(), st.integers(0, 2**32))
        def check(answer: RawAnswer, seed: int) -> None:
            _compare(compared, answer, Random(seed))

        check()
        assert compared.made == SESSIONS * DELIVERIES * examples(ANSWERS)


def _compare(compared: Comparison, answer: RawAnswer, random: Random) -> None:
    whole = answer.data
    stream = {"stream": True} if random.random() < 0.1 else {}
    compared.check(answer, [whole], Ending.OPEN, **stream)
    compared.check(answer, _in_pieces(whole, random), random.choice(list(Ending)), **stream)
    for _ in range(CUTS):
        cut = whole[: random.randrange(len(whole) + 1)]
        compared.check(answer, _in_pieces(cut, random), random.choice([Ending.CLOSE, Ending.RESET]))


def _in_pieces(data: bytes, random: Random) -> list[bytes]:
    """One piece, or up to four; the end of the head is a place of its own."""
    if random.random() < 0.4:
        return [data]
    places = [random.randrange(len(data) + 1) for _ in range(random.randrange(1, 4))]
    if random.random() < 0.5:
        places.append(data.find(b"\r\n\r\n") + random.choice([0, 2, 4]))
    return split(data, places)
