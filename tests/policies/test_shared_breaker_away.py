"""Circuit breakers whose store is away: each goes on alone, and brings what it has found out."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.permit import Leased
from service_utils.policies.record import BLANK
from service_utils.policies.store import MemoryBreakerStore
from service_utils.testing import FakeClock
from tests.policies.circuits import RECOVERY, THRESHOLD, cooldown, fail, succeed, totals, try_acquire
from tests.policies.sharing import NAME, TRIPPED, Line, heard, share, states


@pytest.fixture
def store() -> MemoryBreakerStore:
    return MemoryBreakerStore()


@pytest.fixture
def line(store: MemoryBreakerStore) -> Line:
    return Line(store)


def test_away_from_the_beginning(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A breaker whose store cannot be asked is as one without a store."""
    line.cut()
    (one,) = share(line, fake_clock, 1)
    one.check()
    succeed(one)
    fail(one, THRESHOLD)
    assert one.refused() == ("open", RECOVERY)
    fake_clock.advance(RECOVERY)
    fail(one)
    fake_clock.advance(RECOVERY)
    succeed(one)
    assert [change[:2] for change in heard(one)] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    stats = one.get_stats()
    assert (stats["opened_count"], stats["mttr_seconds"]) == (2, 2 * RECOVERY)
    assert stats["last_state_change"] == fake_clock.now().isoformat()
    assert store.read(NAME) == BLANK


def members(
    line: Line, store: MemoryBreakerStore, clock: FakeClock, **options: Any
) -> tuple[CircuitBreaker, CircuitBreaker]:
    """One by the line, another that sits at the store; both have looked."""
    (one,), (other,) = share(line, clock, 1, **options), share(store, clock, 1, **options)
    assert states(one, other) == {"closed"}
    return one, other


