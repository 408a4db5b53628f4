"""The rate limiter: a bucket of tokens in which turns are booked."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_utils.errors import RateLimitedError
from service_utils.events import RateLimited
from service_utils.policies.deadline import Deadline
from service_utils.policies.rate_limit import Booking, RateLimit, RateLimiter
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import together

FOR_EVER = 1e9


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def delays(limiter: RateLimiter, count: int) -> list[float]:
    return [limiter.book().delay for _ in range(count)]


def test_the_burst_goes_at_once_and_the_rest_at_the_rate(clock: FakeClock) -> None:
    """After a pause as many as the burst need not wait; then one every 1/rate seconds."""
    limiter = RateLimiter(4, 3, FOR_EVER, clock=clock)
    assert delays(limiter, 6) == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75])


def test_tokens_come_back_with_time(clock: FakeClock) -> None:
    """The bucket fills at the rate, up to its rim."""
    limiter = RateLimiter(2, 3, FOR_EVER, clock=clock)
    delays(limiter, 3)
    clock.advance(0.5)
    assert delays(limiter, 2) == pytest.approx([0, 0.5])
    clock.advance(100)
    assert delays(limiter, 4) == pytest.approx([0, 0, 0, 0.5])


@pytest.mark.parametrize(("rate", "burst"), [(50, 50), (2.5, 3), (0.1, 1), (1e6, 10**6)])
def test_the_burst_is_one_second_of_calls(rate: float, burst: int) -> None:
    """Left out, it is what one second allows, and one call at least."""
    assert RateLimit(rate=rate).tokens == RateLimiter(rate).get_status()["burst"] == burst


def test_a_turn_too_far_away_is_refused(clock: FakeClock) -> None:
    """It says how long that would have taken, and takes no token."""
    told: list[Any] = []
    limiter = RateLimiter(1, 1, 2.0, clock=clock, name="git", label="Git Server", listeners=[told.append])
    assert delays(limiter, 3) == [0, 1, 2]
    for _ in range(3):
        with pytest.raises(RateLimitedError, match="Git Server: the limit of 1 calls/s is reached") as caught:
            limiter.book()
        assert caught.value.retry_after == pytest.approx(3.0)
    assert limiter.get_status() == {
        "rate": 1,
        "burst": 1,
        "max_wait": 2.0,
        "available": 0.0,
        "waiting": 2,
        "rejected": 3,
    }
    assert isinstance(told[0], RateLimited)
    assert (told[0].service, told[0].name, told[0].reason) == ("Git Server", "git", "rate limit")
    assert told[0].retry_after == pytest.approx(3.0)


def test_a_turn_beyond_the_callers_own_limit_is_refused(clock: FakeClock) -> None:
    """Whoever has no use for a turn after so many seconds does not take one."""
    limiter = RateLimiter(1, 1, 60, clock=clock)
    limiter.book()
    with pytest.raises(RateLimitedError):
        limiter.book(most=0.5)
    assert limiter.book(most=1.0).delay == 1.0


def test_a_booking_for_later_holds_nobody_up(clock: FakeClock) -> None:
    """A token for the end of a back-off is not taken from those who can go before it."""
    limiter = RateLimiter(1, 1, FOR_EVER, clock=clock)
    assert limiter.book(not_before=10).delay == 10.0
    assert delays(limiter, 11) == pytest.approx([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11])


def test_two_bookings_for_one_moment(clock: FakeClock) -> None:
    """Where a burst allows it both have it; else one of them goes later."""
    limiter = RateLimiter(1, 2, FOR_EVER, clock=clock)
    assert [limiter.book(not_before=10).delay for _ in range(3)] == pytest.approx([10, 10, 11])


def test_own_waiting_counts_from_the_end_of_the_back_off(clock: FakeClock) -> None:
    """max_wait bounds what the limit adds, not the back-off itself."""
    limiter = RateLimiter(1, 1, 1.0, clock=clock)
    assert limiter.book(not_before=30).delay == 30.0
    assert limiter.book(not_before=30).delay == 31.0
    with pytest.raises(RateLimitedError):
        limiter.book(not_before=30)


def test_a_cancelled_turn_is_there_for_others(clock: FakeClock) -> None:
    """What has been given back can be booked again, and giving it back twice changes nothing."""
    limiter = RateLimiter(1, 1, FOR_EVER, clock=clock)
    limiter.book()
    booking = limiter.book()
    booking.cancel()
    booking.cancel()
    assert limiter.book().delay == 1.0


def test_a_cancelled_turn_lets_nobody_overtake(clock: FakeClock) -> None:
    """Of those who wait in line nobody goes before one who came earlier."""
    limiter = RateLimiter(1, 1, FOR_EVER, clock=clock)
    turns = [limiter.book() for _ in range(4)]
    turns[1].cancel()
    assert limiter.book().delay == 4.0


def test_a_turn_that_has_come_can_be_given_back(clock: FakeClock) -> None:
    """Whoever does not use it leaves the bucket as it would be without him, whoever has looked meanwhile."""
    limiter = RateLimiter(1, 1, FOR_EVER, clock=clock)
    booking = limiter.book()
    clock.advance(0.5)
    limiter.get_status()
    booking.cancel()
    assert delays(limiter, 2) == [0.0, 1.0]


def test_a_turn_of_long_ago_stays_used(clock: FakeClock) -> None:
    """Giving back what has grown again since makes the bucket no fuller."""
    limiter = RateLimiter(1, 2, FOR_EVER, clock=clock)
    booking = limiter.book()
    clock.advance(100)
    booking.cancel()
    assert delays(limiter, 3) == [0.0, 0.0, 1.0]


def test_who_was_held_up_gets_a_token_that_is_there() -> None:
    """A thread that looked at the clock before others came does not wait for the time in which they did."""

    class Slow(FakeClock):
        late = 0.0

        def monotonic(self) -> float:
            return super().monotonic() - self.late

    clock = Slow()
    limiter = RateLimiter(10, 100, 0.0, clock=clock)
    clock.advance(1)
    limiter.book()
    clock.late = 0.005
    assert limiter.book().delay == 0.0


def test_one_an_hour(clock: FakeClock) -> None:
    """A rate far below one a second is kept as exactly."""
    limiter = RateLimiter(1 / 3600, max_wait=7200, clock=clock)
    assert delays(limiter, 3) == pytest.approx([0, 3600, 7200])
    clock.advance(3600)
    assert limiter.get_status()["waiting"] == 1


def test_a_clock_that_stands_still(clock: FakeClock) -> None:
    """No turn comes by itself, and a rate of billions a second is no way round the burst."""
    limiter = RateLimiter(1e9, 3, 0.0, clock=clock)
    turns = [limiter.book() for _ in range(6)]
    assert [turn.at for turn in turns] == pytest.approx([0, 0, 0, 1e-9, 2e-9, 3e-9], rel=1e-3)
    assert [turn.delay for turn in turns] == [0.0] * 6


def test_acquire_sleeps(clock: FakeClock) -> None:
    """It returns when it is the caller's turn, with what that took."""
    limiter = RateLimiter(2, 1, clock=clock)
    assert [limiter.acquire(), limiter.acquire()] == [0.0, 0.5]
    assert clock.monotonic() == 0.5
    with pytest.raises(RateLimitedError):
        limiter.acquire(Deadline.after(0.1, clock))
    assert clock.monotonic() == 0.5


