"""Half-open by quota: a number of probes is waited for, and their shares close or open the circuit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.policies.breaker import CircuitBreaker, Permit
from service_utils.policies.rates import Rates
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    Ear,
    cooldown,
    fail,
    half_open_breaker,
    ignore,
    open_breaker,
    succeed,
    totals,
    try_acquire,
)


def on_trial(clock: FakeClock, quota: int, **options: Any) -> CircuitBreaker:
    """Open, and just about to be tried."""
    breaker = open_breaker(clock, half_open_quota=quota, **options)
    clock.advance(cooldown(breaker))
    return breaker


def places(breaker: CircuitBreaker) -> int:
    """How many probes may begin now; they are given back."""
    permits = list(iter(lambda: try_acquire(breaker), None))
    for permit in permits:
        breaker.release(permit)
    return len(permits)


# -- the verdict -------------------------------------------------------------------------------------


def test_enough_successes_close(fake_clock: FakeClock) -> None:
    """The circuit closes with the last result of the quota, if fewer failed than the threshold says."""
    ear = Ear()
    breaker = on_trial(fake_clock, 5, listeners=[ear])
    fail(breaker, 2)
    succeed(breaker, 2)
    assert breaker.state == "half_open"
    succeed(breaker)
    assert ear.changes[-1] == ("half_open", "closed", "service recovered")
    assert breaker.get_stats()["failure_count"] == 0


def test_a_failure_may_be_the_result_that_closes(fake_clock: FakeClock) -> None:
    """What the last result of the quota is does not matter: the share decides."""
    breaker = on_trial(fake_clock, 5)
    succeed(breaker, 4)
    fail(breaker, retry_after=30)
    assert breaker.state == "closed"


def test_too_many_failures_open(fake_clock: FakeClock) -> None:
    """The circuit opens with the last result of the quota, if the share of failures reaches its threshold."""
    ear = Ear()
    breaker = on_trial(fake_clock, 5, failure_rate_threshold=0.6, listeners=[ear])
    fail(breaker, 3)
    succeed(breaker)
    assert breaker.state == "half_open"
    succeed(breaker)
    assert ear.changes[-1] == ("half_open", "open", "recovery probe failed: failure rate 60% >= 60%")
    assert cooldown(breaker) == RECOVERY


def test_too_many_slow_probes_open(fake_clock: FakeClock) -> None:
    """Probes that succeed, but slowly, open the circuit when their share reaches its threshold."""
    ear = Ear()
    options: dict[str, Any] = {"slow_call_seconds": 2, "slow_call_rate_threshold": 0.5}
    breaker = on_trial(fake_clock, 4, listeners=[ear], **options)
    for seconds in (2, 0.5, 3, 1.999):
        breaker.record(breaker.acquire(), Outcome.SUCCESS, seconds)
    assert ear.changes[-1] == ("half_open", "open", "recovery probe failed: slow-call rate 50% >= 50%")


def test_without_a_quota_slow_probes_are_as_good_as_others(fake_clock: FakeClock) -> None:
    """A probe that succeeds closes the circuit, however slow it was, unless there is a quota."""
    breaker = open_breaker(fake_clock, window_size=3, slow_call_seconds=2)
    fake_clock.advance(RECOVERY)
    breaker.record(breaker.acquire(), Outcome.SUCCESS, 100)
    assert breaker.state == "closed"


def test_each_trial_begins_anew(fake_clock: FakeClock) -> None:
    """The results of one half-open spell do not count in the next."""
    breaker = on_trial(fake_clock, 4)
    fail(breaker, 4)
    fake_clock.advance(RECOVERY)
    succeed(breaker, 3)
    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


def test_quota_beside_a_window(fake_clock: FakeClock) -> None:
    """Results of the quota do not get into the window, nor those of the window into the quota."""
    breaker = on_trial(fake_clock, 4, window_size=3)
    assert breaker.get_stats()["window_calls"] == 3
    succeed(breaker, 3)
    assert (breaker.state, breaker.get_stats()["window_calls"]) == ("half_open", 3)
    succeed(breaker)
    assert (breaker.state, breaker.get_stats()["window_calls"]) == ("closed", 0)


# -- places ------------------------------------------------------------------------------------------


def test_probes_at_once(fake_clock: FakeClock) -> None:
    """However large the quota is, no more than half_open_max_calls probes are under way at once."""
    breaker = on_trial(fake_clock, 10, half_open_max_calls=3)
    assert places(breaker) == 3
    succeed(breaker, 4)
    assert places(breaker) == 3


def test_no_more_probes_than_results_are_missing(fake_clock: FakeClock) -> None:
    """Of results and probes under way together there are never more than the quota."""
    breaker = on_trial(fake_clock, 5, half_open_max_calls=3)
    succeed(breaker, 3)
    assert places(breaker) == 2
    first = breaker.acquire()
    second = breaker.acquire()
    for refusing in (breaker.acquire, breaker.check):
        with pytest.raises(CircuitOpenError, match="half open"):
            refusing()
    assert breaker.refused() == ("half_open", 0.0)
    assert breaker.retry_after() == 0.0
    breaker.record(first, Outcome.SUCCESS)
    assert try_acquire(breaker) is None
    breaker.record(second, Outcome.SUCCESS)
    assert breaker.state == "closed"


def test_more_places_than_the_quota(fake_clock: FakeClock) -> None:
    """A quota smaller than half_open_max_calls is all that is let through."""
    assert places(on_trial(fake_clock, 2, half_open_max_calls=9)) == 2


# -- what becomes of a probe -------------------------------------------------------------------------


def test_ignored_probes_count_for_nothing(fake_clock: FakeClock) -> None:
    """Ignored probes are no results: others take their places until the quota is complete."""
    breaker = on_trial(fake_clock, 2)
    ignore(breaker, 7)
    succeed(breaker)
    ignore(breaker, 7)
    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"
    assert totals(breaker) == (2, THRESHOLD, 14, 0)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupted_probes_count_for_nothing(fake_clock: FakeClock, interrupt: type[BaseException]) -> None:
    """A probe that is interrupted gives its place back, and is no result."""

    def guarded() -> None:
        raise interrupt

    breaker = on_trial(fake_clock, 2)
    for _ in range(3):
        with pytest.raises(interrupt):
            breaker.call(guarded)
    assert (breaker.state, places(breaker)) == ("half_open", 1)
    succeed(breaker, 2)
    assert breaker.state == "closed"


def test_expired_probe_is_one_failed_result(fake_clock: FakeClock) -> None:
    """A probe that does not report in time is one failure of the quota, and its later word is void."""
    breaker = on_trial(fake_clock, 4, half_open_timeout=4)
    silent = breaker.acquire()
    fake_clock.advance(4)
    breaker.record(silent, Outcome.SUCCESS)
    assert (breaker.state, totals(breaker)) == ("half_open", (0, THRESHOLD + 1, 0, 0))
    assert breaker.get_stats()["last_error"] == "a probe did not report within 4 s"
    breaker.record(silent, Outcome.FAILURE)
    succeed(breaker, 3)
    assert breaker.state == "closed"


def test_expired_probe_frees_its_place(fake_clock: FakeClock) -> None:
    """Where a probe was under way that has expired another one may begin, also before anybody noticed."""
    breaker = on_trial(fake_clock, 4, half_open_timeout=4, half_open_max_calls=2)
    breaker.acquire()
    fake_clock.advance(3)
    breaker.acquire()
    assert breaker.refused() is not None
    fake_clock.advance(1)
    assert breaker.refused() is None
    assert breaker.acquire().half_open
    assert breaker.refused() is not None


def test_expired_probes_still_take_up_the_quota(fake_clock: FakeClock) -> None:
    """An expired probe is a result, noticed or not: no more begin than results are missing then."""
    breaker = on_trial(fake_clock, 2, half_open_timeout=4, half_open_max_calls=2)
    breaker.acquire()
    fake_clock.advance(1)
    breaker.acquire()
    fake_clock.advance(3)
    assert breaker.refused() == ("half_open", 0.0)
    assert try_acquire(breaker) is None
    assert breaker.get_stats()["half_open_in_use"] == 1


def test_expired_probe_that_completes_the_quota_opens_as_of_its_end(fake_clock: FakeClock) -> None:
    """When the last result missing is an expired probe, the open time counts from the end of its time."""
    ear = Ear()
    breaker = on_trial(fake_clock, 2, half_open_timeout=4, listeners=[ear])
    fail(breaker)
    breaker.acquire()
    fake_clock.advance(4 + 3)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.cooldown_remaining == RECOVERY - 3
    assert ear.changes[-1] == ("half_open", "open", "recovery probe failed: failure rate 100% >= 50%")


def test_expired_probe_that_completes_the_quota_closes(fake_clock: FakeClock) -> None:
    """When the shares are good enough in spite of an expired last probe, the circuit closes."""
    breaker = on_trial(fake_clock, 4, half_open_timeout=4)
    succeed(breaker, 3)
    silent = breaker.acquire()
    fake_clock.advance(100)
    assert breaker.refused() is None
    assert not breaker.acquire().half_open
    breaker.record(silent, Outcome.FAILURE)
    assert (breaker.state, breaker.get_stats()["failure_count"]) == ("closed", 0)
    assert totals(breaker) == (3, THRESHOLD + 1, 0, 0)


def test_all_probes_expired_and_the_open_time_over(fake_clock: FakeClock) -> None:
    """When all probes have been silent for long, the next call is the first probe of a new quota."""
    breaker = on_trial(fake_clock, 2, half_open_timeout=4, half_open_max_calls=2)
    silent = [breaker.acquire(), breaker.acquire()]
    fake_clock.advance(4 + RECOVERY)
    assert breaker.acquire().half_open
    assert breaker.get_stats()["opened_count"] == 2
    for permit in silent:
        breaker.record(permit, Outcome.SUCCESS)
    assert totals(breaker) == (0, THRESHOLD + 2, 0, 0)


def test_results_before_an_expiry_count_before_it(fake_clock: FakeClock) -> None:
    """Several expired probes are counted in the order in which their times ended."""
    breaker = on_trial(fake_clock, 3, half_open_timeout=4, half_open_max_calls=3)
    for _ in range(3):
        breaker.acquire()
        fake_clock.advance(1)
    fake_clock.advance(4)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.cooldown_remaining == RECOVERY - 1
    assert totals(breaker)[1] == THRESHOLD + 3


@pytest.mark.parametrize(("probe_time", "state"), [(3, "open"), (1.5, "closed")])
def test_expired_probes_are_as_slow_as_their_time_was_long(
    fake_clock: FakeClock, probe_time: float, state: str
) -> None:
    """An expired probe is a slow one, too, if the time it had was that of a slow call."""
    options: dict[str, Any] = {
        "failure_rate_threshold": 0.9,
        "slow_call_seconds": 2,
        "slow_call_rate_threshold": 0.5,
    }
    breaker = on_trial(fake_clock, 2, half_open_timeout=probe_time, **options)
    breaker.acquire()
    fake_clock.advance(probe_time)
    succeed(breaker)
    assert breaker.state == state


def test_probe_given_back_twice_is_one_result(fake_clock: FakeClock) -> None:
    """Only the first word of a probe counts."""
    breaker = on_trial(fake_clock, 3, half_open_max_calls=2)
    probe = breaker.acquire()
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.FAILURE):
        breaker.record(probe, outcome)
    assert (breaker.state, places(breaker), totals(breaker)[:2]) == ("half_open", 2, (1, THRESHOLD))


@pytest.mark.parametrize("outcome", list(Outcome))
def test_results_of_earlier_spells_are_no_results_of_the_quota(
    fake_clock: FakeClock, outcome: Outcome
) -> None:
    """What calls tell that began before the circuit opened, or in an earlier trial, is void."""
    breaker, early = half_open_breaker(fake_clock, half_open_quota=2, half_open_max_calls=2)
    breaker.reset()
    before = breaker.acquire()
    fail(breaker, THRESHOLD)
    fake_clock.advance(RECOVERY)
    succeed(breaker)
    counted = totals(breaker)
    breaker.record(early, outcome)
    breaker.record(before, outcome)
    assert (breaker.state, totals(breaker)) == ("half_open", counted)
    succeed(breaker)
    assert breaker.state == "closed"


# -- open times --------------------------------------------------------------------------------------


def test_open_time_doubles_with_each_failed_quota(fake_clock: FakeClock) -> None:
    """A quota counts once for the growing open time, however many of its probes failed."""
    breaker = on_trial(fake_clock, 3, max_recovery_timeout=35)
    times = []
    for _ in range(3):
        fail(breaker, 3)
        times.append(cooldown(breaker))
        fake_clock.advance(times[-1])
    assert times == [20, 35, 35]
    succeed(breaker, 3)
    fail(breaker, THRESHOLD)
    assert cooldown(breaker) == RECOVERY


def test_retry_after_of_the_result_that_completes_a_failed_quota(fake_clock: FakeClock) -> None:
    """A Retry-After on the failure that completes the quota lengthens the open time, one before does not."""
    breaker = on_trial(fake_clock, 3)
    fail(breaker, 2, retry_after=50)
    fail(breaker, retry_after=40)
    assert cooldown(breaker) == 40


def test_retry_after_of_a_success_that_completes_a_failed_quota(fake_clock: FakeClock) -> None:
    """A success with a Retry-After asked for no rest."""
    breaker = on_trial(fake_clock, 3)
    fail(breaker, 2)
    breaker.record(breaker.acquire(), Outcome.SUCCESS, retry_after=40)
    assert (breaker.state, cooldown(breaker)) == ("open", RECOVERY)


# -- by hand, forks, signals -------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", ["reset", "disable", "force_open"])
def test_taken_in_hand_in_the_middle(fake_clock: FakeClock, by_hand: str) -> None:
    """Whoever takes the circuit in hand ends the trial: its probes are late, the next begins anew."""
    breaker = on_trial(fake_clock, 3, half_open_max_calls=2)
    succeed(breaker, 1)
    fail(breaker, 1)
    probe = breaker.acquire()
    breaker.reset() if by_hand == "reset" else getattr(breaker, by_hand)("maintenance")
    counted = totals(breaker)
    breaker.record(probe, Outcome.FAILURE)
    assert totals(breaker) == counted
    assert breaker.get_stats()["half_open_in_use"] == 0

    breaker.reset()
    fail(breaker, THRESHOLD)
    fake_clock.advance(RECOVERY)
    assert places(breaker) == 2
    succeed(breaker, 2)
    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


def test_forked_child_waits_for_results_of_its_own(fake_clock: FakeClock) -> None:
    """A child that begins half open has no probes under way and a quota of its own; the parent's goes on."""
    breaker = on_trial(fake_clock, 3, half_open_max_calls=2)
    fail(breaker, 2)
    probe = breaker.acquire()

    def child() -> list[Any]:
        seen: list[Any] = [breaker.state, places(breaker)]
        breaker.record(probe, Outcome.FAILURE)
        succeed(breaker, 2)
        seen.append(breaker.state)
        succeed(breaker)
        return [*seen, breaker.state]

    assert in_child(child) == ["half_open", 2, "half_open", "closed"]
    breaker.record(probe, Outcome.SUCCESS)
    assert breaker.state == "open"


