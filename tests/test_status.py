"""What a client counts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.status import CallCounters, percentile
from tests.forked import in_child
from tests.one_stroke import interrupted
from tests.side_by_side import together


@pytest.fixture
def threads_switch_often() -> Iterator[None]:
    """So that a race that is there shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def counted(counters: CallCounters) -> tuple[int, ...]:
    """Total, succeeded, failed, rejected, retried."""
    return tuple(counters.snapshot()["requests"].values())


def test_new_counters_are_zero() -> None:
    """A client that has called nobody has numbers all the same, and no latencies."""
    assert CallCounters().snapshot() == {
        "requests": {"total": 0, "succeeded": 0, "failed": 0, "rejected": 0, "retried": 0},
        "latency_ms": {"p50": None, "p95": None, "p99": None},
        "last_error": None,
    }


def test_each_call_is_counted_once() -> None:
    """A call is one success, failure, refusal or none of them, however many attempts it took."""
    counters = CallCounters()
    counters.succeeded(0.25, 1.0)
    counters.finished(Outcome.SUCCESS, [0.5], None, 1.0)
    counters.finished(Outcome.FAILURE, [0.1, 0.2, 0.3], "it failed", 1.0)
    counters.finished(Outcome.IGNORED, [0.1, 0.1], None, 1.0)
    counters.rejected()
    assert counted(counters) == (5, 2, 1, 1, 3)
    assert counters.snapshot()["last_error"] == "it failed"


def test_a_success_counts_the_same_either_way() -> None:
    """The short way for calls whose first attempt was a success leaves what the long way leaves."""
    short, long = CallCounters(), CallCounters()
    for number in range(600):
        short.succeeded(number / 1000, 1.0)
        long.finished(Outcome.SUCCESS, [number / 1000], None, 1.0)
    assert short.snapshot() == long.snapshot()


def test_latencies_are_those_of_recent_attempts() -> None:
    """Percentiles are of the last 512 attempts, in milliseconds, whatever came before."""
    counters = CallCounters()
    for _ in range(512):
        counters.succeeded(9.0, 1.0)
    for number in range(1, 513):
        counters.succeeded(number / 1000, 1.0)
    assert counters.snapshot()["latency_ms"] == {"p50": 256.0, "p95": 487.0, "p99": 507.0}


@pytest.mark.parametrize(
    ("ordered", "share", "expected"), [([], 50, None), ([0.1], 99, 100.0), ([0.1, 0.2], 50, 100.0)]
)
def test_percentile(ordered: list[float], share: int, expected: float | None) -> None:
    """The nearest rank, never a value in between."""
    assert percentile(ordered, share) == expected


@pytest.mark.usefixtures("threads_switch_often")
def test_threads_lose_no_call() -> None:
    """Every call of sixteen threads is counted, and at any moment the numbers fit together."""
    counters = CallCounters()
    done = threading.Event()

    def work(index: int) -> None:
        if index == 0:
            while not done.is_set():
                total, succeeded, failed, rejected, retried = counted(counters)
                assert total == succeeded + failed + rejected
                assert retried == failed
            return
        for _ in range(1000):
            counters.succeeded(0.1, 1.0)
            counters.finished(Outcome.SUCCESS, [0.1], None, 1.0)
            counters.finished(Outcome.FAILURE, [0.1, 0.2], "it failed", 1.0)
            counters.rejected()
        if index == 1:
            done.set()

    together(16, work)
    assert counted(counters) == (60000, 30000, 15000, 15000, 15000)


@pytest.mark.parametrize(
    ("function", "first", "last"),
    [
        (CallCounters.succeeded, "words", "_LAST_SUCCESS"),
        (CallCounters.finished, "_TOTAL", "_LAST_FAILURE"),
        (CallCounters.rejected, "counts", "_REJECTED"),
        (CallCounters.refused, "counts", "_REJECTED"),
    ],
)
def test_no_other_thread_comes_between(function: Callable[..., Any], first: str, last: str) -> None:
    """All numbers of one call are changed, and all are read, at one stroke."""
    assert interrupted(function, first, last) == []


def test_a_child_counts_its_own_calls() -> None:
    """A forked child begins at zero and leaves the parent's numbers alone."""
    counters = CallCounters()
    counters.finished(Outcome.FAILURE, [0.1, 0.2], "it failed", 1.0)
    before = counters.snapshot()

    def child() -> list[Any]:
        seen: list[Any] = [counters.snapshot() == CallCounters().snapshot()]
        counters.succeeded(0.1, 1.0)
        return [*seen, counted(counters)]

    assert in_child(child) == [True, (1, 1, 0, 0, 0)]
    assert counters.snapshot() == before