def test_an_interrupted_wait_gives_its_turn_back() -> None:
    """Ctrl-C while it waits leaves the turn to the next one."""

    class Interrupted(FakeClock):
        def sleep(self, seconds: float) -> None:
            if seconds > 0:
                raise KeyboardInterrupt

    limiter = RateLimiter(1, 1, 5, clock=Interrupted())
    limiter.acquire()
    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            limiter.acquire()
    assert limiter.get_status()["waiting"] == 0


def test_a_function_behind_the_limit(clock: FakeClock) -> None:
    """call() and the decorator wait for a turn before the function runs."""
    limiter = RateLimiter(2, 1, clock=clock)

    @limiter
    def ask(answer: str) -> str:
        """Asks."""
        return answer

    assert ask("one") == "one"
    assert limiter.call(ask.__wrapped__, "two") == "two"  # type: ignore[attr-defined]
    assert clock.monotonic() == 0.5
    assert ask.__doc__ == "Asks."


def test_functions_that_would_not_run_behind_it() -> None:
    """Coroutine and generator functions are refused when they are decorated."""
    limiter = RateLimiter(2)

    async def later() -> None:
        await asyncio.sleep(0)

    def piecemeal() -> Iterator[int]:
        yield 1

    for func, what in ((later, "is async"), (piecemeal, "generator"), (3, "must be a function")):
        with pytest.raises(TypeError, match=what):
            limiter(func)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=what):
            limiter.call(func)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"rate": 0}, ValueError, "rate=0"),
        ({"rate": -1}, ValueError, "rate=-1"),
        ({"rate": math.inf}, ValueError, "rate=inf"),
        ({"rate": math.nan}, ValueError, "rate=nan"),
        ({"rate": "9"}, TypeError, "rate='9'"),
        ({"rate": True}, TypeError, "rate=True"),
        ({"rate": 10**400}, ValueError, "rate=1000"),
        ({"rate": 5e-324}, ValueError, "rate=5e-324"),
        ({"rate": 1, "burst": 10**400}, ValueError, "burst=1000"),
        ({"rate": 1, "burst": 0}, ValueError, "burst=0"),
        ({"rate": 1, "burst": 1.5}, TypeError, "burst=1.5"),
        ({"rate": 1, "max_wait": -1}, ValueError, "max_wait=-1"),
    ],
)
@pytest.mark.parametrize("kind", [RateLimit, RateLimiter])
def test_bad_arguments(kind: Any, arguments: dict[str, Any], error: type[Exception], named: str) -> None:
    """Each is refused by name and value."""
    with pytest.raises(error, match=named):
        kind(**arguments)


