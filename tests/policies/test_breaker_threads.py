"""The circuit breaker under many threads."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.policies.breaker import Permit
from service_utils.testing import FakeClock
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
    try_acquire,
)
from tests.side_by_side import PATIENCE, together


@pytest.fixture(autouse=True)
def threads_switch_often() -> Iterator[None]:
    """So that a race that is there shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class YieldingClock(FakeClock):
    """Lets other threads go first whenever it is asked for the time."""

    def monotonic(self) -> float:
        time.sleep(0)
        return super().monotonic()

    def now(self) -> datetime:
        time.sleep(0)
        return super().now()


@pytest.fixture
def fake_clock() -> FakeClock:
    return YieldingClock()


@pytest.mark.parametrize("places", [1, 5])
@pytest.mark.parametrize("round_", range(5))
def test_half_open_under_64_threads(fake_clock: FakeClock, places: int, round_: int) -> None:
    """64 threads at a circuit whose open time is over: as many probes as there are places, one transition."""
    ear = Ear()
    breaker = open_breaker(fake_clock, half_open_max_calls=places, listeners=[ear])
    fake_clock.advance(RECOVERY)

    permits = together(64, lambda _: try_acquire(breaker))

    assert sum(permit is not None for permit in permits) == places
    assert [change[:2] for change in ear.changes[1:]] == [("open", "half_open")]
    assert len(ear.rejections) == totals(breaker)[3] == 64 - places


@pytest.mark.parametrize("round_", range(5))
def test_failures_of_64_threads_open_once(fake_clock: FakeClock, round_: int) -> None:
    """64 calls that fail at one moment open the circuit once, with as many failures as it takes."""
    ear = Ear()
    breaker = make_breaker(fake_clock, failure_threshold=20, listeners=[ear])
    permits = [breaker.acquire() for _ in range(64)]

    together(64, lambda index: breaker.record(permits[index], Outcome.FAILURE))

    assert ear.changes == [("closed", "open", "threshold reached: 20/20")]
    assert totals(breaker) == (0, 20, 0, 0)


@pytest.mark.parametrize("round_", range(5))
def test_one_permit_given_back_by_32_threads(fake_clock: FakeClock, round_: int) -> None:
    """However many give a permit back at one moment, one of them does."""
    breaker, probe = half_open_breaker(fake_clock, half_open_max_calls=2, success_threshold=9)
    other = breaker.acquire()

    together(32, lambda _: breaker.record(probe, Outcome.SUCCESS))

    assert totals(breaker) == (1, THRESHOLD, 0, 0)
    assert breaker.get_stats()["half_open_in_use"] == 1
    breaker.release(other)


def test_totals_add_up(fake_clock: FakeClock) -> None:
    """Under 16 threads of mixed outcomes every single result is counted, once."""
    breaker = make_breaker(fake_clock, failure_threshold=10**9)

    def work(index: int) -> list[Outcome]:
        drawn = random.Random(index).choices(list(Outcome), k=400)
        for outcome in drawn:
            breaker.record(breaker.acquire(), outcome)
        return drawn

    told = [outcome for outcomes in together(16, work) for outcome in outcomes]
    assert totals(breaker) == (*(told.count(outcome) for outcome in Outcome), 0)


def test_nothing_leaks_while_the_circuit_flaps(fake_clock: FakeClock) -> None:
    """16 threads, a circuit that opens and closes all the time: at the end every place is free."""
    breaker = make_breaker(
        fake_clock, recovery_timeout=0.01, half_open_max_calls=3, success_threshold=2, half_open_timeout=1e9
    )

    def work(index: int) -> tuple[int, int]:
        draw = random.Random(index)
        permits: list[Permit] = []
        taken = refused = 0
        for _ in range(400):
            permit = try_acquire(breaker)
            if permit is None:
                refused += 1
                fake_clock.advance(0.005)
            else:
                taken += 1
                permits.append(permit)
            if permits and draw.random() < 0.8:
                back = permits.pop(draw.randrange(len(permits)))
                breaker.record(back, draw.choice(list(Outcome)))
                breaker.record(back, Outcome.FAILURE)
        for permit in permits:
            breaker.release(permit)
        return taken, refused

    counts = together(16, work)

    stats = breaker.get_stats()
    assert stats["half_open_in_use"] == 0
    assert stats["opened_count"] > 10
    assert totals(breaker)[3] == sum(refused for _, refused in counts)
    assert sum(totals(breaker)[:3]) <= sum(taken for taken, _ in counts)
    breaker.reset()
    assert sum(try_acquire(breaker) is not None for _ in range(10)) == 10


