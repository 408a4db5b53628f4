"""Calls that change nothing but a count: they wait for nobody, make no event, and are all counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.policies import local_breaker as breaker_module
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.circuit import Circuit
from service_utils.policies.local_breaker import LocalBreaker
from service_utils.policies.permit import OWN_REFERENCES
from service_utils.testing import FakeClock
from tests.one_stroke import interrupted
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    Ear,
    fail,
    half_open_breaker,
    make_breaker,
    open_breaker,
    succeed,
    totals,
)
from tests.side_by_side import in_thread, together


class TimelessClock(FakeClock):
    """Knows no time of day."""

    def now(self) -> datetime:
        raise AssertionError("nobody needs to know")


@pytest.fixture
def threads_switch_often() -> Iterator[None]:
    """So that a race that is there shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def refuse(ask: Callable[[], object]) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        ask()
    return caught.value


# -- no lock, no event, no time of day ----------------------------------------------------------------


def test_calls_that_go_well_wait_for_nobody(fake_clock: FakeClock) -> None:
    """While somebody is busy inside the breaker, calls begin and end well as if nobody were."""
    breaker = make_breaker(fake_clock)
    with breaker._lock:
        assert in_thread(lambda: succeed(breaker, 3))
    assert totals(breaker) == (3, 0, 0, 0)


def test_calls_that_go_well_in_a_full_window_wait_for_nobody(fake_clock: FakeClock) -> None:
    """Once the last window_size calls went well, the next that does changes nothing in the window either."""
    breaker = make_breaker(fake_clock, window_size=4)
    succeed(breaker, 4)
    with breaker._lock:
        assert in_thread(lambda: succeed(breaker, 3))
    assert totals(breaker) == (7, 0, 0, 0)
    assert breaker.get_stats()["window_calls"] == 4


@pytest.mark.parametrize("how", ["failures", "by hand"])
def test_refusals_wait_for_nobody(fake_clock: FakeClock, how: str) -> None:
    """While somebody is busy inside the breaker, an open circuit refuses as if nobody were."""
    breaker = open_breaker(fake_clock)
    if how == "by hand":
        breaker.force_open("maintenance")

    def ask() -> None:
        for method in (breaker.acquire, breaker.check):
            with pytest.raises(CircuitOpenError):
                method()
        assert breaker.refused() is not None

    with breaker._lock:
        assert in_thread(ask)
    assert totals(breaker)[3] == 3


def test_a_disabled_breaker_waits_for_nobody(fake_clock: FakeClock) -> None:
    """What lets everything pass costs as little as a closed circuit."""
    breaker = make_breaker(fake_clock)
    breaker.disable("experiment")
    with breaker._lock:
        assert in_thread(lambda: succeed(breaker, 2))
    assert totals(breaker) == (2, 0, 0, 0)


def test_nothing_is_told_and_no_time_of_day_taken() -> None:
    """Only who reads the statistics asks for the time of day, and only changes and refusals are told."""
    ear = Ear()
    clock = TimelessClock()
    breaker = make_breaker(clock, listeners=[ear])
    succeed(breaker, 5)
    assert ear.events == []
    fail(breaker, THRESHOLD)
    clock.advance(RECOVERY)
    succeed(breaker)
    assert [to for _, to, _ in ear.changes] == ["open", "half_open", "closed"]
    with pytest.raises(AssertionError, match="nobody needs to know"):
        breaker.get_stats()


def test_success_after_failures_makes_them_good(fake_clock: FakeClock) -> None:
    """A success in between begins the count of failures anew, however many successes went before."""
    breaker = make_breaker(fake_clock)
    succeed(breaker, 5)
    for _ in range(3):
        fail(breaker, THRESHOLD - 1)
        succeed(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker, THRESHOLD)
    assert breaker.state == "open"
    assert totals(breaker) == (11, 3 * (THRESHOLD - 1) + THRESHOLD, 0, 0)


# -- what is no permit --------------------------------------------------------------------------------


@pytest.mark.parametrize("permit", [None, 5, object(), "permit"])
@pytest.mark.parametrize("outcome", list(Outcome))
def test_something_that_is_no_permit(fake_clock: FakeClock, permit: Any, outcome: Outcome) -> None:
    """Whatever the result, what is given back must be a permit."""
    breaker = make_breaker(fake_clock)
    with pytest.raises(TypeError, match="permit="):
        breaker.record(permit, outcome)
    assert totals(breaker) == (0, 0, 0, 0)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_retry_after_that_is_no_number(fake_clock: FakeClock, outcome: Outcome) -> None:
    """Whatever the result, a Retry-After must be a number; the permit is still its owner's."""
    breaker = make_breaker(fake_clock)
    permit = breaker.acquire()
    wrong: Any = "soon"
    with pytest.raises(TypeError, match="retry_after='soon'"):
        breaker.record(permit, outcome, retry_after=wrong)
    breaker.record(permit, Outcome.SUCCESS, retry_after=5)
    assert totals(breaker) == (1, 0, 0, 0)


# -- permits that are used again ------------------------------------------------------------------------