@pytest.mark.parametrize(("outcome", "state"), [(Outcome.FAILURE, "open"), (Outcome.SUCCESS, "closed")])
def test_signal_before_the_verdict(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, state: str
) -> None:
    """When an interrupt comes between the last result and the verdict, the next call finds the verdict."""
    breaker = on_trial(fake_clock, 3)
    for _ in range(2):
        breaker.record(breaker.acquire(), outcome)
    last = breaker.acquire()
    with monkeypatch.context() as patched:
        patched.setattr(Rates, "reached", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            breaker.record(last, outcome)
    assert (breaker.state, breaker.refused()) == ("half_open", None)
    try_acquire(breaker)
    assert breaker.state == state


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


# -- random stories ----------------------------------------------------------------------------------


@given(
    quota=st.integers(1, 6),
    at_once=st.integers(1, 4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([*Outcome, "silence"])), max_size=60),
)
def test_limits_are_never_exceeded(quota: int, at_once: int, steps: list[tuple[int, Any]]) -> None:
    """Whatever probes come to, there are never too many at once, nor more than results are missing."""
    clock = FakeClock()
    ear = Ear()
    breaker = on_trial(clock, quota, half_open_max_calls=at_once, half_open_timeout=5, listeners=[ear])
    spell, results, out = 0, 0, list[Permit]()
    for number, outcome in steps:
        permit = try_acquire(breaker)
        if permit is not None and permit.half_open:
            if permit.generation != spell:
                spell, results, out = permit.generation, 0, list[Permit]()
            out.append(permit)
        live = [probe for probe in out if (probe.expires_at or 0) > clock.monotonic()]
        results += len(out) - len(live)
        out = live
        if breaker.state == "half_open":
            assert breaker.get_stats()["half_open_in_use"] == len(out) <= at_once
            assert results + len(out) <= quota
        if outcome == "silence":
            clock.advance(number)
        elif out:
            breaker.record(out.pop(number % len(out)), outcome)
            results += outcome is not Outcome.IGNORED
        if breaker.state == "closed":
            fail(breaker, THRESHOLD)
        if breaker.state == "open":
            clock.advance(cooldown(breaker))