def test_it_trips_alone_and_brings_that(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """What a member finds out while the store is away it tells when that is back, for what is left of it."""
    one, other = members(line, store, fake_clock)
    line.cut()
    fail(one, THRESHOLD)
    assert (one.state, other.state) == ("open", "closed")
    assert try_acquire(one) is None
    succeed(other)
    fake_clock.advance(4)
    line.mend()
    assert states(one, other) == {"open"}
    assert cooldown(one) == cooldown(other) == RECOVERY - 4
    assert heard(one) == [("closed", "open", TRIPPED, False)]
    assert heard(other) == [("closed", "open", TRIPPED, True)]
    assert store.read(NAME).opened == 1


def test_it_notices_by_itself_that_the_store_is_back(
    line: Line, store: MemoryBreakerStore, fake_clock: FakeClock
) -> None:
    """Also when nobody tells it: with the next call."""
    one, other = members(line, store, fake_clock)
    line.cut()
    fail(one, THRESHOLD)
    line.away = False
    assert try_acquire(one) is None
    assert states(other) == {"open"}


@pytest.mark.parametrize("seconds", [RECOVERY, RECOVERY + 1])
def test_what_is_over_is_not_brought(
    line: Line, store: MemoryBreakerStore, fake_clock: FakeClock, seconds: float
) -> None:
    """A member that might try again goes by what all others have found."""
    one, other = members(line, store, fake_clock)
    line.cut()
    fail(one, THRESHOLD)
    fake_clock.advance(seconds)
    line.mend()
    assert states(one, other) == {"closed"}
    assert store.read(NAME).opened == 0
    assert heard(one)[-1][:2] == ("open", "closed")


def test_away_at_the_very_failure(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A member that finds out in the middle of a trip that the store is away opens its own circuit."""
    one, other = members(line, store, fake_clock)
    fail(one, THRESHOLD - 1)
    permit = one.acquire()
    line.cut()
    one.record(permit, Outcome.FAILURE, retry_after=30.0)
    assert (one.state, other.state) == ("open", "closed")
    assert (cooldown(one), one.get_stats()["opened_count"]) == (30.0, 1)
    assert heard(one) == [("closed", "open", TRIPPED, False)]


def test_failures_in_a_row_go_on(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """Neither that the store goes away nor that it comes back is a reason to forget them."""
    one, other = members(line, store, fake_clock)
    fail(one)
    line.cut()
    one.pause(1.0, 1.0)
    fail(one)
    line.mend()
    assert one.get_stats()["failure_count"] == 2
    fail(one)
    assert states(one, other) == {"open"}


def test_an_open_circuit_is_probed_alone(
    line: Line, store: MemoryBreakerStore, fake_clock: FakeClock
) -> None:
    """Each member tries the service by itself, its open time going on where it was."""
    one, other = members(line, store, fake_clock, max_recovery_timeout=99.0)
    fail(other, THRESHOLD)
    fake_clock.advance(RECOVERY)
    fail(other)
    line.tell()
    line.cut()
    assert one.refused() == ("open", 2 * RECOVERY)
    fake_clock.advance(2 * RECOVERY)
    probe = one.acquire()
    assert probe.half_open
    assert not isinstance(probe, Leased)
    assert try_acquire(one) is None
    assert other.state == "open"
    one.record(probe, Outcome.FAILURE)
    assert cooldown(one) == 4 * RECOVERY
    fake_clock.advance(4 * RECOVERY)
    succeed(one)
    assert (one.state, other.state) == ("closed", "open")
    line.mend()
    assert states(one, other) == {"open"}
    succeed(one)
    assert states(one, other) == {"closed"}


@pytest.mark.parametrize("noticed", ["before", "at the report"])
@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Outcome.SUCCESS, "closed"), (Outcome.FAILURE, "open"), (Outcome.IGNORED, "half_open")],
)
def test_away_while_a_probe_is_under_way(
    line: Line,
    store: MemoryBreakerStore,
    fake_clock: FakeClock,
    outcome: Outcome,
    state: str,
    noticed: str,
) -> None:
    """What the probe finds counts for the member that has made it."""
    one, other = members(line, store, fake_clock)
    fail(one, THRESHOLD)
    fake_clock.advance(RECOVERY)
    probe = one.acquire()
    line.cut()
    if noticed == "before":
        one.pause(1.0, 1.0)
    one.record(probe, outcome, error="answered 503")
    assert (one.state, other.state) == (state, "half_open")
    assert totals(one)[:3] == tuple(
        THRESHOLD * (each is Outcome.FAILURE) + (each is outcome) for each in Outcome
    )
    if state == "half_open":
        succeed(one)
        assert one.state == "closed"
    one.record(probe, Outcome.FAILURE)
    assert one.state == ("open" if state == "open" else "closed")


@pytest.mark.parametrize(
    ("what", "state"), [("force_open", "forced_open"), ("disable", "disabled"), ("reset", "closed")]
)
def test_what_was_decided_by_hand_is_brought(
    line: Line, store: MemoryBreakerStore, fake_clock: FakeClock, what: str, state: str
) -> None:
    """An operator's word to a member that is cut off holds there at once, and for all when it is back."""
    one, other = members(line, store, fake_clock)
    before = "closed"
    if what == "reset":
        other.force_open("moving house")
        line.tell()
        before = "forced_open"
    line.cut()
    getattr(one, what)(*(() if what == "reset" else ("moving house",)))
    assert (one.state, other.state) == (state, before)
    line.mend()
    assert states(one, other) == {state}
    assert [(*each[:2], each[3]) for each in heard(one)][-1] == (before, state, False)
    assert [(*each[:2], each[3]) for each in heard(other)][-1] == (before, state, True)


def test_the_last_word_is_brought_and_once(
    line: Line, store: MemoryBreakerStore, fake_clock: FakeClock
) -> None:
    """Of several orders the last counts; it is not repeated when the store has been away once more."""
    one, other = members(line, store, fake_clock)
    line.cut()
    one.disable("experiment")
    one.force_open("moving house")
    line.mend()
    assert states(one, other) == {"forced_open"}
    other.reset()
    line.tell()
    line.cut()
    one.pause(1.0, 1.0)
    line.mend()
    assert states(one, other) == {"closed"}


def test_what_others_have_found_counts(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A member that is back follows them, also where it has found the service sick itself."""
    one, other = members(line, store, fake_clock)
    line.cut()
    fail(one, THRESHOLD)
    fake_clock.advance(4)
    fail(other, THRESHOLD)
    line.mend()
    assert cooldown(one) == cooldown(other) == RECOVERY
    assert store.read(NAME).opened == 1
    line.cut()
    one.pause(1.0, 1.0)
    other.force_open("moving house")
    line.mend()
    assert states(one, other) == {"forced_open"}
    assert heard(one)[-1] == ("open", "forced_open", "forced: moving house", True)


@pytest.mark.parametrize("what", ["pause", "hold_open", "recover", "acquire", "reset", "check"])
def test_nobody_hears_of_the_store(
    line: Line, store: MemoryBreakerStore, fake_clock: FakeClock, what: str
) -> None:
    """Whatever finds out that the store is away does its work on the member's own circuit."""
    one, _ = members(line, store, fake_clock)
    fail(one, THRESHOLD)
    fake_clock.advance(RECOVERY - 1)
    line.cut()
    if what == "pause":
        one.pause(99.0, 99.0)
        assert one.state == "open"
    elif what == "hold_open":
        assert one.hold_open(0, 50.0) is False
        assert one.hold_open(1, 50.0) is True
        assert cooldown(one) == 50.0
    elif what == "recover":
        assert one.recover(0) is False
        assert one.recover(1) is True
        assert one.state == "closed"
    elif what == "acquire":
        fake_clock.advance(1)
        succeed(one)
        assert one.state == "closed"
    elif what == "reset":
        one.reset()
        assert one.state == "closed"
    else:
        with pytest.raises(CircuitOpenError):
            one.check()


def test_stats_while_it_is_away(line: Line, store: MemoryBreakerStore, fake_clock: FakeClock) -> None:
    """A member that is cut off shows what it has seen itself."""
    one, other = members(line, store, fake_clock)
    fail(other, THRESHOLD)
    line.tell()
    other.reset()
    line.tell()
    assert one.get_stats()["opened_count"] == 1
    line.cut()
    fail(one, THRESHOLD)
    stats = one.get_stats()
    assert (stats["opened_count"], stats["state"]) == (1, "open")
    assert stats["last_state_change"] == fake_clock.now().isoformat()
    line.mend()
    assert one.get_stats()["opened_count"] == other.get_stats()["opened_count"] == 2
