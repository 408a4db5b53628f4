"""The bucket of tokens: exact to the last turn, and whole whatever comes into its methods."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_utils.policies import bucket as bucket_module
from service_utils.policies import rate_limit as limiter_module
from service_utils.policies.bucket import Bucket, Turn
from service_utils.policies.rate_limit import RateLimiter
from service_utils.testing import FakeClock

FOR_EVER = 1e12
FILES = {bucket_module.__file__, limiter_module.__file__}


def book(bucket: Bucket, now: float, later: float = 0.0) -> Turn:
    turn = Turn()
    bucket.book(turn, now, now + later, FOR_EVER)
    assert turn.booked
    return turn


def conform(
    moments: Iterable[float | Fraction], rate: float | Fraction, size: int, error: float = 0.0
) -> bool:
    """Whether no interval from one of the moments to another holds more than it may."""
    order = sorted(moments)
    pairs = itertools.combinations_with_replacement(range(len(order)), 2)
    return all(
        last - first + 1 <= size + rate * (order[last] - order[first]) + error for first, last in pairs
    )


def earliest(moments: list[Fraction], wanted: Fraction, rate: Fraction, size: int) -> Fraction:
    """By trying all moments at which a token more may become possible."""
    steps = range(-len(moments) - size - 1, len(moments) + 2)
    tried = {wanted} | {moment + step / rate for moment in moments for step in steps}
    return next(each for each in sorted(tried) if each >= wanted and conform([*moments, each], rate, size))


EIGHTHS = st.integers(0, 64).map(lambda number: Fraction(number, 8))  # exact in floating point, too
STEPS = st.lists(st.tuples(st.sampled_from(["advance", "now", "later"]), EIGHTHS), min_size=1, max_size=10)


@settings(max_examples=150)
@given(st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(4)]), st.integers(1, 4), STEPS)
def test_each_turn_is_the_first_there_can_be(
    rate: Fraction, size: int, steps: list[tuple[str, Fraction]]
) -> None:
    """Not a moment before, lest the limit be exceeded, and not a moment after."""
    bucket, now = Bucket(float(rate), float(size)), Fraction(-3)
    moments, in_line = list[Fraction](), list[Fraction]()
    for what, number in steps:
        if what == "advance":
            now += number / 4
            continue
        wanted = now + number if what == "later" else max(now, *in_line, now)
        turn = book(bucket, float(now), float(number) if what == "later" else 0.0)
        assert turn.at == earliest(moments, wanted, rate, size)
        moments.append(Fraction(turn.at))
        if what == "now" or number == 0:
            in_line.append(Fraction(turn.at))


@settings(max_examples=100)
@given(
    st.sampled_from([1 / 3600, 0.3, 1.0, 7.3, 1e6]),
    st.integers(1, 4),
    st.lists(
        st.tuples(st.sampled_from(["advance", "now", "later", "cancel"]), st.floats(0, 1, exclude_max=True)),
        max_size=40,
    ),
)
def test_turns_given_back_lend_nobody_too_many(
    rate: float, size: int, steps: list[tuple[str, float]]
) -> None:
    """Turns past and to come are given back, and what is kept still keeps to the limit."""
    bucket, now = Bucket(rate, float(size)), 0.0
    kept = list[Turn]()
    for what, number in steps:
        if what == "advance":
            now += number * 3 / rate
        elif what != "cancel":
            kept.append(book(bucket, now, number * 6 / rate if what == "later" else 0.0))
        elif kept:
            bucket.cancel(kept.pop(int(number * len(kept))))
    assert conform([turn.at for turn in kept], rate, size, error=1e-6)
    assert bucket.waiting(now) == sum(turn.at > now for turn in kept)


@settings(max_examples=60)
@given(st.integers(1, 4), STEPS, EIGHTHS)
def test_a_turn_given_back_was_never_there(
    size: int, steps: list[tuple[str, Fraction]], late: Fraction
) -> None:
    """Whether it has come meanwhile or not, the tokens are those of a bucket without it."""
    with_it, without, now = Bucket(0.5, float(size)), Bucket(0.5, float(size)), 0.0
    for what, number in steps:
        if what == "advance":
            now += float(number)
        else:
            later = float(number) if what == "later" else 0.0
            assert book(with_it, now, later).at == book(without, now, later).at
    turn = book(with_it, now)
    now += float(late)
    with_it.cancel(turn)
    assert with_it.available(now) == pytest.approx(without.available(now))
    assert [book(with_it, now).at for _ in range(4)] == [book(without, now).at for _ in range(4)]


def test_a_token_lost_in_rounding_is_a_token() -> None:
    """At ten a second one goes every tenth of a second, although 0.1 is no exact number to a computer."""
    bucket, now = Bucket(10.0, 1.0), 1e6  # a machine that has been up for days
    for _ in range(1000):
        assert book(bucket, now).at == pytest.approx(now, rel=0, abs=1e-7)
        now += 0.1


def test_most_of_a_token_is_none() -> None:
    """Only what rounding takes is let off, not a hundred-thousandth of a token."""
    bucket = Bucket(1.0, 1.0)
    book(bucket, 0.0)
    assert book(bucket, 0.99999).at == 1.0


def test_what_rounding_gave_is_owed() -> None:
    """Over a long time not one turn more is given than the rate allows."""
    bucket, now, given_ = Bucket(3.0, 2.0), 0.0, 0
    for _ in range(5000):
        given_ += bucket.book(Turn(), now, now, now) <= now
        now += 0.1
    assert given_ <= 2 + 3.0 * now


def test_old_turns_are_forgotten() -> None:
    """However many are booked, for now or for later, only some of the last are remembered."""
    bucket = Bucket(10.0, 5.0)
    for number in range(2000):
        book(bucket, number * 0.2, 0.1 * (number % 3))
    assert len(bucket.line) + len(bucket.later) < 200
    first = book(bucket, 400.0)
    for number in range(2000):
        book(bucket, 400.0 + number * 0.1)
    level = bucket.level
    bucket.cancel(first)
    assert bucket.level == level


def test_turns_for_later_alone_are_forgotten_too() -> None:
    """Nor does it matter that nobody ever wants to go at once."""
    bucket = Bucket(10.0, 5.0)
    for number in range(2000):
        book(bucket, number * 0.2, 0.1)
    assert len(bucket.line) + len(bucket.later) < 200


def test_what_is_forgotten_stays_used() -> None:
    """To give back one of the last turns does not make up for those before them."""
    bucket, now = Bucket(8.0, 5.0), 0.0
    for _ in range(4):
        book(bucket, 0.0)
    for number in range(500):
        now = number / 8
        turn = book(bucket, now)
    assert bucket.available(now) == pytest.approx(0.0)
    bucket.cancel(turn)
    assert bucket.available(now) == pytest.approx(1.0)


def test_turns_for_later_make_room_when_nobody_waits_behind_them() -> None:
    """Once those in line behind it are gone, a turn for later is no longer one that nobody may go before."""
    bucket = Bucket(1.0, 1.0)
    five, six = book(bucket, 0.0, 5.0), book(bucket, 0.0, 6.0)
    in_line = [book(bucket, 0.0) for _ in range(6)]
    assert [turn.at for turn in (five, six, *in_line)] == [5, 6, 0, 1, 2, 3, 4, 7]
    for turn in (six, *in_line[-2:]):
        bucket.cancel(turn)
    assert [book(bucket, 0.0).at for _ in range(3)] == [4, 6, 7]


def test_nothing_is_available_before_those_in_line() -> None:
    """What is given back in front of somebody who waits is there when he has gone."""
    bucket = Bucket(1.0, 5.0)
    turns = [book(bucket, 0.0) for _ in range(9)]
    for turn in turns[5:8]:
        bucket.cancel(turn)
    assert (bucket.available(3.5), bucket.available(4.0)) == (0.0, 3.0)
    assert book(bucket, 3.5).at == 4.0


# -- a signal, a finalizer ------------------------------------------------------------------------------


def at_call(number: int, act: Callable[[], Any], work: Callable[[], Any]) -> bool:
    """Do the work, and something else at its so manieth call or return; whether it has that many."""
    left = number

    def watch(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        # No signal is handled where a function returns to one of Python.
        returns = event == "return" and frame.f_code is RateLimiter.book.__code__
        if frame.f_code.co_filename in FILES and not returns:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                act()

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return left <= 0


def interrupt() -> None:
    raise KeyboardInterrupt


def used(size: float = 2.0) -> tuple[Bucket, list[Turn]]:
    """Some turns that have come, one that has not been settled, and some to come."""
    bucket = Bucket(1.0, size)
    turns = [book(bucket, 0.0, later) for later in (0.0, 0.0, 1.0, 2.5, 6.0, 8.0)]
    return bucket, turns


@pytest.mark.parametrize("later", [0.0, 4.0])
def test_an_interrupt_leaves_the_bucket_whole(later: float) -> None:
    """Wherever in a booking a signal comes, the limit holds afterwards, and the rest is as booked."""
    for number in itertools.count(1):
        bucket, turns = used()
        turn = Turn()
        try:
            if not at_call(number, interrupt, lambda b=bucket, t=turn: b.book(t, 3.0, 3.0 + later, FOR_EVER)):
                break
        except KeyboardInterrupt:
            bucket.cancel(turn)
            assert not turn.booked
        turns += [book(bucket, 3.0, each) for each in (0.0, 2.0, 0.0, 0.0, 0.0)]
        assert conform([each.at for each in turns if each is not turn], 1.0, 2, error=1e-6)
        assert bucket.waiting(3.0) == sum(each.at > 3.0 for each in turns)
    assert number > 10


@pytest.mark.parametrize("later", [0.0, 4.0])
def test_bookings_within_a_booking(later: float) -> None:
    """A finalizer that books and gives back meanwhile has its turns, and nobody gets one twice."""
    for number in itertools.count(1):
        bucket, turns = used()

        def act(bucket: Bucket = bucket, turns: list[Turn] = turns) -> None:
            bucket.cancel(turns.pop(3))
            turns.extend(book(bucket, 3.0, each) for each in (0.0, 3.0, 0.0))

        mine = Turn()
        if not at_call(number, act, lambda b=bucket, t=mine: b.book(t, 3.0, 3.0 + later, FOR_EVER)):
            break
        turns += [mine, *(book(bucket, 3.0, each) for each in (0.0, 2.0, 0.0))]
        assert conform([turn.at for turn in turns], 1.0, 2, error=1e-6)
        assert sorted(bucket.line + bucket.later) == sorted(turn.at for turn in turns)
    assert number > 10


def test_an_interrupted_return_of_a_turn() -> None:
    """It is given back, or it is still there to be given back."""
    for number in itertools.count(1):
        bucket, turns = used()
        before = len(bucket.line + bucket.later)
        turn = turns[3]
        try:
            if not at_call(number, interrupt, lambda b=bucket, t=turn: b.cancel(t)):
                break
        except KeyboardInterrupt:
            assert len(bucket.line + bucket.later) == before - (not turn.booked)
        bucket.cancel(turn)
        assert len(bucket.line + bucket.later) == before - 1
    assert number > 3


def test_bookings_within_a_return_of_a_turn() -> None:
    """A finalizer that books while a turn is given back keeps what it has booked."""
    for number in itertools.count(1):
        bucket, turns = used()

        def act(bucket: Bucket = bucket, turns: list[Turn] = turns) -> None:
            turns.extend(book(bucket, 3.0, each) for each in (0.0, 3.0))

        gone = turns.pop(3)
        if not at_call(number, act, lambda b=bucket, t=gone: b.cancel(t)):
            break
        assert sorted(bucket.line + bucket.later) == sorted(turn.at for turn in turns)
    assert number > 3


def test_an_interrupt_in_the_limiter_loses_no_turn() -> None:
    """Whoever is interrupted while he books has booked nothing, also when he had just done so."""
    for number in itertools.count(1):
        limiter = RateLimiter(1.0, 2, 10.0, clock=FakeClock())
        limiter.book()
        try:
            if not at_call(number, interrupt, limiter.book):
                break
        except KeyboardInterrupt:
            assert limiter.get_status()["available"] == 1.0
    assert number > 5
