"""The simulation of retry storms is right: what it says of policies rests on that."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from benchmarks.storm_cases import (
    BROWN_OUT_ENDS,
    HEADROOM,
    POLICIES,
    Crowd,
    Storm,
    recovered_after,
    simulate,
    simulate_all,
)
from benchmarks.storm_clients import ConsecutiveBreaker, Ours, exponential_jitter
from benchmarks.storm_engine import Counts, SimulatedClock, Simulation, Steps
from benchmarks.storm_notes import notes
from benchmarks.storm_plan import FEW, planned
from benchmarks.storm_services import LATENCY, TIMEOUT, BrownOut, Failing
from service_utils.clock import Clock
from service_utils.policies.breaker import BreakerConfig
from service_utils.policies.breaker import CircuitBreaker as Breaker
from service_utils.policies.budget import RetryBudget
from service_utils.policies.retry import RetryPolicy

SOME = Crowd(3, 20)


def storm(
    policy: str, failing: float | None, *, crowd: Crowd = SOME, seconds: int = 6, seed: int = 1
) -> Storm:
    """A small one."""
    return Storm(policy, crowd, failing, seconds, seed)


class Scripted:
    """A service whose attempts end as they are told to, and well once nothing is told any more."""

    def __init__(self, *results: bool) -> None:
        self._results = iter(results)
        self.attempts: list[float] = []

    def attempt(self, now: float) -> tuple[float, bool]:
        self.attempts.append(now)
        return LATENCY, next(self._results, True)


class TestEvents:
    """Time jumps from one event to the next."""

    def test_events_happen_in_their_order(self) -> None:
        """What is due first happens first, whoever was set up first."""
        simulation = Simulation()
        seen: list[tuple[float, str]] = []

        def steps(name: str, *waits: float) -> Steps:
            for wait in waits:
                yield wait
                seen.append((simulation.clock.time, name))

        simulation.begin(steps("slow", 3.0, 3.0))
        simulation.begin(steps("quick", 1.0, 1.0, 2.0))
        simulation.run()

        assert seen == [(1.0, "quick"), (2.0, "quick"), (3.0, "slow"), (4.0, "quick"), (6.0, "slow")]

    def test_what_begins_in_the_middle_of_an_event_disturbs_nothing(self) -> None:
        """Something new that is due at this very moment comes after what is at hand."""
        simulation = Simulation()
        seen: list[str] = []

        def child() -> Steps:
            yield 0.0
            seen.append("child")

        def parent() -> Steps:
            yield 1.0
            simulation.begin(child())
            seen.append("parent")
            yield 0.0
            seen.append("parent again")

        simulation.begin(parent())
        simulation.run()

        assert sorted(seen) == ["child", "parent", "parent again"]
        assert seen[0] == "parent"

    def test_the_clock_is_one_of_the_library(self) -> None:
        """Policies take it; sleeping on it is a mistake, since it would hold up everybody."""
        clock = SimulatedClock()
        clock.time = 90.0

        assert isinstance(clock, Clock)
        assert clock.monotonic() == 90.0
        assert clock.now().minute == 1
        with pytest.raises(AssertionError, match="waiting is an event"):
            clock.sleep(1.0)
        with pytest.raises(AssertionError, match="waiting is an event"):
            asyncio.run(clock.async_sleep(1.0))


class TestServices:
    """What the services do with an attempt."""

    def test_a_queue_never_does_more_than_it_can(self) -> None:
        """However many requests come, no more are done in any time than its capacity then allows."""
        service = BrownOut(40.0, begins=2.0, ends=4.0)
        arrivals = Random(3)
        now, done = 0.0, []
        while now < 8.0:
            now += arrivals.expovariate(60.0)
            service.attempt(now)
            done.append(service.free_at)

        assert done == sorted(done)
        per_half_second = Counter(int(moment * 2) for moment in done)
        for half in range(16):
            capacity = 10.0 if 4 <= half < 8 else 40.0
            assert per_half_second[half] <= capacity / 2 + 1
        assert per_half_second[10] >= 19  # there is always something to do

    def test_work_across_the_beginning_and_the_end_of_the_slow_time(self) -> None:
        """A request is worked on at the speed of each moment."""
        service = BrownOut(2.0, begins=0.25, ends=1.25)

        finished = [(service.attempt(0.0), service.free_at)[1] for _ in range(3)]

        # Half of it at full speed and half at a quarter of that makes 0.25 + 1.0 s; then all at full speed.
        assert finished == [1.25, 1.75, 2.25]

    def test_one_request_may_see_all_of_a_slow_time(self) -> None:
        """It begins before and ends after it."""
        service = BrownOut(1.0, begins=0.25, ends=1.25)
        service.attempt(0.0)

        assert service.free_at == 1.75

    def test_a_request_that_was_given_up_is_worked_on(self) -> None:
        """Clients leave after their time-out, what they asked for stays in the queue."""
        service = BrownOut(2.0, begins=50.0, ends=60.0)

        results = [service.attempt(0.0) for _ in range(3)]

        assert results == [(0.5 + LATENCY, True), (TIMEOUT, False), (TIMEOUT, False)]
        assert service.free_at == 1.5

    def test_failures_are_as_frequent_as_they_should_be(self) -> None:
        """A share of the attempts fails; 1 means all of them, 0 none."""

        def failed(share: float) -> int:
            service = Failing(share, Random(5).random)
            return sum(not service.attempt(0.0)[1] for _ in range(2000))

        assert failed(0.0) == 0
        assert failed(1.0) == 2000
        assert 540 < failed(0.3) < 660


class TestClients:
    """What each client makes of a call."""

    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("failing", [1.0, 0.3, None], ids=["outage", "errors", "brown-out"])
    def test_every_call_ends_once(self, policy: str, failing: float | None) -> None:
        """Well, failed or refused; and every attempt that was sent belongs to a call."""
        counts = simulate(storm(policy, failing))

        assert sum(counts.calls) > 300
        for second, calls in enumerate(counts.calls):
            assert counts.good[second] + counts.failed[second] + counts.refused[second] == calls
        assert sum(counts.sent) == sum(counts.attempts)
        assert sum(counts.calls[6:]) == 0

    def test_no_retries_are_one_attempt_per_call(self) -> None:
        """Neither more nor less, whatever happens."""
        counts = simulate(storm("no retries", 0.3))

        assert counts.attempts == counts.calls
        assert 0.6 < counts.per_call(counts.good) < 0.8

    def test_plain_retries_triple_the_load_in_an_outage(self) -> None:
        """Three attempts for every call."""
        counts = simulate(storm("3 attempts", 1.0))

        assert counts.per_call(counts.attempts) == 3.0
        assert sum(counts.good) == 0

    def test_plain_retries_wait_longer_each_time(self) -> None:
        """1 to 2 seconds, then 2 to 3, at most 30."""
        first, second, last = ([exponential_jitter(number) for _ in range(200)] for number in (1, 2, 9))

        assert 1.0 <= min(first) < 1.1 < 1.9 < max(first) < 2.0
        assert 2.0 <= min(second) < 2.1 < 2.9 < max(second) < 3.0
        assert set(last) == {30.0}

    def test_calls_that_were_refused_come_back_unless_that_is_final(self) -> None:
        """Retried refusals reach the circuit after its 10 s, although no new calls come any more by then."""
        usual, final = (
            simulate(storm(f"pybreaker + tenacity, {how}10 s", 1.0)) for how in ("", "refusals final, ")
        )

        assert sum(final.sent) == 3 * 5  # five failures open each of the three circuits
        assert sum(usual.sent) == 3 * 5 + 3
        assert sum(usual.sent[9:]) == 3

    def test_an_outage_opens_our_circuits(self) -> None:
        """Next to nothing is sent from then on."""
        counts = simulate(storm("ours, 60 s", 1.0, seconds=20))

        assert counts.per_call(counts.attempts) < 0.2
        assert counts.refused[10:20] == counts.calls[10:20]
        assert sum(counts.attempts[10:]) == 0

    def test_our_circuits_try_again(self) -> None:
        """One probe of each when its time is over."""
        counts = simulate(storm("ours, 10 s", 1.0, seconds=20))

        assert sum(counts.sent[10:20]) == SOME.processes


class TestOurs:
    """The steps of our client, one call at a time."""

    @pytest.fixture(autouse=True)
    def repeatable(self) -> Iterator[None]:
        """The same jitter in every run."""
        before = random.getstate()
        random.seed(1)
        yield
        random.setstate(before)

    def play(self, service: Scripted, *begins: float, **given: object) -> tuple[Ours, Counts]:
        """Calls that begin at these moments."""
        simulation, counts = Simulation(), Counts(20)
        ours = Ours(simulation.clock, service, counts, name="s", **given)  # type: ignore[arg-type]

        def at(moment: float) -> Steps:
            yield moment
            simulation.begin(ours.call())

        for moment in begins:
            simulation.begin(at(moment))
        simulation.run()
        return ours, counts

    def test_it_uses_the_policies_of_the_library(self) -> None:
        """With the defaults of the client."""
        ours, _ = self.play(Scripted(), 0.0)

        assert type(ours.breaker) is Breaker
        assert (ours.breaker.config.failure_threshold, ours.breaker.config.recovery_timeout) == (5, 60.0)
        assert type(ours.budget) is RetryBudget
        assert (ours.budget.ratio, ours.budget.capacity) == (0.5, 10.0)
        assert ours.retry == RetryPolicy()

    def test_a_call_is_tried_again_after_the_back_off(self) -> None:
        """The first retry after half a second to one, the next after one to two."""
        service = Scripted(False, False)
        _, counts = self.play(service, 0.0)

        first, second, third = service.attempts
        assert first == 0.0
        assert 0.5 <= second - first - LATENCY <= 1.0
        assert 1.0 <= third - second - LATENCY <= 2.0
        assert (sum(counts.good), counts.attempts[0]) == (1, 3)

    def test_a_call_is_one_result_for_the_breaker(self) -> None:
        """Three failed attempts of one call count once."""
        ours, counts = self.play(Scripted(False, False, False), 0.0)

        assert ours.breaker.get_stats()["failure_count"] == 1
        assert sum(counts.failed) == 1

    def test_no_retry_without_a_token(self) -> None:
        """An empty budget ends the call after its first attempt."""
        service = Scripted(False, False)
        _, counts = self.play(service, 0.0, budget=RetryBudget(0.0, 0.0))

        assert len(service.attempts) == sum(counts.failed) == 1

    def test_every_call_pays_into_the_budget(self) -> None:
        """Two calls pay for one retry, with half a token each."""
        service = Scripted(False, True, False, False, True)
        _, counts = self.play(service, 0.0, 4.0, 8.0, budget=RetryBudget(0.5, 1.0))

        assert len(service.attempts) == 5
        assert (counts.attempts[0], counts.attempts[4], counts.attempts[8]) == (2, 1, 2)

    def test_no_retry_once_the_circuit_has_opened(self) -> None:
        """A call that waits for its retry meanwhile gives up."""
        service = Scripted(*[False] * 9)
        limits = BreakerConfig(failure_threshold=1)
        _, counts = self.play(service, 0.0, 0.1, 0.2, breaker=limits, retry=RetryPolicy(max_attempts=2))

        assert len(service.attempts) == 4  # the three calls' first ones and the retry that opened it
        assert sum(counts.failed) == 3

    def test_a_probe_is_not_retried(self) -> None:
        """A half-open circuit gets one attempt."""
        service = Scripted(*[False] * 9)
        ours, _ = self.play(
            service, 0.0, 10.0, breaker=BreakerConfig(failure_threshold=1, recovery_timeout=5.0)
        )

        assert len(service.attempts) == 3 + 1
        assert ours.breaker.get_stats()["opened_count"] == 2


class TestConsecutiveBreaker:
    """The rules of the breaker that we are compared with."""

    @pytest.fixture
    def clock(self) -> SimulatedClock:
        return SimulatedClock()

    @pytest.fixture
    def breaker(self, clock: SimulatedClock) -> ConsecutiveBreaker:
        """An open one, for ten seconds."""
        found = ConsecutiveBreaker(clock, 10.0)
        for good in (False, False, True, *[False] * 5):
            entered = found.enter()
            assert entered is not None
            found.leave(entered, good)
        return found

    def test_it_stays_open_for_its_time(self, breaker: ConsecutiveBreaker, clock: SimulatedClock) -> None:
        """Then there is one trial at a time."""
        assert breaker.enter() is None
        clock.time = 10.0
        assert breaker.enter() is not None
        assert breaker.enter() is None

    def test_a_trial_decides(self, breaker: ConsecutiveBreaker, clock: SimulatedClock) -> None:
        """A failed one opens it again, a good one closes it."""
        for moment, good in ((10.0, False), (20.0, True)):
            clock.time = moment
            trial = breaker.enter()
            assert trial is not None
            breaker.leave(trial, good)
            assert (breaker.enter() is not None) is good

    def test_what_comes_late_counts_for_nothing(self, clock: SimulatedClock) -> None:
        """Results of attempts that began before it opened change nothing."""
        breaker = ConsecutiveBreaker(clock, 10.0)
        entered = [breaker.enter() for _ in range(10)]
        for each in entered:
            clock.time += 1.0
            assert each is not None
            breaker.leave(each, False)

        clock.time = 5.0 + 10.0
        assert breaker.enter() is not None


class TestResults:
    """What is made of the simulations."""

    @pytest.mark.parametrize("failing", [0.3, None], ids=["errors", "brown-out"])
    def test_the_same_seed_gives_the_same_result(self, failing: float | None) -> None:
        """And another one another; what others draw from the process's generator is not disturbed."""
        before = random.getstate()
        one = simulate(storm("ours, 10 s", failing))
        assert random.getstate() == before

        random.random()
        again, other = (simulate(storm("ours, 10 s", failing, seed=seed)) for seed in (1, 2))
        assert one == again != other

    def test_in_parts_it_is_the_same(self) -> None:
        """Which processes are simulated together makes no difference, and what is asked twice counts once."""
        crowd = Crowd(60, 2)
        storms = [storm(policy, 0.3, crowd=crowd) for policy in ("3 attempts", "ours, 60 s")]

        found = simulate_all([*storms, *storms], cores=1)

        assert found == {each: simulate(each) for each in storms}

    def test_processes_have_calls_of_their_own(self) -> None:
        """A thousand times the same process would be no crowd."""
        one, two = (simulate(storm("no retries", 0.0), range(n, n + 1)) for n in range(2))

        assert one.calls != two.calls

    def test_the_brown_out_is_one(self) -> None:
        """Well before and a while after it, and mostly of no use within it."""
        crowd = Crowd(4, 25)
        counts = simulate(storm("no retries", None, crowd=crowd, seconds=60))

        assert counts.per_call(counts.good, 0, 5) == 1.0
        assert counts.per_call(counts.good, 10, 20) < 0.1
        assert 20 < recovered_after(counts) < 35
        assert HEADROOM > 1

    def seconds(self, *bad: int) -> Counts:
        """Counts of 40 seconds with 100 calls each, of which two fail in the bad ones."""
        counts = Counts(40)
        for second in range(40):
            counts.calls[second] = 100
            counts.good[second] = 98 if second in bad else 99
        return counts

    def test_recovery_lasts(self) -> None:
        """It is counted from the end of the brown-out to after the last bad second."""
        assert recovered_after(self.seconds()) == 0
        assert recovered_after(self.seconds(BROWN_OUT_ENDS - 1)) == 0
        assert recovered_after(self.seconds(BROWN_OUT_ENDS)) == 1
        assert recovered_after(self.seconds(BROWN_OUT_ENDS, BROWN_OUT_ENDS + 7)) == 8

    def test_what_is_bad_at_the_end_never_recovered(self) -> None:
        """The last five seconds alone prove nothing."""
        assert recovered_after(self.seconds(34)) == 35 - BROWN_OUT_ENDS
        assert recovered_after(self.seconds(35)) == math.inf
        assert recovered_after(self.seconds(39)) == math.inf

    def test_the_quick_plan_has_every_scenario(self) -> None:
        """It leaves out crowds, not questions; and no simulation is asked for twice."""
        quick, full = planned(quick=True), planned(quick=False)

        assert list(quick.outage.seconds) == [FEW]
        assert len(full.outage.seconds) == 3
        for plan in (quick, full):
            storms = list(plan.storms(2))
            assert len(storms) == len(set(storms))
            assert {each.failing for each in storms} == {1.0, 0.3, 0.5, None}
            assert {each.policy for each in storms} == set(POLICIES)

    def test_notes_have_one_line_each(self) -> None:
        """They become items of a list."""
        found = notes(110, 80)

        assert len(found) > 3
        assert all("\n" not in each and each[0] in "`ABCDEFGHIJKLMNOPQRSTUVWXYZ" for each in found)
