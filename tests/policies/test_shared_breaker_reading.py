"""Circuit breakers with a store: what they show, who is told, and what they are asked while others act."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitState
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.reasons import PROBE_FAILED, PROBED, RECOVERED, TRYING
from service_utils.policies.record import CircuitRecord
from service_utils.policies.store import MemoryBreakerStore
from service_utils.testing import FakeClock
from tests.policies.circuits import RECOVERY, THRESHOLD, cooldown, fail, succeed, totals, try_acquire
from tests.policies.sharing import NAME, TRIPPED, Line, heard, opened, share, states


@pytest.fixture
def store() -> MemoryBreakerStore:
    return MemoryBreakerStore()


@pytest.fixture
def line(store: MemoryBreakerStore) -> Line:
    return Line(store)


def test_stats_are_those_of_all(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """State, its reason and time, openings, recoveries and probes: whoever is asked, it is the same."""
    breakers = share(store, fake_clock, 3, half_open_max_calls=2)
    keys = (
        "state reason opened_count mttr_seconds half_open_in_use last_state_change cooldown_remaining"
    ).split()

    def shown(expected: list[Any]) -> None:
        for breaker in breakers:
            stats = breaker.get_stats()
            assert [stats[key] for key in keys] == expected

    def time_of_day() -> str:
        return fake_clock.now().isoformat()

    shown(["closed", None, 0, None, 0, None, 0.0])
    fail(breakers[0], THRESHOLD)
    tripped = time_of_day()
    fake_clock.advance(3)
    shown(["open", TRIPPED, 1, None, 0, tripped, RECOVERY - 3])
    fake_clock.advance(RECOVERY - 3)
    probes = [each.acquire() for each in breakers[1:]]
    shown(["half_open", TRYING, 1, None, 2, time_of_day(), 0.0])
    breakers[1].record(probes[0], Outcome.FAILURE)
    shown(["open", PROBE_FAILED, 2, None, 0, time_of_day(), RECOVERY])
    fake_clock.advance(RECOVERY + 10)
    succeed(breakers[2])
    closed = time_of_day()
    fake_clock.advance(100)
    shown(["closed", None, 2, 2 * RECOVERY + 10, 0, closed, 0.0])
    fail(breakers[1], THRESHOLD)
    fake_clock.advance(RECOVERY)
    succeed(breakers[0])
    shown(["closed", None, 3, (3 * RECOVERY + 10) / 2, 0, time_of_day(), 0.0])


def test_a_probe_whose_time_is_over_is_not_in_use(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A status shows the probes under way, though nobody has noticed yet that one has expired."""
    one, other = opened(store, fake_clock, half_open_timeout=4.0)
    one.acquire()
    fake_clock.advance(3.9)
    assert other.get_stats()["half_open_in_use"] == 1
    fake_clock.advance(0.1)
    assert [each.get_stats()["half_open_in_use"] for each in (one, other)] == [0, 0]
    assert states(one, other) == {"half_open"}