@pytest.mark.parametrize("window", [{"window_size": 100_000}, {"window_seconds": 1000}])
def test_windows_hold_every_result(fake_clock: FakeClock, window: dict[str, Any]) -> None:
    """Under 64 threads of mixed outcomes every result is in the window, once; ignored ones are not."""
    breaker = make_breaker(fake_clock, **window, minimum_requests=99_999, slow_call_seconds=2)

    def work(index: int) -> list[tuple[Outcome, float]]:
        draw = random.Random(index)
        drawn = [(draw.choice(list(Outcome)), draw.choice([0.5, 2.0])) for _ in range(60)]
        for outcome, duration in drawn:
            breaker.record(breaker.acquire(), outcome, duration)
        return drawn

    told = [result for results in together(64, work) for result in results]
    counted = [(outcome, duration) for outcome, duration in told if outcome is not Outcome.IGNORED]
    failures = sum(outcome is Outcome.FAILURE for outcome, _ in counted)
    stats = breaker.get_stats()
    assert (stats["window_calls"], stats["failure_count"]) == (len(counted), failures)
    assert stats["slow_call_rate"] == sum(duration == 2.0 for _, duration in counted) / len(counted)
    assert totals(breaker) == (len(counted) - failures, failures, len(told) - len(counted), 0)


def test_full_window_takes_failures_among_successes(fake_clock: FakeClock) -> None:
    """Where 64 threads succeed but for a few failures, no result is lost, and the window holds the last."""
    breaker = make_breaker(fake_clock, window_size=16, failure_rate_threshold=1.0)

    def work(index: int) -> int:
        failures = 0
        for number in range(100):
            failed = (number + index) % 50 == 0
            failures += failed
            breaker.record(breaker.acquire(), Outcome.FAILURE if failed else Outcome.SUCCESS)
        return failures

    failed = sum(together(64, work))
    assert totals(breaker) == (6400 - failed, failed, 0, 0)
    succeed(breaker, 13)
    fail(breaker, 3)
    stats = breaker.get_stats()
    assert (stats["state"], stats["window_calls"], stats["failure_count"]) == ("closed", 16, 3)


def test_no_quota_is_exceeded(fake_clock: FakeClock) -> None:
    """Under 64 threads each half-open spell hears as many results as its quota has, and frees each place."""
    quota, places = 5, 3
    breaker = make_breaker(
        fake_clock,
        recovery_timeout=0.01,
        window_size=8,
        half_open_quota=quota,
        half_open_max_calls=places,
        half_open_timeout=1e9,
    )

    def work(index: int) -> list[tuple[int, Outcome]]:
        draw = random.Random(index)
        told: list[tuple[int, Outcome]] = []
        for _ in range(40):
            assert breaker.get_stats()["half_open_in_use"] <= places
            permit = try_acquire(breaker)
            if permit is None:
                fake_clock.advance(0.005)
                continue
            outcome = draw.choice(list(Outcome))
            if permit.half_open:
                told.append((permit.generation, outcome))
            breaker.record(permit, outcome)
            breaker.record(permit, Outcome.FAILURE)
        return told

    probes = [probe for told in together(64, work) for probe in told]

    spells = sorted({generation for generation, _ in probes})
    results = Counter(generation for generation, outcome in probes if outcome is not Outcome.IGNORED)
    assert len(spells) > 10
    assert {results[generation] for generation in spells[:-1]} == {quota}
    assert results[spells[-1]] <= quota
    assert breaker.get_stats()["half_open_in_use"] == 0


def test_guarded_code_runs_side_by_side(fake_clock: FakeClock) -> None:
    """Calls through one breaker do not wait for each other."""
    breaker = make_breaker(fake_clock)
    inside = threading.Barrier(8, timeout=PATIENCE)
    together(8, lambda _: breaker.call(inside.wait))
    together(8, lambda _: breaker(inside.wait)())
    assert totals(breaker) == (16, 0, 0, 0)


def test_readers_never_see_half_a_change(fake_clock: FakeClock) -> None:
    """Statistics read while threads change the circuit always fit together."""
    breaker = make_breaker(fake_clock, failure_threshold=1, recovery_timeout=5)
    done = threading.Event()

    def read(_: int) -> None:
        while not done.is_set():
            stats = breaker.get_stats()
            assert (stats["cooldown_remaining"] > 0) == (stats["state"] == "open")
            assert (stats["reason"] is None) == (stats["state"] == "closed")

    def change() -> None:
        for _ in range(300):
            fail(breaker)
            breaker.reset()
        done.set()

    together(4, lambda index: change() if index == 0 else read(index))
