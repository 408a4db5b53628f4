"""A circuit breaker in a forked child: the state is the parent's, the calls and counts are its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.events import telling as events
from service_utils.forks import Forks
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.budget import RetryBudget
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    fail,
    half_open_breaker,
    ignore,
    make_breaker,
    open_breaker,
    succeed,
    totals,
    try_acquire,
)
from tests.side_by_side import PATIENCE, in_thread


def test_counts_begin_at_zero(fake_clock: FakeClock) -> None:
    """A child has called nobody yet; what the circuit has been through lately is still known."""
    breaker = open_breaker(fake_clock)
    succeed_and_refuse(breaker, fake_clock)
    before = breaker.get_stats()

    stats = in_child(breaker.get_stats)

    assert stats["total"] == {"succeeded": 0, "failed": 0, "ignored": 0, "rejected": 0}
    assert (stats["opened_count"], stats["mttr_seconds"]) == (0, None)
    counts = dict.fromkeys(("total", "opened_count", "mttr_seconds"))
    assert {**stats, **counts} == {**before, **counts}
    assert breaker.get_stats() == before


def succeed_and_refuse(breaker: CircuitBreaker, clock: FakeClock) -> None:
    """One recovery, some results of each kind, and open again."""
    clock.advance(RECOVERY)
    succeed(breaker)
    clock.advance(1)
    succeed(breaker, 2)
    ignore(breaker)
    fail(breaker, THRESHOLD, error="answered 503")
    assert try_acquire(breaker) is None


def test_failures_in_a_row_go_on(fake_clock: FakeClock) -> None:
    """The failures that have brought a circuit near to opening are part of its state."""
    breaker = make_breaker(fake_clock)
    fail(breaker, THRESHOLD - 1)

    def child() -> str:
        fail(breaker)
        return breaker.state

    assert in_child(child) == "open"
    assert breaker.state == "closed"


def test_an_open_circuit_stays_open_for_the_rest_of_its_time(fake_clock: FakeClock) -> None:
    """The child refuses calls as the parent does, and tries the service when its time has come."""
    breaker = open_breaker(fake_clock)
    fake_clock.advance(4)

    def child() -> list[Any]:
        seen: list[Any] = [breaker.refused()]
        fake_clock.advance(RECOVERY - 4)
        succeed(breaker)
        return [*seen, breaker.state, totals(breaker)]

    assert in_child(child) == [("open", RECOVERY - 4), "closed", (1, 0, 0, 1)]
    assert breaker.state == "open"


@pytest.mark.parametrize("state", ["forced_open", "disabled"])
def test_a_circuit_in_hand_stays_so(fake_clock: FakeClock, state: str) -> None:
    """What an operator has ordered holds in children, too."""
    breaker = make_breaker(fake_clock)
    if state == "disabled":
        breaker.disable("experiment")
    else:
        breaker.force_open("maintenance")
    assert in_child(lambda: (breaker.state, try_acquire(breaker) is None)) == (state, state != "disabled")


def test_a_probe_of_the_parent_keeps_no_place(fake_clock: FakeClock) -> None:
    """A circuit that was half open when the process forked can be probed in the child at once."""
    breaker, probe = half_open_breaker(fake_clock, success_threshold=2)

    def child() -> list[Any]:
        seen: list[Any] = [breaker.state, breaker.get_stats()["half_open_in_use"]]
        succeed(breaker, 2)
        return [*seen, breaker.state]

    assert in_child(child) == ["half_open", 0, "closed"]
    breaker.record(probe, Outcome.FAILURE)
    assert breaker.state == "open"


def test_half_open_successes_are_kept(fake_clock: FakeClock) -> None:
    """Successes of probes before the fork count towards closing the circuit, as part of its state."""
    breaker, probe = half_open_breaker(fake_clock, success_threshold=2)
    breaker.record(probe, Outcome.SUCCESS)

    def child() -> str:
        succeed(breaker)
        return breaker.state

    assert in_child(child) == "closed"


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("half_open", [True, False])
def test_a_permit_of_the_parent_means_nothing(
    fake_clock: FakeClock, outcome: Outcome, half_open: bool
) -> None:
    """What a call that was under way when the process forked comes to counts in the parent alone."""
    if half_open:
        breaker, permit = half_open_breaker(fake_clock)
    else:
        breaker = make_breaker(fake_clock, failure_threshold=1)
        permit = breaker.acquire()

    def child() -> bool:
        before = breaker.get_stats()
        breaker.record(permit, outcome, error="late", retry_after=99)
        return breaker.get_stats() == before

    assert in_child(child)
    assert sum(totals(breaker)) == (THRESHOLD if half_open else 0)
    breaker.record(permit, outcome)
    assert sum(totals(breaker)) == (THRESHOLD if half_open else 0) + 1


def test_blocks_that_are_open_when_the_process_forks(fake_clock: FakeClock) -> None:
    """A ``with`` block that is left in parent and child counts in the parent, once."""
    breaker = make_breaker(fake_clock)
    stack = contextlib.ExitStack()
    stack.enter_context(breaker)

    def stream() -> Iterator[int]:
        with breaker:
            yield 1
            raise OSError("broken off")

    steps = stream()
    next(steps)

    def leave() -> tuple[int, int, int, int]:
        with pytest.raises(OSError, match="broken off"):
            next(steps)
        stack.close()
        with breaker:  # one of its own
            pass
        return totals(breaker)

    assert in_child(leave) == (1, 0, 0, 0)
    assert in_child(lambda: breaker._blocks) == []
    assert leave() == (2, 1, 0, 0)


def test_what_a_child_does_first(fake_clock: FakeClock) -> None:
    """The steps that a child takes, taken here one by one: the counts are gone, the state is not."""
    breaker = make_breaker(fake_clock)
    with breaker:
        fail(breaker, THRESHOLD - 1)
        own = Forks()
        own.guard(breaker)
        own.before()
        own.after_in_child()
    assert totals(breaker) == (0, 0, 0, 0)
    fail(breaker)
    assert breaker.state == "open"


def test_children_of_a_breaker_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that change the circuit all the time leave no child waiting, and none with half a change."""
    monkeypatch.setattr(events, "_subscribers", {})  # the log has locks of its own
    breaker = CircuitBreaker("b", failure_threshold=1, recovery_timeout=1000)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            breaker.reset()
            if (permit := try_acquire(breaker)) is not None:
                breaker.record(permit, Outcome.FAILURE)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()

    def child() -> dict[str, Any]:
        stats = breaker.get_stats()
        breaker.reset()
        fail(breaker)
        assert in_thread(breaker.get_stats)
        return stats

    try:
        for stats in [in_child(child) for _ in range(20)]:
            assert (stats["cooldown_remaining"] > 0) == (stats["state"] == "open")
            assert (stats["reason"] is None) == (stats["state"] == "closed")
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)


def test_a_budget_goes_on_with_what_is_in_it() -> None:
    """A child may retry as often as its parent might have, and each of them pays for itself."""
    budget = RetryBudget(ratio=0.5, capacity=3)
    budget.try_withdraw()

    def child() -> float:
        budget.deposit()
        return budget.balance

    with budget._lock:
        assert in_child(lambda: in_thread(budget.try_withdraw))
        assert in_child(child) == 2.5
    assert budget.balance == 2.0