def test_stats_of_each(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Counts of calls, failures, errors and their times are each member's own."""
    one, other = share(store, fake_clock)
    fail(one, 2, error="answered 503")
    fake_clock.advance(5)
    succeed(other)
    assert totals(other) == (1, 0, 0, 0)
    stats = other.get_stats()
    assert (stats["last_error"], stats["last_failure"], stats["failure_count"]) == (None, None, 0)
    assert stats["last_success"] == fake_clock.now().isoformat()
    assert one.get_stats()["last_error"] == "answered 503"


def test_one_time_of_day(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """All tell the time of a change alike, though the wall clock drifts between two looks."""
    one, other = share(store, fake_clock)
    fail(one, THRESHOLD)
    shown = one.get_stats()["last_state_change"]
    fake_clock.advance(60)
    fake_clock.set_now(fake_clock.now() + timedelta(seconds=0.05))
    assert other.get_stats()["last_state_change"] == one.get_stats()["last_state_change"] == shown


def test_failures_for_others_to_see(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A breaker notes in its cell how many failures speak against the circuit, and in which spell."""
    (one,) = share(store, fake_clock, 1)
    assert one._cell is not None
    for number in range(1, THRESHOLD):
        fail(one)
        assert list(one._cell.failures) == [number, 0]
    succeed(one)
    assert list(one._cell.failures) == [0, 0]
    fail(one, THRESHOLD)
    assert list(one._cell.failures) == [THRESHOLD, 1]
    one.reset()
    assert list(one._cell.failures) == [0, 2]


def test_every_question_asks(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Whatever a breaker is asked, it looks first what others have done; but ``known_state`` does not."""
    (other,) = share(store, fake_clock, 1)
    questions: list[tuple[Callable[[CircuitBreaker], Any], Any]] = [
        (lambda breaker: breaker.state, "open"),
        (lambda breaker: breaker.generation, 1),
        (lambda breaker: breaker.retry_after(), RECOVERY),
        (lambda breaker: breaker.refused(), ("open", RECOVERY)),
        (lambda breaker: breaker.get_stats()["state"], "open"),
        (try_acquire, None),
    ]
    breakers = share(line, fake_clock, len(questions))
    assert states(*breakers) == {"closed"}
    fail(other, THRESHOLD)
    assert {each.known_state for each in breakers} == {CircuitState.CLOSED}
    for breaker, (ask, answer) in zip(breakers, questions, strict=True):
        assert ask(breaker) == answer
        assert breaker.known_state == "open"


def test_check(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """It refuses what ``acquire`` would, and moves nothing on."""
    (one,), (other,) = share(line, fake_clock, 1), share(store, fake_clock, 1)
    one.check()
    assert one.refused() is None
    fail(other, THRESHOLD)
    with pytest.raises(CircuitOpenError):
        one.check()
    fake_clock.advance(RECOVERY)
    one.check()
    assert one.retry_after() is None
    assert states(one, other) == {"open"}


def test_calls_through_a_closed_circuit_ask_nobody(line: Line, fake_clock: FakeClock) -> None:
    """As long as nothing changes the store is not asked: not for calls, failures, refusals or stats."""
    (one,) = share(line, fake_clock, 1)
    one.check()
    before = line.asked
    succeed(one, 5)
    fail(one, THRESHOLD - 1)
    assert (one.state, one.retry_after(), one.refused(), one.generation) == ("closed", None, None, 0)
    one.get_stats()
    assert line.asked == before
    fail(one)
    before = line.asked
    assert try_acquire(one) is None
    one.get_stats()
    assert line.asked == before


def test_listeners_hear_though_nobody_asks(
    line: Line, store: MemoryBreakerStore, fake_clock: FakeClock
) -> None:
    """When the store tells of a change, whichever thread that is."""
    (one,), (other,) = share(line, fake_clock, 1), share(store, fake_clock, 1)
    assert states(one) == {"closed"}
    fail(other, THRESHOLD)
    assert heard(one) == []
    line.tell()
    line.tell()
    assert heard(one) == [("closed", "open", TRIPPED, True)]


def test_what_was_missed(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Who looks only after several changes hears how the circuit came to be as it is now."""
    (one,), (other,) = share(line, fake_clock, 1), share(store, fake_clock, 1)
    assert states(one) == {"closed"}
    fail(other, THRESHOLD)
    line.tell()
    fake_clock.advance(RECOVERY)
    fail(other)
    line.tell()
    fake_clock.advance(RECOVERY)
    succeed(other)
    line.tell()
    assert heard(one) == [
        ("closed", "open", TRIPPED, True),
        ("half_open", "open", PROBE_FAILED, True),
        ("open", "half_open", TRYING, True),
        ("half_open", "closed", RECOVERED, True),
    ]
    assert one.listeners[0].events[-2].generation == 4
    assert one.listeners[0].events[-1].generation == one.generation == 5


def test_results_after_what_was_missed(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A result counts only if the circuit is still in the spell of its call, as it is for all by then."""
    (one,), (other,) = share(line, fake_clock, 1), share(store, fake_clock, 1)
    permit = one.acquire()
    other.reset()
    one.record(permit, Outcome.FAILURE)
    assert totals(one) == (0, 0, 0, 0)
    assert one.get_stats()["failure_count"] == 0


def test_a_record_that_is_older(
    store: MemoryBreakerStore, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of the store that another thread's has overtaken changes nothing."""
    (one,) = share(store, fake_clock, 1)
    assert states(one) == {"closed"}
    older = store.read(NAME)
    fail(one, THRESHOLD)
    with monkeypatch.context() as patched:
        patched.setattr(store, "pause", lambda *_: older)
        one.pause(5.0, 5.0)
    assert states(one) == {"open"}
    assert len(heard(one)) == 1


# -- probing in the background -------------------------------------------------------------------------


def test_hold_open(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A circuit that one member probes in the background stays open for all, for as long as it says."""
    one, other = share(store, fake_clock)
    assert one.hold_open(0, 99.0) is False
    fail(one, THRESHOLD)
    assert one.hold_open(1, 30.0) is True
    assert other.hold_open(1, 5.0) is True
    assert cooldown(one) == cooldown(other) == 30.0
    assert one.hold_open(0, 99.0) is one.hold_open(2, 99.0) is False
    fake_clock.advance(RECOVERY)
    assert other.refused() == ("open", 20.0)
    fake_clock.advance(20)
    other.acquire()
    assert one.hold_open(1, 99.0) is one.hold_open(2, 99.0) is False
    assert states(one, other) == {"half_open"}


def test_recover(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """One member's health probe closes the circuit for all, and each hears how."""
    one, other = share(store, fake_clock)
    fail(one, THRESHOLD)
    fake_clock.advance(3)
    assert other.recover(0) is False
    assert other.recover(1) is True
    assert states(one, other) == {"closed"}
    assert one.generation == other.generation == 3
    assert one.get_stats()["mttr_seconds"] == 3.0
    assert heard(other)[1:] == [
        ("open", "half_open", PROBED, False),
        ("half_open", "closed", RECOVERED, False),
    ]
    assert heard(one)[1:] == [("open", "half_open", TRYING, True), ("half_open", "closed", RECOVERED, True)]
    fake_clock.advance(1)
    assert other.recover(1) is False
    assert one.recover(3) is False


def test_only_one_has_recovered_it(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Of several members that find the service well one closes the circuit; the others are told so."""
    (one,), (other,) = share(line, fake_clock, 1), share(store, fake_clock, 1)
    fail(one, THRESHOLD)
    fake_clock.advance(1)
    assert other.recover(1) is True
    assert one.recover(1) is False
    assert states(one, other) == {"closed"}


def test_pauses_and_followers(store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Whoever follows a breaker is given each record it learns of: pauses, for one."""
    one, other = share(store, fake_clock)
    seen: list[CircuitRecord] = []
    assert states(one) == {"closed"}
    one.follow(seen.append)
    assert [each.pause_until for each in seen] == [0.0]
    other.pause(30.0, 25.0)
    assert (seen[-1].pause_until, seen[-1].pause_seconds) == (30.0, 25.0)
    assert states(one, other) == {"closed"}
    one.reset()
    assert seen[-1].pause_until == 0.0
    (late,) = share(store, fake_clock, 1)
    late.follow(seen.append)
    before = len(seen)
    late.catch_up()
    assert seen[before:] == [store.read(NAME)]