@pytest.mark.parametrize("not_before", [-1.0, math.nan, math.inf])
def test_what_is_no_time_cannot_be_booked(clock: FakeClock, not_before: float) -> None:
    """It is refused by name, and the limiter goes on as before."""
    limiter = RateLimiter(1, 1, clock=clock)
    with pytest.raises(ValueError, match="not_before="):
        limiter.book(not_before=not_before)
    assert limiter.book().delay == 0.0


def test_a_limiter_has_a_name() -> None:
    """An empty one is refused; the repr shows it."""
    with pytest.raises(ValueError, match="name=''"):
        RateLimiter(1, name="")
    assert repr(RateLimiter(0.5, name="git")) == "<RateLimiter 'git' 0.5/s>"


def test_a_forked_child_keeps_tokens_and_no_bookings(clock: FakeClock) -> None:
    """What has been used is used for the child, too; those who wait are threads of the parent."""
    limiter = RateLimiter(1, 2, FOR_EVER, clock=clock)
    delays(limiter, 4)
    assert in_child(lambda: delays(limiter, 2)) == [1.0, 2.0]
    assert limiter.book().delay == 3.0


def test_a_forked_child_knows_of_the_last_token(clock: FakeClock) -> None:
    """Also of one that went in the moment of the fork; the child cannot give its parent's turns back."""
    limiter = RateLimiter(1, 1, FOR_EVER, clock=clock)
    booking = limiter.book()

    def work() -> list[float]:
        booking.cancel()
        return delays(limiter, 2)

    assert in_child(work) == [1.0, 2.0]


def test_sixty_four_threads_wait_in_line() -> None:
    """They leave at the rate, none too early, and each when it was told."""
    clock = FakeClock()
    limiter = RateLimiter(10, 4, FOR_EVER, clock=clock)
    left: list[float] = []

    def work(number: int) -> None:
        if number:
            limiter.acquire()
            left.append(clock.monotonic())
            return
        clock.wait_for_sleepers(59)
        for _ in range(60):
            clock.advance(0.1)

    clock.advance(1)
    together(64, work)
    assert len(left) == 63
    for moment in left:
        assert sum(other <= moment for other in left) <= 4 + 10 * (moment - 1.0) + 1e-6
    assert limiter.get_status()["waiting"] == 0


def test_sixty_four_threads_book_and_give_back(clock: FakeClock) -> None:
    """Whatever they give back, what they keep is within the limit, and nobody's turn is lost."""
    limiter = RateLimiter(10, 4, FOR_EVER, clock=clock)

    def work(number: int) -> list[Booking]:
        turns = [limiter.book(not_before=0.05 * (each % 3)) for each in range(6)]
        for turn in turns[number % 2 :: 2]:
            turn.cancel()
            turn.cancel()
        return turns[1 - number % 2 :: 2]

    moments = sorted(turn.at for turns in together(64, work) for turn in turns)
    assert len(moments) == 64 * 3
    assert limiter.get_status()["waiting"] == sum(moment > 0 for moment in moments)
    for first, last in itertools.combinations_with_replacement(range(len(moments)), 2):
        assert last - first + 1 <= 4 + 10 * (moments[last] - moments[first]) + 1e-6


