"""The circuit breaker against a simple model of it, over random stories."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.forks import Forks
from service_utils.policies.breaker import CircuitBreaker, Permit
from service_utils.testing import FakeClock
from tests.policies.breaker_model import Call, Limits, Model
from tests.policies.circuits import Ear

WINDOWS = st.sampled_from([{}, *({"window_size": size} for size in range(1, 7)), {"window_seconds": 8}])
SHARES = st.sampled_from([Fraction(1, 4), Fraction(1, 2), Fraction(2, 3), Fraction(3, 4), Fraction(1)])
RESULTS = st.tuples(st.sampled_from(Outcome), st.integers(0, 5))
"""What a call came to, and how long it took."""


def fields_for(limits: Limits) -> dict[str, Any]:
    """The fields of BreakerConfig."""
    return {
        "failure_threshold": limits.threshold,
        "recovery_timeout": limits.recovery,
        "success_threshold": limits.successes,
        "half_open_max_calls": limits.probes,
        "half_open_timeout": limits.probe_time,
        "max_recovery_timeout": limits.longest,
        "max_retry_after": limits.longest_retry_after,
        "window_size": limits.window_size,
        "window_seconds": limits.window_seconds,
        "minimum_requests": limits.least_calls,
        "failure_rate_threshold": float(limits.failure_share),
        "slow_call_seconds": limits.slow_from,
        "slow_call_rate_threshold": float(limits.slow_share),
        "half_open_quota": limits.quota,
    }


class BreakerStories(RuleBasedStateMachine):
    calls = Bundle("calls")

    @initialize(
        threshold=st.integers(1, 3),
        recovery=st.integers(0, 8),
        successes=st.integers(1, 3),
        probes=st.integers(1, 3),
        probe_time=st.none() | st.integers(1, 12),
        growth=st.none() | st.integers(0, 40),
        longest_retry_after=st.integers(0, 20),
        window=WINDOWS,
        least_calls=st.integers(1, 5),
        shares=st.tuples(SHARES, SHARES),
        slow_from=st.none() | st.integers(1, 4),
        quota=st.none() | st.integers(1, 5),
    )
    def begin(
        self,
        threshold: int,
        recovery: int,
        successes: int,
        probes: int,
        probe_time: int | None,
        growth: int | None,
        longest_retry_after: int,
        window: dict[str, int],
        least_calls: int,
        shares: tuple[Fraction, Fraction],
        slow_from: int | None,
        quota: int | None,
    ) -> None:
        size, seconds = window.get("window_size"), window.get("window_seconds")
        limits = Limits(
            threshold=threshold,
            recovery=recovery,
            successes=1 if quota else successes,
            probes=probes,
            probe_time=probe_time,
            longest=None if growth is None else recovery + growth,
            longest_retry_after=longest_retry_after,
            window_size=size,
            window_seconds=seconds,
            least_calls=min(least_calls, size or least_calls),
            failure_share=shares[0],
            slow_from=slow_from if window or quota else None,
            slow_share=shares[1],
            quota=quota,
        )
        self.model = Model(limits)
        self.clock = FakeClock()
        self.ear = Ear()
        self.breaker = CircuitBreaker("model", clock=self.clock, listeners=[self.ear], **fields_for(limits))

    def _acquire(self) -> tuple[Permit, Call] | None:
        expected = self.model.acquire()
        if expected is None:
            with pytest.raises(CircuitOpenError) as caught:
                self.breaker.acquire()
            assert caught.value.cooldown_remaining == self.model.cooldown
            return None
        permit = self.breaker.acquire()
        assert permit.half_open is (expected.expires is not None)
        assert permit.expires_at == expected.expires
        return permit, expected

    def _record(
        self, call: tuple[Permit, Call], result: tuple[Outcome, int], retry_after: int | None = None
    ) -> None:
        permit, expected = call
        self.model.record(expected, *result, retry_after)
        self.breaker.record(permit, *result, retry_after=retry_after)

    @rule(target=calls, times=st.integers(1, 3))
    def acquire(self, times: int) -> object:
        return multiple(*filter(None, (self._acquire() for _ in range(times))))

    @rule(call=calls, result=RESULTS, retry_after=st.none() | st.integers(0, 30))
    def record(self, call: tuple[Permit, Call], result: tuple[Outcome, int], retry_after: int | None) -> None:
        self._record(call, result, retry_after)

    @rule(call=consumes(calls))
    def forget(self, call: tuple[Permit, Call]) -> None:
        """A call that never reports."""

    @rule(call=calls)
    def release(self, call: tuple[Permit, Call]) -> None:
        permit, expected = call
        self.model.record(expected, Outcome.IGNORED, 0, None)
        self.breaker.release(permit)

    @rule(results=st.lists(RESULTS, min_size=1, max_size=5))
    def call(self, results: list[tuple[Outcome, int]]) -> None:
        """Calls that report at once, as most do."""
        self._call(results)

    @rule(times=st.integers(1, 8))
    def go_well(self, times: int) -> None:
        """Calls that go well and quickly, too."""
        self._call([(Outcome.SUCCESS, 0)] * times)

    def _call(self, results: list[tuple[Outcome, int]]) -> None:
        for result in results:
            if (call := self._acquire()) is not None:
                self._record(call, result)

    @rule(seconds=st.integers(0, 15))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.model.now += seconds

    @precondition(lambda self: self.model.cooldown > 0)
    @rule(short=st.booleans())
    def advance_to_the_end_of_the_open_time(self, short: bool) -> None:
        """To its very end, or half a second before."""
        seconds = self.model.cooldown - (0.5 if short else 0)
        self.clock.advance(seconds)
        self.model.now += seconds

    @precondition(lambda self: self.model.spell.state not in ("forced_open", "disabled"))
    @rule(which=st.sampled_from(["forced_open", "disabled", "closed"]))
    def take_in_hand(self, which: str) -> None:
        self._override(which)

    @precondition(lambda self: self.model.spell.state in ("forced_open", "disabled"))
    @rule(which=st.sampled_from(["forced_open", "disabled", "closed", "closed"]))
    def change_by_hand(self, which: str) -> None:
        self._override(which)

    def _override(self, which: str) -> None:
        if which == "closed":
            self.model.close(self.model.now, by_hand=True)
            self.breaker.reset()
        elif which == "forced_open":
            self.model.move(which)
            self.breaker.force_open("story")
        else:
            self.model.move(which)
            self.breaker.disable("story")

    @rule()
    def fork(self) -> None:
        """What is done in a forked child, and the story goes on there."""
        forks = Forks()
        forks.guard(self.breaker)
        forks.before()
        forks.after_in_child()
        self.model.fork()

    @rule()
    def refused(self) -> None:
        refusal = self.breaker.refused()
        if self.model.would_refuse():
            self.model.rejected += 1
            assert refusal == (self.model.spell.state, self.model.cooldown)
        else:
            assert refusal is None

    @rule()
    def check(self) -> None:
        if not self.model.would_refuse():
            self.breaker.check()
            return
        self.model.rejected += 1
        with pytest.raises(CircuitOpenError) as caught:
            self.breaker.check()
        assert caught.value.cooldown_remaining == self.model.cooldown

    @invariant()
    def same_statistics(self) -> None:
        model, stats = self.model, self.breaker.get_stats()
        assert stats["state"] == self.breaker.state == model.spell.state
        assert stats["failure_count"] == model.failure_count
        assert stats["total"] == {
            "succeeded": model.succeeded,
            "failed": model.failed,
            "ignored": model.ignored,
            "rejected": model.rejected,
        }
        assert stats["cooldown_remaining"] == model.cooldown
        assert stats["half_open_in_use"] == model.in_use <= model.limits.probes
        assert stats["opened_count"] == model.opened
        assert stats["last_success"] == self._time_of_day(model.last_success)
        assert stats["last_failure"] == self._time_of_day(model.last_failure)
        assert stats["mttr_seconds"] == (sum(model.outages) / len(model.outages) if model.outages else None)

    def _time_of_day(self, moment: float | None) -> str | None:
        if moment is None:
            return None
        return (self.clock.now() - timedelta(seconds=self.clock.monotonic() - moment)).isoformat()

    @invariant()
    def same_window(self) -> None:
        window, stats = self.model.window, self.breaker.get_stats()
        failed, slow = sum(each.failed for each in window), sum(each.slow for each in window)
        assert stats["window_calls"] == len(window)
        assert stats["failure_rate"] == (failed / len(window) if window else None)
        told = bool(window) and self.model.limits.slow_from is not None
        assert stats["slow_call_rate"] == (slow / len(window) if told else None)

    @invariant()
    def same_time_to_come_back(self) -> None:
        waits = self.model.would_refuse() and self.model.spell.state != "forced_open"
        assert self.breaker.retry_after() == (self.model.cooldown if waits else None)

    @invariant()
    def same_events(self) -> None:
        assert [(before, after) for before, after, _ in self.ear.changes] == self.model.moves
        assert len(self.ear.rejections) == self.model.rejected_before + self.model.rejected


TestBreakerStories = BreakerStories.TestCase
TestBreakerStories.settings = settings(max_examples=100, stateful_step_count=40)
