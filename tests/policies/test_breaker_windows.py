"""A circuit that is judged by a window: by the shares of failures and slow calls among the last calls."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.policies.circuits import (
    RECOVERY,
    Ear,
    cooldown,
    fail,
    ignore,
    make_breaker,
    succeed,
    totals,
)


def last(breaker: CircuitBreaker) -> tuple[int, int, float | None, float | None]:
    """Calls and failures in the window, and the shares."""
    stats = breaker.get_stats()
    return stats["window_calls"], stats["failure_count"], stats["failure_rate"], stats["slow_call_rate"]


def slow(
    breaker: CircuitBreaker, times: int = 1, outcome: Outcome = Outcome.SUCCESS, seconds: float = 2.0
) -> None:
    for _ in range(times):
        breaker.record(breaker.acquire(), outcome, seconds)


WINDOWS = [{"window_size": 20}, {"window_seconds": 30}]
each_window = pytest.mark.parametrize("window", WINDOWS, ids=["calls", "seconds"])


# -- failures ----------------------------------------------------------------------------------------


@each_window
def test_share_that_reaches_the_threshold(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """The circuit opens when the share of failures is as high as the threshold, and not before."""
    ear = Ear()
    breaker = make_breaker(fake_clock, **window, failure_rate_threshold=0.6, listeners=[ear])
    succeed(breaker, 6)
    fail(breaker, 8)
    assert (breaker.state, last(breaker)) == ("closed", (14, 8, 8 / 14, None))
    fail(breaker)
    assert breaker.state == "open"
    assert ear.changes == [("closed", "open", "failure rate 60% >= 60%")]
    assert cooldown(breaker) == RECOVERY


@each_window
def test_failures_in_a_row_do_not_matter(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """With a window failure_threshold is not looked at."""
    breaker = make_breaker(fake_clock, **window, failure_threshold=1)
    succeed(breaker, 10)
    fail(breaker, 9)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"


@each_window
def test_too_few_calls_to_tell(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """Before minimum_requests calls are in the window no share opens the circuit."""
    breaker = make_breaker(fake_clock, **window, minimum_requests=4)
    fail(breaker, 3)
    assert (breaker.state, last(breaker)) == ("closed", (3, 3, 1.0, None))
    fail(breaker)
    assert breaker.state == "open"


@each_window
def test_success_that_makes_the_calls_enough(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """Each result is followed by a look at the window, so that a success can be the one that opens."""
    ear = Ear()
    breaker = make_breaker(fake_clock, **window, minimum_requests=4, listeners=[ear])
    fail(breaker, 3)
    breaker.record(breaker.acquire(), Outcome.SUCCESS, retry_after=50)
    assert ear.changes == [("closed", "open", "failure rate 75% >= 50%")]
    assert cooldown(breaker) == RECOVERY


def test_retry_after_of_the_failure_that_opens(fake_clock: FakeClock) -> None:
    """A Retry-After on the failure that opens the circuit lengthens its open time, one before it does not."""
    breaker = make_breaker(fake_clock, window_size=4)
    fail(breaker, 3, retry_after=50)
    fail(breaker, retry_after=40)
    assert cooldown(breaker) == 40


def test_ignored_results_are_in_no_window(fake_clock: FakeClock) -> None:
    """Ignored results do not fill the window, nor thin out the failures in it."""
    breaker = make_breaker(fake_clock, window_size=4)
    ignore(breaker, 9)
    fail(breaker, 3)
    ignore(breaker, 9)
    assert last(breaker) == (3, 3, 1.0, None)


def test_small_window_without_a_minimum(fake_clock: FakeClock) -> None:
    """A window smaller than the default of minimum_requests decides as soon as it is full."""
    breaker = make_breaker(fake_clock, window_size=3)
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"


def test_old_calls_are_pushed_out(fake_clock: FakeClock) -> None:
    """Of the calls that count only the last window_size are remembered."""
    breaker = make_breaker(fake_clock, window_size=10, failure_rate_threshold=0.3)
    fail(breaker, 2)
    succeed(breaker, 8)
    assert last(breaker) == (10, 2, 0.2, None)
    succeed(breaker)
    assert last(breaker) == (10, 1, 0.1, None)
    fail(breaker)
    assert last(breaker) == (10, 1, 0.1, None)
    fail(breaker, 2)
    assert breaker.state == "open"


def test_full_of_successes_and_then_failures(fake_clock: FakeClock) -> None:
    """However many successes went before, as many failures as the threshold asks for open the circuit."""
    breaker = make_breaker(fake_clock, window_size=10)
    succeed(breaker, 1000)
    fail(breaker, 4)
    succeed(breaker, 3)
    assert last(breaker) == (10, 4, 0.4, None)
    fail(breaker)
    assert breaker.state == "open"
    assert totals(breaker) == (1003, 5, 0, 0)


def test_full_of_successes_again(fake_clock: FakeClock) -> None:
    """A window that failures have left takes the next ones as it took the first."""
    breaker = make_breaker(fake_clock, window_size=4, failure_rate_threshold=0.75)
    for _ in range(3):
        fail(breaker, 2)
        assert last(breaker) == (min(4, last(breaker)[0]), 2, 2 / last(breaker)[0], None)
        succeed(breaker, 9)
        assert last(breaker) == (4, 0, 0.0, None)


def test_old_calls_run_out(fake_clock: FakeClock) -> None:
    """Of the calls that count only those of the last window_seconds are remembered."""
    breaker = make_breaker(fake_clock, window_seconds=64, minimum_requests=4)
    fail(breaker, 3)
    fake_clock.advance(63)
    assert last(breaker) == (3, 3, 1.0, None)
    fake_clock.advance(1)
    assert last(breaker) == (0, 0, None, None)
    fail(breaker, 3)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"


def test_time_alone_opens_nothing(fake_clock: FakeClock) -> None:
    """When successes grow too old the share rises, but it takes a result to open the circuit."""
    breaker = make_breaker(fake_clock, window_seconds=64, minimum_requests=2)
    succeed(breaker, 3)
    fake_clock.advance(32)
    fail(breaker, 2)
    fake_clock.advance(32)
    assert (breaker.state, last(breaker)) == ("closed", (2, 2, 1.0, None))
    succeed(breaker)
    assert breaker.state == "open"


@pytest.mark.parametrize(
    ("threshold", "said"),
    [(0.5, "50%"), (1 / 3, "33.3%"), (0.0125, "1.25%"), (1, "100%"), (0.9999, "100%")],
)
def test_shares_in_words(fake_clock: FakeClock, threshold: float, said: str) -> None:
    """Shares are told in percent, with up to three digits."""
    ear = Ear()
    breaker = make_breaker(fake_clock, window_size=2, failure_rate_threshold=threshold, listeners=[ear])
    fail(breaker, 2)
    assert ear.changes[0][2] == f"failure rate 100% >= {said}"


@pytest.mark.parametrize("tenths", range(1, 11))
def test_no_share_is_lost_to_rounding(fake_clock: FakeClock, tenths: int) -> None:
    """So many failed calls of ten are as high a share as so many tenths."""
    breaker = make_breaker(fake_clock, window_size=10, failure_rate_threshold=float(f"{tenths / 10:.1f}"))
    succeed(breaker, 10 - tenths)
    fail(breaker, tenths)
    assert breaker.state == "open"


# -- slow calls --------------------------------------------------------------------------------------


@each_window
def test_slow_calls_open(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """Calls that succeed too slowly open the circuit when their share reaches its threshold."""
    ear = Ear()
    breaker = make_breaker(
        fake_clock, **window, slow_call_seconds=2, slow_call_rate_threshold=0.8, listeners=[ear]
    )
    slow(breaker, 2, seconds=1.999)
    slow(breaker, 7)
    assert (breaker.state, last(breaker)) == ("closed", (9, 0, 0.0, 7 / 9))
    slow(breaker)
    assert ear.changes == [("closed", "open", "slow-call rate 80% >= 80%")]


def test_by_default_all_calls_must_be_slow(fake_clock: FakeClock) -> None:
    """Unless another share is given, one quick call in the window keeps the circuit closed."""
    breaker = make_breaker(fake_clock, window_size=4, slow_call_seconds=2)
    slow(breaker, seconds=0.1)
    slow(breaker, 3)
    assert breaker.state == "closed"
    slow(breaker)
    assert breaker.state == "open"


def test_slow_failures_are_both(fake_clock: FakeClock) -> None:
    """A call that fails slowly counts as failed and as slow."""
    breaker = make_breaker(fake_clock, window_size=4, slow_call_seconds=2, slow_call_rate_threshold=0.75)
    slow(breaker, 1, Outcome.FAILURE)
    slow(breaker, 1)
    assert last(breaker) == (2, 1, 0.5, 1.0)
    slow(breaker, 1, seconds=0)
    slow(breaker, 1)
    assert breaker.get_stats()["reason"] == "slow-call rate 75% >= 75%"


def test_too_many_failures_are_named_first(fake_clock: FakeClock) -> None:
    """When failures and slow calls are both too many, the reason tells of the failures."""
    breaker = make_breaker(fake_clock, window_size=2, slow_call_seconds=2)
    slow(breaker, 2, Outcome.FAILURE)
    assert breaker.get_stats()["reason"] == "failure rate 100% >= 50%"


def test_quick_successes_in_a_full_window_are_seen_to_be_quick(fake_clock: FakeClock) -> None:
    """After any number of quick calls slow ones are counted, every one."""
    breaker = make_breaker(fake_clock, window_size=5, slow_call_seconds=2, slow_call_rate_threshold=0.6)
    slow(breaker, 50, seconds=0.1)
    slow(breaker, 2)
    assert last(breaker) == (5, 0, 0.0, 0.4)
    slow(breaker)
    assert breaker.state == "open"


def test_time_of_guarded_code(fake_clock: FakeClock) -> None:
    """call(), the decorator and with measure how long the code took."""
    breaker = make_breaker(fake_clock, window_size=20, slow_call_seconds=2)
    breaker.call(fake_clock.advance, 2)
    breaker(fake_clock.advance)(1.5)
    with breaker:
        fake_clock.advance(3)
    assert last(breaker) == (3, 0, 0.0, 2 / 3)


@pytest.mark.parametrize("duration", ["2", None, True])
def test_durations_are_numbers(fake_clock: FakeClock, duration: Any) -> None:
    """A duration that is no number is refused, wherever it would have mattered."""
    breaker = make_breaker(fake_clock, window_size=20, slow_call_seconds=2)
    with pytest.raises(TypeError, match=f"duration={duration!r}"):
        breaker.record(breaker.acquire(), Outcome.SUCCESS, duration)
    breaker.record(breaker.acquire(), Outcome.SUCCESS, 2)
    assert last(breaker) == (1, 0, 0.0, 1.0)


# -- what becomes of the window ----------------------------------------------------------------------


@each_window
def test_empty_after_a_recovery(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """A circuit that has recovered begins with an empty window: old failures do not open it again."""
    breaker = make_breaker(fake_clock, **window)
    fail(breaker, 10)
    fake_clock.advance(RECOVERY)
    succeed(breaker)
    assert (breaker.state, last(breaker)) == ("closed", (0, 0, None, None))
    fail(breaker, 9)
    assert breaker.state == "closed"


@each_window
def test_kept_while_open(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """While the circuit is open one can see what opened it; what probes tell is not mixed into that."""
    breaker = make_breaker(fake_clock, **window)
    succeed(breaker, 4)
    fail(breaker, 6)
    assert last(breaker) == (10, 6, 0.6, None)
    fake_clock.advance(RECOVERY)
    fail(breaker)
    assert (breaker.state, last(breaker)) == ("open", (10, 6, 0.6, None))


@each_window
def test_empty_after_a_reset(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """reset() forgets what is in the window, and calls under way do not get into the new one."""
    breaker = make_breaker(fake_clock, **window)
    fail(breaker, 5)
    under_way = breaker.acquire()
    breaker.reset()
    breaker.record(under_way, Outcome.FAILURE)
    assert last(breaker) == (0, 0, None, None)


@each_window
def test_late_results_are_not_in_the_window(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """Calls that end after the circuit has opened change nothing."""
    breaker = make_breaker(fake_clock, **window, minimum_requests=4)
    late = [breaker.acquire() for _ in range(5)]
    fail(breaker, 4)
    for permit in late:
        breaker.record(permit, Outcome.SUCCESS)
    assert last(breaker) == (4, 4, 1.0, None)


@each_window
def test_disabled_circuits_count(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """A disabled circuit shows the shares, but never opens; closed again it begins with an empty window."""
    breaker = make_breaker(fake_clock, **window)
    breaker.disable("maintenance")
    fail(breaker, 15)
    succeed(breaker, 5)
    assert (breaker.state, last(breaker)) == ("disabled", (20, 15, 0.75, None))
    breaker.reset()
    fail(breaker, 9)
    assert breaker.state == "closed"


@each_window
def test_window_in_a_forked_child(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """The failures that have brought a circuit near to opening are part of the state that a child keeps."""
    breaker = make_breaker(fake_clock, **window)
    fail(breaker, 9)

    def child() -> tuple[Any, ...]:
        seen = last(breaker)
        fail(breaker)
        return *seen, breaker.state

    assert in_child(child) == (9, 9, 1.0, None, "open")
    assert (breaker.state, last(breaker)) == ("closed", (9, 9, 1.0, None))


def test_without_a_window(fake_clock: FakeClock) -> None:
    """Without a window there are no shares to show, also where slow calls are judged in a quota."""
    breaker = make_breaker(fake_clock, half_open_quota=3, slow_call_seconds=2)
    slow(breaker)
    fail(breaker, 2)
    assert last(breaker) == (0, 2, None, None)