def test_no_thread_is_refused_a_token_that_is_there() -> None:
    """On the machine's own clock, however threads hold each other up between looking at it and booking."""
    limiter = RateLimiter(1e5, 10**6, 0.0)
    together(64, lambda _: [limiter.book() for _ in range(50)])
    assert limiter.get_status()["rejected"] == 0


def test_sixty_four_threads_book_sixty_four_turns(clock: FakeClock) -> None:
    """Each turn is given once, however many ask for it at one moment."""
    limiter = RateLimiter(10, 4, FOR_EVER, clock=clock)
    booked = together(64, lambda _: limiter.book().delay)
    assert sorted(booked) == pytest.approx([0.0] * 4 + [number / 10 for number in range(1, 61)])


# -- whatever is booked, cancelled and waited for ---------------------------------------------------------

RATES = st.sampled_from([0.001, 0.5, 1.0, 3.0, 7.3, 1000.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.floats(0, 5)),
        st.tuples(st.just("book"), st.just(0.0)),
        st.tuples(st.just("book"), st.floats(0, 8)),
        st.tuples(st.just("cancel"), st.floats(0, 1, exclude_max=True)),
    ),
    max_size=40,
)


class Told:
    """What has been booked and neither cancelled nor refused, in the order of booking."""

    def __init__(self, rate: float, burst: int) -> None:
        self.clock = FakeClock()
        self.rate, self.burst = rate, burst
        self.limiter = RateLimiter(rate, burst, FOR_EVER, clock=self.clock)
        self.kept: list[tuple[Booking, float]] = []

    def play(self, steps: list[tuple[str, float]]) -> None:
        for what, number in steps:
            if what == "advance":
                self.clock.advance(number / self.rate)
            elif what == "book":
                not_before = number / self.rate
                booking = self.limiter.book(not_before=not_before)
                assert booking.delay >= not_before * (1 - 1e-9) - 1e-6
                self.kept.append((booking, not_before))
            elif ahead := [each for each in self.kept if each[0].at > self.clock.monotonic()]:
                gone = ahead[int(number * len(ahead))]
                gone[0].cancel()
                self.kept.remove(gone)


@settings(max_examples=60)
@given(RATES, st.integers(1, 4), STEPS)
def test_no_interval_holds_more_than_it_may(rate: float, burst: int, steps: list[tuple[str, float]]) -> None:
    """Between any two bookings there is the time that the rate asks for, less the burst."""
    told = Told(rate, burst)
    told.play(steps)
    moments = sorted(booking.at for booking, _ in told.kept)
    for first, last in itertools.combinations_with_replacement(range(len(moments)), 2):
        allowed = burst + rate * (moments[last] - moments[first])
        assert last - first + 1 <= allowed + 1e-6 * (1 + rate)


@settings(max_examples=40)
@given(RATES, st.integers(1, 4), STEPS)
def test_those_in_line_are_served_in_order(rate: float, burst: int, steps: list[tuple[str, float]]) -> None:
    """Whoever comes later and wants to go at once goes later."""
    told = Told(rate, burst)
    told.play(steps)
    moments = [booking.at for booking, not_before in told.kept if not_before == 0.0]
    assert moments == sorted(moments)


@settings(max_examples=60)
@given(st.integers(1, 3), st.lists(st.integers(0, 12), max_size=7), st.integers(0, 12))
def test_no_turn_is_later_than_it_must_be(burst: int, others: list[int], mine: int) -> None:
    """A token is booked for the first moment at which, by trying all, nobody would miss one."""
    limiter = RateLimiter(1.0, burst, FOR_EVER, clock=FakeClock(start=-1.0))  # so that 0 is later than now
    taken = [int(limiter.book(not_before=each + 1.0).at) for each in others]
    found = limiter.book(not_before=mine + 1.0).at

    def fits(moment: int) -> bool:
        level, before = float(burst), 0
        for each in sorted([*taken, moment]):
            level = min(level + each - before, burst) - 1
            before = each
            if level < 0:
                return False
        return True

    assert found == next(each for each in itertools.count(mine) if fits(each))
