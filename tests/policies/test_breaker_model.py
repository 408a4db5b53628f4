"""The circuit breaker against a simple model of it, over random stories."""

from __future__ import annotations

from datetime import timedelta

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
    ) -> None:
        longest = None if growth is None else recovery + growth
        limits = Limits(threshold, recovery, successes, probes, probe_time, longest, longest_retry_after)
        self.model = Model(limits)
        self.clock = FakeClock()
        self.ear = Ear()
        self.breaker = CircuitBreaker(
            "model",
            clock=self.clock,
            listeners=[self.ear],
            failure_threshold=threshold,
            recovery_timeout=recovery,
            success_threshold=successes,
            half_open_max_calls=probes,
            half_open_timeout=probe_time,
            max_recovery_timeout=longest,
            max_retry_after=longest_retry_after,
        )

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

    def _record(self, call: tuple[Permit, Call], outcome: Outcome, retry_after: int | None = None) -> None:
        permit, expected = call
        self.model.record(expected, outcome, retry_after)
        self.breaker.record(permit, outcome, retry_after=retry_after)

    @rule(target=calls, times=st.integers(1, 3))
    def acquire(self, times: int) -> object:
        return multiple(*filter(None, (self._acquire() for _ in range(times))))

    @rule(call=calls, outcome=st.sampled_from(Outcome), retry_after=st.none() | st.integers(0, 30))
    def record(self, call: tuple[Permit, Call], outcome: Outcome, retry_after: int | None) -> None:
        self._record(call, outcome, retry_after)

    @rule(call=consumes(calls))
    def forget(self, call: tuple[Permit, Call]) -> None:
        """A call that never reports."""

    @rule(call=calls)
    def release(self, call: tuple[Permit, Call]) -> None:
        permit, expected = call
        self.model.record(expected, Outcome.IGNORED, None)
        self.breaker.release(permit)

    @rule(outcomes=st.lists(st.sampled_from(Outcome), min_size=1, max_size=5))
    def call(self, outcomes: list[Outcome]) -> None:
        """Calls that report at once, as most do."""
        for outcome in outcomes:
            if (call := self._acquire()) is not None:
                self._record(call, outcome)

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
            self.model.close(by_hand=True)
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
        assert stats["failure_count"] == model.in_a_row
        assert stats["total"] == {
            "succeeded": model.succeeded,
            "failed": model.failed,
            "ignored": model.ignored,
            "rejected": model.rejected,
        }
        assert stats["cooldown_remaining"] == model.cooldown
        assert stats["half_open_in_use"] == model.in_use <= model.limits.probes
        assert stats["opened_count"] == model.opened
        if model.last_success is None:
            assert stats["last_success"] is None
        else:
            ago = timedelta(seconds=self.clock.monotonic() - model.last_success)
            assert stats["last_success"] == (self.clock.now() - ago).isoformat()
        assert stats["mttr_seconds"] == (sum(model.outages) / len(model.outages) if model.outages else None)

    @invariant()
    def same_time_to_come_back(self) -> None:
        waits = self.model.would_refuse() and self.model.spell.state != "forced_open"
        assert self.breaker.retry_after() == (self.model.cooldown if waits else None)

    @invariant()
    def same_events(self) -> None:
        assert [(before, after) for before, after, _ in self.ear.changes] == self.model.moves
        assert len(self.ear.rejections) == self.model.rejected_before + self.model.rejected


TestBreakerStories = BreakerStories.TestCase
TestBreakerStories.settings = settings(max_examples=300, stateful_step_count=40)