def test_permits_that_are_out_are_different(fake_clock: FakeClock) -> None:
    """No two calls under way have the same permit, and each counts by itself."""
    breaker = make_breaker(fake_clock, failure_threshold=100)
    permits = [breaker.acquire() for _ in range(50)]
    assert len(set(permits)) == 50
    for permit in permits:
        breaker.record(permit, Outcome.FAILURE)
    assert totals(breaker) == (0, 50, 0, 0)


@pytest.mark.parametrize("given_back", [True, False])
def test_a_permit_somebody_still_has_is_not_given_to_others(fake_clock: FakeClock, given_back: bool) -> None:
    """Whoever keeps a permit, given back or not, keeps it for himself; what he does with it harms nobody."""
    breaker = make_breaker(fake_clock)
    kept = breaker.acquire()
    if given_back:
        breaker.record(kept, Outcome.SUCCESS)
    others = [breaker.acquire() for _ in range(4)]
    assert kept not in others

    breaker.record(kept, Outcome.SUCCESS)
    breaker.record(kept, Outcome.FAILURE)
    succeed(breaker, 4)
    assert kept not in others
    assert totals(breaker) == (5, 0, 0, 0)


@pytest.mark.skipif(not OWN_REFERENCES, reason="this Python cannot tell who has a permit")
@pytest.mark.parametrize("pattern", ["nested", "variable"])
def test_a_permit_nobody_has_any_more_is_used_again(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """One call after the other makes no new permits."""
    breaker = make_breaker(fake_clock)
    monkeypatch.delattr(breaker_module, "Permit")
    for _ in range(10):
        if pattern == "nested":
            breaker.record(breaker.acquire(), Outcome.SUCCESS)
        else:
            permit = breaker.acquire()
            breaker.record(permit, Outcome.SUCCESS)
    assert totals(breaker) == (10, 0, 0, 0)


def test_forgotten_permits_do_no_harm(fake_clock: FakeClock) -> None:
    """A permit that is dropped and never given back keeps nothing from those after it."""
    breaker = make_breaker(fake_clock)
    for _ in range(5):
        breaker.acquire()
    succeed(breaker, 5)
    fail(breaker, 2)
    assert totals(breaker) == (5, 2, 0, 0)


# -- threads ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("threads_switch_often")
def test_every_success_is_counted() -> None:
    """Sixteen threads that count without a lock lose nothing."""
    breaker = CircuitBreaker("b")
    together(16, lambda _: succeed(breaker, 2000))
    assert totals(breaker) == (32000, 0, 0, 0)


@pytest.mark.usefixtures("threads_switch_often")
def test_every_refusal_is_counted() -> None:
    """Sixteen threads that are refused without a lock are all counted."""
    breaker = CircuitBreaker("b", failure_threshold=1)
    fail(breaker)
    together(16, lambda _: [breaker.refused() for _ in range(2000)])
    assert totals(breaker)[3] == 32000


@pytest.mark.usefixtures("threads_switch_often")
@pytest.mark.parametrize("outcomes", [(Outcome.SUCCESS,), (Outcome.SUCCESS, Outcome.IGNORED), tuple(Outcome)])
@pytest.mark.parametrize("round_", range(5))
def test_one_permit_given_back_at_one_moment(outcomes: tuple[Outcome, ...], round_: int) -> None:
    """Of many threads that give back the same permit one is heard, with whichever result."""
    breaker = CircuitBreaker("b", failure_threshold=10**9)
    permits = [breaker.acquire() for _ in range(1000)]

    def work(index: int) -> None:
        for permit in permits:
            breaker.record(permit, outcomes[index % len(outcomes)])

    together(6, work)
    assert sum(totals(breaker)) == 1000


@pytest.mark.usefixtures("threads_switch_often")
def test_no_two_threads_have_the_same_permit() -> None:
    """Permits that are used again are never with two threads at once."""
    breaker = CircuitBreaker("b", failure_threshold=10**9)
    owners: dict[int, int] = {}

    def work(index: int) -> None:
        for turn in range(1500):
            permit = breaker.acquire()
            assert owners.setdefault(id(permit), index) == index
            for _ in range(turn % 3):
                assert permit.generation == 0  # a call, at which others may go first
            assert owners.pop(id(permit)) == index
            breaker.record(permit, Outcome.SUCCESS if turn % 5 else Outcome.FAILURE)
            del permit

    together(8, work)
    assert totals(breaker) == (8 * 1200, 8 * 300, 0, 0)


@pytest.mark.usefixtures("threads_switch_often")
def test_successes_while_the_circuit_changes() -> None:
    """Whatever the circuit does meanwhile, each success that has a valid permit counts once."""
    breaker = CircuitBreaker("b", failure_threshold=2, recovery_timeout=0)

    def work(index: int) -> int:
        if index == 0:
            for _ in range(200):
                breaker.force_open("story")
                breaker.reset()
            return 0
        permits = 0
        for _ in range(1500):
            try:
                permit = breaker.acquire()
            except CircuitOpenError:
                continue
            permits += 1
            breaker.record(permit, Outcome.SUCCESS)
            breaker.record(permit, Outcome.SUCCESS)
        return permits

    permits = sum(together(5, work))
    succeeded, failed, ignored, rejected = totals(breaker)
    assert succeeded <= permits
    assert (failed, ignored, rejected) == (0, 0, 4 * 1500 - permits)


# -- the time of the last success -----------------------------------------------------------------------


def last_success(breaker: CircuitBreaker) -> float:
    """Seconds since the start of a FakeClock of 2024."""
    text: str = breaker.get_stats()["last_success"]
    return (
        datetime.fromisoformat(text) - datetime.fromisoformat("2024-01-01T00:00:00+00:00")
    ).total_seconds()


@pytest.mark.parametrize("seconds", [0.0, 0.0001, 1.0])
@pytest.mark.parametrize("steps", range(1, 20))
def test_every_success_is_timed(fake_clock: FakeClock, seconds: float, steps: int) -> None:
    """last_success is the time of the very last one, also where several come at one moment."""
    breaker = make_breaker(fake_clock)
    for _ in range(steps):
        fake_clock.advance(seconds)
        succeed(breaker, 3)
    assert last_success(breaker) == pytest.approx(steps * seconds, abs=1e-6)


def test_successes_within_microseconds_are_timed_now_and_then(fake_clock: FakeClock) -> None:
    """Of a hundred thousand successes a second and more, the last one that was timed is not far behind."""
    breaker = make_breaker(fake_clock)
    for _ in range(1000):
        succeed(breaker)
        fake_clock.advance(2e-6)
    assert 0.002 - 17 * 2e-6 <= last_success(breaker) <= 0.002

    fake_clock.advance(60)  # those who read the statistics see the next one on time
    succeed(breaker)
    assert last_success(breaker) == pytest.approx(60.002, abs=1e-6)


def test_times_of_successes_on_both_ways(fake_clock: FakeClock) -> None:
    """A success that closes the circuit is the last one until another goes well."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.record(probe, Outcome.SUCCESS)
    assert last_success(breaker) == RECOVERY
    fake_clock.advance(5)
    succeed(breaker)
    assert last_success(breaker) == RECOVERY + 5


def test_a_time_that_is_shown_stays(fake_clock: FakeClock) -> None:
    """A moment has the same time of day whenever it is shown, and moves only when the wall clock is set."""
    breaker = open_breaker(fake_clock)
    shown = []
    for _ in range(3):
        fake_clock.advance(0.1)
        shown.append(breaker.get_stats()["last_failure"])
    assert len(set(shown)) == 1

    fake_clock.set_now(fake_clock.now().replace(year=2001))
    assert breaker.get_stats()["last_failure"].startswith("2001-01-01T00:00:00")


# -- refused(), for those who make errors of their own ---------------------------------------------------


def test_refused_by_no_circuit_that_may_be_tried(fake_clock: FakeClock) -> None:
    """Where acquire() would give a permit, nothing is refused, counted or changed."""
    closed, tried = make_breaker(fake_clock), open_breaker(fake_clock)
    half_open, probe = half_open_breaker(fake_clock)
    half_open.release(probe)
    assert tried.state == "open"
    for breaker in (closed, tried, half_open):
        before = breaker.get_stats()
        assert breaker.refused() is None
        assert breaker.get_stats() == before


def test_refused_says_why(fake_clock: FakeClock) -> None:
    """A refusal names state and seconds left, is counted and told, and makes the error of acquire()."""
    ear = Ear()
    half_open, _ = half_open_breaker(fake_clock, listeners=[ear])
    forced = make_breaker(fake_clock, listeners=[ear])
    forced.force_open("maintenance")
    opened = open_breaker(fake_clock, listeners=[ear])
    fake_clock.advance(4)

    for breaker, refusal in (
        (opened, ("open", RECOVERY - 4)),
        (forced, ("forced_open", 0.0)),
        (half_open, ("half_open", 0.0)),
    ):
        refused = breaker.refused()
        assert refused == refusal
        assert refused is not None
        told = ear.rejections[-1]
        assert (told.state, told.cooldown_remaining, told.at) == (*refusal, fake_clock.monotonic())
        ours, theirs = breaker.error_for(refused), refuse(breaker.acquire)
        assert (str(ours), vars(ours)) == (str(theirs), vars(theirs))
        assert totals(breaker)[3] == 2


# -- at one stroke ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "first", "last"),
    [
        (CircuitBreaker.record, "_calm", "_succeeded"),
        (LocalBreaker._lay_out_locked, "_passing", "_shut"),
        (CircuitBreaker._refuse, "_rejected", "_rejected"),
        (Circuit.give_back, "spell", "over"),
    ],
)
def test_no_other_thread_comes_between(function: Callable[..., Any], first: str, last: str) -> None:
    """What relies on being done at one stroke has no place in it where CPython lets others go first."""
    assert interrupted(function, first, last) == []


def test_places_where_others_come_between_are_found() -> None:
    """The test above knows a call when there is one."""
    assert interrupted(CircuitBreaker.acquire, "_passing", "spell") != []
