"""What every BreakerStore has to do, whatever it keeps its circuits in.

The tests of a store inherit from :class:`StoreContract` and say in the fixture ``members`` through which two
store objects two members see the same circuits.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import pytest

from service_utils.calls import Outcome
from service_utils.events import CircuitState
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.permit import Report
from service_utils.policies.reasons import PROBE_FAILED, RECOVERED, TRYING
from service_utils.policies.record import BLANK, MAX_LEASES, Asking, CircuitRecord, Lease, Trip
from service_utils.policies.store import BreakerStore, Intents

NAME = "chroma"
NOW = 1000.0
RECOVERY = 10.0
PROBE_TIME = 4.0
TRIED = NOW + RECOVERY
"""When a circuit that tripped at NOW may be tried."""
PATIENCE = 20.0  # real seconds; a store tells within a fraction of one

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, DISABLED = CircuitState.FORCED_OPEN, CircuitState.DISABLED
SUCCESS, FAILURE, IGNORED = (Report(outcome) for outcome in Outcome)

Members: TypeAlias = tuple[BreakerStore, BreakerStore]


def asking(now: float = NOW, by: int = 1, **limits: Any) -> Asking:
    """Ten seconds open, four for a probe, unless the limits say otherwise."""
    config = BreakerConfig(**{"recovery_timeout": RECOVERY, "half_open_timeout": PROBE_TIME, **limits})
    return Asking(by, now, config)


def trip(store: BreakerStore, at: float = NOW, by: int = 1, name: str = NAME) -> CircuitRecord:
    """Trip on what the store says."""
    wish = Trip("threshold reached: 5/5", at, at + RECOVERY, by)
    return store.trip(name, store.read(name).version, wish)


def lease(store: BreakerStore, now: float = TRIED, by: int = 1, **limits: Any) -> Lease:
    """A lease that is to be had."""
    _, lease = store.lease_probe(NAME, asking(now, by, **limits))
    assert lease is not None
    return lease


def refused(store: BreakerStore, now: float = TRIED, **limits: Any) -> bool:
    """Whether there is no lease to be had."""
    return store.lease_probe(NAME, asking(now, **limits))[1] is None


def less_version(record: CircuitRecord) -> CircuitRecord:
    return record._replace(version=0)


def soon(condition: Callable[[], object]) -> bool:
    """Whether it comes true within PATIENCE."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


class Ear:
    """Is told of changes."""

    def __init__(self) -> None:
        self.told = 0

    def hear(self) -> None:
        self.told += 1


class Paper(Intents):
    """The circuits as they should be: each step is taken on what the one before has left."""

    def __init__(self) -> None:
        self.record = BLANK

    def read(self, name: str) -> CircuitRecord:
        return self.record

    def change(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
        after = step(self.record)
        if after is not self.record:
            self.record = after._replace(version=self.record.version + 1)
        return self.record


Step: TypeAlias = Callable[[Any], object]

CHANGES: dict[str, Step] = {
    "trip": trip,
    "lease": lambda store: store.lease_probe(NAME, asking(TRIED, by=2, half_open_max_calls=3)),
    "lease more": lambda store: store.lease_probe(NAME, asking(TRIED, half_open_max_calls=3)),
    "ignored": lambda store: store.report(NAME, store.read(NAME).last_token, IGNORED, asking(TRIED)),
    "success": lambda store: store.report(
        NAME, store.read(NAME).leases[0].token, SUCCESS, asking(TRIED + 1, success_threshold=2)
    ),
    "pause": lambda store: store.pause(NAME, TRIED + 60.0, 60.0),
    "longer pause": lambda store: store.pause(NAME, TRIED + 90.0, 80.0),
    "lease again": lambda store: store.lease_probe(NAME, asking(TRIED + 2)),
    "expire": lambda store: store.lease_probe(NAME, asking(TRIED + 10, max_recovery_timeout=60.0)),
    "hold": lambda store: store.hold(NAME, store.read(NAME).generation, TRIED + 99.0),
    "recover": lambda store: store.recover(NAME, store.read(NAME).generation, asking(TRIED + 30, by=3)),
    "end the pause": lambda store: store.pause(NAME, 0.0, 0.0),
    "trip again": lambda store: trip(store, TRIED + 40, by=2**63 - 1),
    "on trial": lambda store: store.lease_probe(NAME, asking(TRIED + 60, half_open_quota=3)),
    "one of the quota": lambda store: store.report(
        NAME, store.read(NAME).last_token, FAILURE, asking(TRIED + 61, half_open_quota=3)
    ),
    "force open": lambda store: store.override(NAME, FORCED_OPEN, "forced: upkeep", asking(TRIED + 70)),
    "disable": lambda store: store.override(NAME, DISABLED, "experiment", asking(TRIED + 71)),
    "pause once more": lambda store: store.pause(NAME, TRIED + 100.0, 20.0),
    "reset": lambda store: store.override(NAME, CLOSED, "reset by hand", asking(TRIED + 80)),
    "reset again": lambda store: store.override(NAME, CLOSED, "reset by hand", asking(TRIED + 81)),
}
"""A story in which each step changes something."""

OUTDATED = Trip("too late", NOW + 1, NOW + 2, 7)
IDLE: dict[str, tuple[Step, Step]] = {
    "lease of a closed circuit": (
        lambda store: None,
        lambda store: store.lease_probe(NAME, asking()),
    ),
    "lease before its time": (trip, lambda store: store.lease_probe(NAME, asking(TRIED - 0.001))),
    "lease while the place is taken": (
        lambda store: (trip(store), lease(store)),
        lambda store: store.lease_probe(NAME, asking(TRIED + 1)),
    ),
    "lease of a forced-open circuit": (
        lambda store: store.override(NAME, FORCED_OPEN, "upkeep", asking()),
        lambda store: store.lease_probe(NAME, asking(NOW + 1e6)),
    ),
    "trip by another version": (
        lambda store: None,
        lambda store: store.trip(NAME, store.read(NAME).version + 1, OUTDATED),
    ),
    "trip of an open circuit": (trip, trip),
    "trip of a disabled circuit": (
        lambda store: store.override(NAME, DISABLED, "experiment", asking()),
        trip,
    ),
    "trip of a half-open circuit": (lambda store: (trip(store), lease(store)), trip),
    "report of an unknown token": (
        lambda store: (trip(store), lease(store)),
        lambda store: store.report(NAME, store.read(NAME).last_token + 1, FAILURE, asking(TRIED)),
    ),
    "report to a circuit nobody knows": (
        lambda store: None,
        lambda store: store.report(NAME, 1, FAILURE, asking()),
    ),
    "hold of a closed circuit": (lambda store: None, lambda store: store.hold(NAME, 0, NOW)),
    "hold for a shorter time": (
        trip,
        lambda store: store.hold(NAME, store.read(NAME).generation, TRIED - 1),
    ),
    "hold in another generation": (trip, lambda store: store.hold(NAME, 0, TRIED + 99)),
    "recovery of a closed circuit": (lambda store: None, lambda store: store.recover(NAME, 0, asking())),
    "recovery in another generation": (trip, lambda store: store.recover(NAME, 0, asking())),
    "shorter pause": (
        lambda store: store.pause(NAME, NOW + 30, 30.0),
        lambda store: store.pause(NAME, NOW + 29, 99.0),
    ),
    "same pause": (
        lambda store: store.pause(NAME, NOW + 30, 30.0),
        lambda store: store.pause(NAME, NOW + 30, 30.0),
    ),
    "end of no pause": (lambda store: None, lambda store: store.pause(NAME, 0.0, 0.0)),
}
"""What brings a circuit where the second step changes nothing."""


class StoreContract:
    """The contract. Names in the tests: ``one`` and ``other`` are the stores of two members."""

    @pytest.fixture
    def members(self) -> Members:
        """Two stores, or one twice, that see the same circuits, which nobody has touched yet."""
        raise NotImplementedError

    @pytest.fixture
    def one(self, members: Members) -> BreakerStore:
        return members[0]

    @pytest.fixture
    def other(self, members: Members) -> BreakerStore:
        return members[1]

    # -- reading and versions -------------------------------------------------------------------------

    def test_it_is_a_store(self, members: Members) -> None:
        """Breakers take it for what it is."""
        assert all(isinstance(each, BreakerStore) for each in members)

    def test_an_unknown_name(self, members: Members) -> None:
        """A circuit that nobody has touched is closed, and all is as at the beginning."""
        for each in members:
            cell = each.cell(NAME)
            record = each.read(NAME)
            assert less_version(record) == BLANK
            assert cell.words[0] == record.version

    @pytest.mark.parametrize(
        "name", ["b", "größer 検索 🐘", "x" * 300, "chroma "], ids=["short", "unicode", "long", "space"]
    )
    def test_names_are_told_apart(self, one: BreakerStore, other: BreakerStore, name: str) -> None:
        """What is done to one circuit is done to it alone, whatever it is called."""
        trip(one, name=name)
        assert other.read(name).state is OPEN
        assert less_version(other.read(NAME)) == BLANK

    def test_each_change_shows(self, one: BreakerStore, other: BreakerStore) -> None:
        """After each change the version is one that has not been there yet, and both cells say it."""
        cells = one.cell(NAME), other.cell(NAME)
        seen = [other.read(NAME).version]
        for what, step in CHANGES.items():
            step(one)
            record = other.read(NAME)
            assert record.version not in seen, what
            assert [cell.words[0] for cell in cells] == [record.version] * 2, what
            seen.append(record.version)

    @pytest.mark.parametrize("what", IDLE)
    def test_what_changes_nothing(self, one: BreakerStore, other: BreakerStore, what: str) -> None:
        """Where there is nothing to do the version stays, and nobody has to look."""
        prepare, idle = IDLE[what]
        prepare(one)
        before, cell = other.read(NAME), other.cell(NAME)
        idle(one)
        assert other.read(NAME) == before
        assert cell.words[0] == before.version

    def test_what_an_intent_returns(self, one: BreakerStore, other: BreakerStore) -> None:
        """Whoever changes a circuit is given what the others read then, version and all."""
        for what, step in CHANGES.items():
            answer = step(one)
            record = answer if isinstance(answer, CircuitRecord) else answer[0]  # type: ignore[index]
            assert record == other.read(NAME), what

    @pytest.mark.parametrize("first", [0, 1])
    def test_records_survive(self, members: Members, first: int) -> None:
        """Whatever the members do in turn, each of them reads the whole record as it should be."""
        paper = Paper()
        for number, (what, step) in enumerate(CHANGES.items()):
            step(paper)
            step(members[(number + first) % 2])
            for each in members:
                assert less_version(each.read(NAME)) == less_version(paper.record), what

    @pytest.mark.parametrize(
        "reason",
        ["für größere Lasten – 修理中 🐘", "é" * 5000, "line one\nline two\0", "x" * 199 + "🐘🐘", ""],
        ids=["unicode", "long", "control", "cut", "empty"],
    )
    def test_reasons(self, one: BreakerStore, other: BreakerStore, reason: str) -> None:
        """A reason comes through as it is; a long one may be cut, between two characters."""
        one.override(NAME, FORCED_OPEN, reason, asking())
        read = other.read(NAME).reason
        assert read is not None
        assert reason.startswith(read)
        assert len(read.encode()) >= min(len(reason.encode()), 190)
        read.encode()

    def test_large_numbers(self, one: BreakerStore, other: BreakerStore) -> None:
        """Members have numbers of 63 bits, times any fraction of a second."""
        by, at = 2**63 - 1, 86400.0 * 4000 + 1 / 3
        record = one.trip(NAME, one.read(NAME).version, Trip("rate", at, at + 0.1, by))
        read = other.read(NAME)
        assert (read.by, read.changed_at, read.open_until) == (by, at, at + 0.1)
        assert read == record

    # -- trips ----------------------------------------------------------------------------------------

    def test_a_trip(self, one: BreakerStore, other: BreakerStore) -> None:
        """A member that has found the service sick opens the circuit for all."""
        one.trip(NAME, one.read(NAME).version, Trip("threshold reached: 5/5", NOW, NOW + 12.5, 7))
        record = other.read(NAME)
        assert (record.state, record.reason, record.by) == (OPEN, "threshold reached: 5/5", 7)
        assert (record.generation, record.changed_at, record.open_until) == (1, NOW, NOW + 12.5)
        assert (record.opened, record.outage_began, record.outages) == (1, NOW, 0)

    def test_a_lost_race(self, one: BreakerStore, other: BreakerStore) -> None:
        """Of two members that trip on the same version one wins; the outage is counted once."""
        versions = one.read(NAME).version, other.read(NAME).version
        won = one.trip(NAME, versions[0], Trip("mine", NOW, NOW + 10, 1))
        lost = other.trip(NAME, versions[1], Trip("mine, too", NOW + 1, NOW + 90, 2))
        assert lost == won == one.read(NAME)
        assert (won.reason, won.by, won.open_until, won.opened) == ("mine", 1, NOW + 10, 1)

    def test_a_trip_that_was_overtaken(self, one: BreakerStore, other: BreakerStore) -> None:
        """What the others have done meanwhile comes first; whoever still wants to can do it on that."""
        version = one.read(NAME).version
        other.pause(NAME, NOW + 5, 5.0)
        wish = Trip("still sick", NOW, NOW + 10, 1)
        record = one.trip(NAME, version, wish)
        assert (record.state, record.pause_until) == (CLOSED, NOW + 5)
        record = one.trip(NAME, record.version, wish)
        assert (record.state, record.pause_until) == (OPEN, NOW + 5)

    def test_a_trip_of_an_earlier_spell(self, one: BreakerStore, other: BreakerStore) -> None:
        """A circuit that was reset meanwhile is not opened by what was found before."""
        version = one.read(NAME).version
        trip(other)
        other.override(NAME, CLOSED, "reset by hand", asking(NOW + 1))
        assert one.trip(NAME, version, OUTDATED).state is CLOSED
        assert one.read(NAME).opened == 1

    # -- leases ---------------------------------------------------------------------------------------

    def test_one_probe_at_once(self, one: BreakerStore, other: BreakerStore) -> None:
        """The first who asks when the open time is over probes; all others wait for him."""
        trip(one)
        record, leased = other.lease_probe(NAME, asking(TRIED, by=2))
        assert leased is not None
        assert leased.expires_at == TRIED + PROBE_TIME
        assert record.leases == one.read(NAME).leases == (leased,)
        assert (record.state, record.reason, record.by) == (HALF_OPEN, TRYING, 2)
        assert (record.generation, record.changed_at) == (2, TRIED)
        assert refused(one)
        assert refused(other, TRIED + PROBE_TIME - 0.001)

    def test_no_probe_before_its_time(self, one: BreakerStore, other: BreakerStore) -> None:
        """An open circuit stays open until its time is over, and as long as nobody asks."""
        trip(one)
        assert refused(other, TRIED - 0.001)
        assert other.read(NAME).state is OPEN

    def test_a_success_closes(self, one: BreakerStore, other: BreakerStore) -> None:
        """By default one probe that went well ends the outage for all."""
        trip(one)
        token = lease(other).token
        other.report(NAME, token, SUCCESS, asking(TRIED + 1, by=2))
        record = one.read(NAME)
        assert (record.state, record.reason, record.by) == (CLOSED, RECOVERED, 2)
        assert (record.generation, record.leases, record.changed_at) == (3, (), TRIED + 1)
        assert (record.outages, record.outage_seconds, record.outage_began) == (1, RECOVERY + 1, None)

    def test_a_failure_opens(self, one: BreakerStore, other: BreakerStore) -> None:
        """A failed probe opens the circuit for all, each time for longer if it is to be so."""
        trip(one)
        now = TRIED
        for number, seconds in enumerate((20.0, 40.0, 50.0, 50.0), start=1):
            token = lease(other, now).token
            record = other.report(NAME, token, FAILURE, asking(now + 1, max_recovery_timeout=50.0))
            assert one.read(NAME) == record
            assert (record.state, record.reason) == (OPEN, PROBE_FAILED)
            assert (record.failed_probes, record.opened) == (number, number + 1)
            assert record.open_until == now + 1 + seconds
            now = record.open_until
        assert record.outage_began == NOW
        other.report(NAME, lease(other, now).token, SUCCESS, asking(now))
        record = one.read(NAME)
        assert (record.failed_probes, record.outages, record.outage_seconds) == (0, 1, now - NOW)

    def test_a_failure_with_retry_after(self, one: BreakerStore, other: BreakerStore) -> None:
        """A service that asks to be left alone is left alone by all."""
        trip(one)
        token = lease(one).token
        one.report(NAME, token, Report(Outcome.FAILURE, retry_after=45.0), asking(TRIED))
        assert other.read(NAME).open_until == TRIED + 45

    def test_jitter(self, one: BreakerStore, other: BreakerStore) -> None:
        """How much an open time is shortened is what the asking member has drawn."""
        trip(one)
        drawn = asking(TRIED, recovery_jitter=0.5)._replace(chance=0.5)
        one.report(NAME, lease(one).token, FAILURE, drawn)
        assert other.read(NAME).open_until == TRIED + RECOVERY * 0.75

    def test_an_ignored_probe(self, one: BreakerStore, other: BreakerStore) -> None:
        """It counts for nothing; its place is free again, at once and for all."""
        trip(one)
        first = lease(one)
        record = one.report(NAME, first.token, IGNORED, asking(TRIED))
        assert (record.state, record.generation, record.leases) == (HALF_OPEN, 2, ())
        second = lease(other)
        assert second.token != first.token

    def test_an_expired_lease(self, one: BreakerStore, other: BreakerStore) -> None:
        """A probe that never reported failed at the moment its time was over, whenever that is noticed."""
        trip(one)
        expires_at = lease(one).expires_at
        record, leased = other.lease_probe(NAME, asking(expires_at + 3, by=2))
        assert leased is None
        assert record == one.read(NAME)
        assert (record.state, record.reason, record.by) == (OPEN, PROBE_FAILED, 2)
        assert (record.changed_at, record.open_until) == (expires_at, expires_at + RECOVERY)
        assert (record.opened, record.failed_probes, record.leases) == (2, 1, ())

    def test_a_lease_that_expired_long_ago(self, one: BreakerStore, other: BreakerStore) -> None:
        """Whoever comes when the open time after it is over as well may probe at once."""
        trip(one)
        first = lease(one)
        second = lease(other, first.expires_at + RECOVERY)
        record = one.read(NAME)
        assert (record.state, record.generation, record.opened) == (HALF_OPEN, 4, 2)
        assert record.leases == (second,)
        assert second.token != first.token

    @pytest.mark.parametrize("outcome", list(Outcome))
    def test_a_late_report(self, one: BreakerStore, other: BreakerStore, outcome: Outcome) -> None:
        """What a probe says whose time was over when another took its place is void."""
        trip(one)
        first = lease(one)
        second = lease(other, first.expires_at + RECOVERY)
        before = one.read(NAME)
        now = first.expires_at + RECOVERY + 1
        assert one.report(NAME, first.token, Report(outcome), asking(now)) == before
        assert other.read(NAME).leases == (second,)

    @pytest.mark.parametrize("outcome", list(Outcome))
    def test_a_late_report_of_the_only_probe(
        self, one: BreakerStore, other: BreakerStore, outcome: Outcome
    ) -> None:
        """Whoever reports too late himself finds that his probe has failed, when its time was over."""
        trip(one)
        leased = lease(one)
        one.report(NAME, leased.token, Report(outcome, retry_after=50.0), asking(leased.expires_at))
        record = other.read(NAME)
        assert (record.state, record.opened, record.failed_probes) == (OPEN, 2, 1)
        assert record.open_until == leased.expires_at + RECOVERY

    @pytest.mark.parametrize("again", list(Outcome))
    def test_a_second_report(self, one: BreakerStore, other: BreakerStore, again: Outcome) -> None:
        """A lease is given back once; what is said of it afterwards is void."""
        trip(one)
        limits = {"success_threshold": 3, "half_open_max_calls": 2}
        tokens = [lease(one, **limits).token for _ in range(2)]
        before = one.report(NAME, tokens[0], SUCCESS, asking(TRIED, **limits))
        assert before.successes == 1
        one.report(NAME, tokens[0], Report(again), asking(TRIED, **limits))
        assert other.read(NAME) == before

    @pytest.mark.parametrize("state", [CLOSED, FORCED_OPEN, DISABLED])
    @pytest.mark.parametrize("outcome", list(Outcome))
    def test_a_report_after_an_override(
        self, one: BreakerStore, other: BreakerStore, state: CircuitState, outcome: Outcome
    ) -> None:
        """Leases end with their spell: what a person has ordered is not undone by a probe."""
        trip(one)
        leased = lease(one)
        before = other.override(NAME, state, "by hand", asking(TRIED + 1))
        assert before.leases == ()
        one.report(NAME, leased.token, Report(outcome), asking(TRIED + 2))
        assert other.read(NAME) == before

    def test_who_reports(self, one: BreakerStore, other: BreakerStore) -> None:
        """The token is what counts, so that leases of two members are never taken for one another."""
        trip(one)
        limits = {"success_threshold": 2, "half_open_max_calls": 2}
        mine, yours = lease(one, by=1, **limits), lease(other, by=2, **limits)
        assert mine.token != yours.token
        one.report(NAME, mine.token, SUCCESS, asking(TRIED + 1, by=1, **limits))
        assert other.read(NAME).leases == (yours,)

    def test_tokens_never_come_again(self, one: BreakerStore, other: BreakerStore) -> None:
        """Not in another spell either, whoever has ended the one before, and by what."""
        tokens = []
        now = NOW
        for end in (SUCCESS, FAILURE, None):
            if one.read(NAME).state is CLOSED:
                trip(one, now)
            now += RECOVERY
            tokens.append(lease(other, now).token)
            if end is not None:
                other.report(NAME, tokens[-1], end, asking(now))
            else:
                one.override(NAME, CLOSED, "reset by hand", asking(now))
        trip(one, now)
        tokens.append(lease(one, now + RECOVERY).token)
        assert len(set(tokens)) == 4

    def test_success_threshold(self, one: BreakerStore, other: BreakerStore) -> None:
        """So many probes have to go well before the circuit closes, whoever makes them."""
        trip(one)
        for store, successes in ((one, 1), (other, 2)):
            store.report(NAME, lease(store).token, SUCCESS, asking(TRIED, success_threshold=3))
            record = other.read(NAME)
            assert (record.state, record.successes, record.generation) == (HALF_OPEN, successes, 2)
        one.report(NAME, lease(one).token, SUCCESS, asking(TRIED, success_threshold=3))
        record = other.read(NAME)
        assert (record.state, record.successes) == (CLOSED, 0)

    def test_half_open_max_calls(self, one: BreakerStore, other: BreakerStore) -> None:
        """So many may be under way at once, those of all members together; the first to fail opens."""
        trip(one)
        limits = {"half_open_max_calls": 3}
        leases = [lease(store, TRIED + delay, **limits) for delay, store in enumerate((one, other, one))]
        assert refused(one, TRIED + 3, **limits)
        assert refused(other, TRIED + 3, **limits)
        record = other.report(NAME, leases[1].token, FAILURE, asking(TRIED + 3, **limits))
        assert (record.state, record.leases, record.opened) == (OPEN, (), 2)
        for each in (leases[0], leases[2]):
            assert one.report(NAME, each.token, FAILURE, asking(TRIED + 3, **limits)) == record

    def test_the_first_of_several_to_expire(self, one: BreakerStore, other: BreakerStore) -> None:
        """It opens the circuit at its moment; the others are void then."""
        trip(one)
        limits = {"half_open_max_calls": 3}
        first, *_ = (lease(one, TRIED + delay, **limits) for delay in (0, 1, 2))
        record, _ = other.lease_probe(NAME, asking(TRIED + PROBE_TIME + 3, **limits))
        assert (record.state, record.leases, record.opened) == (OPEN, (), 2)
        assert record.changed_at == first.expires_at

    def test_never_more_than_eight(self, one: BreakerStore, other: BreakerStore) -> None:
        """However many a config allows; each that is given back makes room for another."""
        trip(one)
        limits = {"half_open_max_calls": 50, "success_threshold": 50}
        stores = [(one, other)[number % 2] for number in range(MAX_LEASES)]
        leases = [lease(store, by=number, **limits) for number, store in enumerate(stores)]
        assert other.read(NAME).leases == tuple(leases)
        assert len({each.token for each in leases}) == MAX_LEASES
        assert refused(one, **limits)
        other.report(NAME, leases[3].token, SUCCESS, asking(TRIED, **limits))
        lease(one, **limits)
        assert refused(other, **limits)

    @pytest.mark.parametrize(
        ("outcomes", "state", "reason"),
        [
            ("SSS", CLOSED, RECOVERED),
            ("SFS", CLOSED, RECOVERED),
            ("FSS", CLOSED, RECOVERED),
            ("FSF", OPEN, f"{PROBE_FAILED}: failure rate 66.7% >= 50%"),
            ("FFF", OPEN, f"{PROBE_FAILED}: failure rate 100% >= 50%"),
        ],
    )
    def test_half_open_quota(self, members: Members, outcomes: str, state: CircuitState, reason: str) -> None:
        """With a quota so many results are waited for, of whichever member; then their share decides."""
        trip(members[0])
        for number, outcome in enumerate(outcomes):
            assert members[0].read(NAME).state is (HALF_OPEN if number else OPEN)
            store = members[number % 2]
            report = SUCCESS if outcome == "S" else FAILURE
            store.report(
                NAME, lease(store, half_open_quota=3).token, report, asking(TRIED, half_open_quota=3)
            )
        record = members[1].read(NAME)
        assert (record.state, record.reason, record.generation) == (state, reason, 3)
        assert (record.failed_probes, record.trial) == (int(state is OPEN), (0, 0, 0))

    def test_no_more_probes_than_a_quota_wants(self, one: BreakerStore, other: BreakerStore) -> None:
        """As many are under way as there are results missing; one that is ignored makes room again."""
        trip(one)
        limits = {"half_open_quota": 3, "half_open_max_calls": 5}
        tokens = [lease(store, **limits).token for store in (one, other, one)]
        assert refused(other, **limits)
        one.report(NAME, tokens[0], SUCCESS, asking(TRIED, **limits))
        assert refused(other, **limits)
        one.report(NAME, tokens[1], IGNORED, asking(TRIED, **limits))
        lease(other, **limits)
        assert refused(one, **limits)
        assert other.read(NAME).trial == (1, 0, 0)

    @pytest.mark.parametrize(
        ("slow_from", "state", "reason"),
        [
            (PROBE_TIME, OPEN, f"{PROBE_FAILED}: slow-call rate 50% >= 50%"),
            (PROBE_TIME + 1, CLOSED, RECOVERED),
        ],
    )
    def test_an_expired_lease_of_a_quota(
        self, one: BreakerStore, other: BreakerStore, slow_from: float, state: CircuitState, reason: str
    ) -> None:
        """It is one of the results, a failed one, and as slow as a probe's time is long."""
        trip(one)
        limits: dict[str, Any] = {
            "half_open_quota": 2,
            "failure_rate_threshold": 0.6,
            "slow_call_seconds": slow_from,
            "slow_call_rate_threshold": 0.5,
        }
        one.report(NAME, lease(one, **limits).token, SUCCESS, asking(TRIED, **limits))
        expires_at = lease(one, **limits).expires_at
        record, leased = other.lease_probe(NAME, asking(expires_at + 1, **limits))
        assert leased is None
        assert (record.state, record.reason, record.changed_at) == (state, reason, expires_at)

    def test_leases_of_different_length(self, one: BreakerStore, other: BreakerStore) -> None:
        """Each lasts as long as its member says; the first to be over opens the circuit."""
        trip(one)
        limits = {"half_open_max_calls": 2}
        lease(one, **limits)
        short = lease(other, half_open_timeout=1.5, **limits)
        assert short.expires_at == TRIED + 1.5
        record, _ = one.lease_probe(NAME, asking(TRIED + PROBE_TIME, **limits))
        assert (record.state, record.changed_at, record.opened) == (OPEN, TRIED + 1.5, 2)

    def test_several_expired_leases_of_a_quota(self, one: BreakerStore, other: BreakerStore) -> None:
        """Each is one of the results; the last of them decides, as of its moment."""
        trip(one)
        limits: dict[str, Any] = {"half_open_quota": 4, "half_open_max_calls": 4}
        for delay in range(3):
            lease(one, TRIED + delay, **limits)
        now = TRIED + 1 + PROBE_TIME
        record, leased = other.lease_probe(NAME, asking(now, **limits))
        assert leased is not None
        assert (record.state, record.trial, len(record.leases)) == (HALF_OPEN, (2, 2, 0), 2)
        record, leased = other.lease_probe(NAME, asking(now + PROBE_TIME, **limits))
        assert leased is None
        assert (record.state, record.changed_at, record.opened) == (OPEN, now + PROBE_TIME, 2)

    def test_has_room(self, one: BreakerStore, other: BreakerStore) -> None:
        """A record tells whether it is worth while to ask: for a probe, or to have an expired one counted."""
        trip(one)
        two, single = (asking(half_open_max_calls=places).config for places in (2, 1))
        lease(one, half_open_max_calls=2)
        record = other.read(NAME)
        assert [record.has_room(config, TRIED) for config in (two, single)] == [True, False]
        lease(one, TRIED + 1, half_open_max_calls=2)
        record = other.read(NAME)
        for now, room in ((TRIED + 1, False), (TRIED + PROBE_TIME - 0.1, False), (TRIED + PROBE_TIME, True)):
            assert [record.has_room(config, now) for config in (two, single)] == [room, room]

    def test_has_room_with_a_quota(self, one: BreakerStore, other: BreakerStore) -> None:
        """There is none for more probes than are wanted, until the last has to be counted as expired."""
        trip(one)
        limits = {"half_open_quota": 2, "half_open_max_calls": 5}
        config = asking(**limits).config
        one.report(NAME, lease(one, **limits).token, SUCCESS, asking(TRIED, **limits))
        assert other.read(NAME).has_room(config, TRIED)
        lease(one, **limits)
        record = other.read(NAME)
        assert not record.has_room(config, TRIED)
        assert not record.has_room(config, TRIED + PROBE_TIME - 0.1)
        assert record.has_room(config, TRIED + PROBE_TIME)

    # -- by hand --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("state", [FORCED_OPEN, DISABLED, CLOSED])
    @pytest.mark.parametrize("before", [CLOSED, OPEN, HALF_OPEN, FORCED_OPEN, DISABLED])
    def test_override(
        self, one: BreakerStore, other: BreakerStore, before: CircuitState, state: CircuitState
    ) -> None:
        """What a person has ordered holds for all, wherever the circuit has been."""
        if before in (OPEN, HALF_OPEN):
            trip(one)
        if before is HALF_OPEN:
            lease(one)
        if before in (FORCED_OPEN, DISABLED):
            one.override(NAME, before, "before", asking(NOW))
        known = other.read(NAME)
        assert known.state is before
        one.override(NAME, state, "by hand", asking(NOW + 50, by=5))
        record = other.read(NAME)
        assert (record.state, record.reason, record.by) == (state, "by hand", 5)
        assert record.generation == known.generation + 1
        assert record.changed_at == (NOW + 50 if before is not state else known.changed_at)
        assert (record.leases, record.successes, record.opened) == ((), 0, known.opened)

    def test_an_outage_that_is_ended_by_hand(self, one: BreakerStore, other: BreakerStore) -> None:
        """It says nothing about how long recovery takes, and the next open time begins with the shortest."""
        trip(one)
        one.report(NAME, lease(one).token, FAILURE, asking(TRIED, max_recovery_timeout=99.0))
        one.override(NAME, CLOSED, "reset by hand", asking(TRIED + 5))
        record = other.read(NAME)
        assert (record.outages, record.outage_seconds, record.outage_began) == (0, 0.0, None)
        assert record.failed_probes == 0

    def test_an_outage_goes_on_while_it_is_forced_open(self, one: BreakerStore, other: BreakerStore) -> None:
        """To hold a circuit open does not end the outage it is in."""
        trip(one)
        one.override(NAME, FORCED_OPEN, "upkeep", asking(NOW + 5))
        assert other.read(NAME).outage_began == NOW

    # -- probing in the background --------------------------------------------------------------------

    def test_hold(self, one: BreakerStore, other: BreakerStore) -> None:
        """A circuit that somebody probes otherwise stays open for all, for as long as he says."""
        generation = trip(one).generation
        held = one.hold(NAME, generation, TRIED + 5)
        assert (held.state, held.generation, held.open_until) == (OPEN, generation, TRIED + 5)
        assert refused(other, TRIED + 4.999)
        assert not refused(other, TRIED + 5)

    @pytest.mark.parametrize("state", [HALF_OPEN, CLOSED, FORCED_OPEN, DISABLED])
    @pytest.mark.parametrize("what", ["hold", "recover"])
    def test_only_an_open_circuit(
        self, one: BreakerStore, other: BreakerStore, state: CircuitState, what: str
    ) -> None:
        """A circuit in any other state is neither held nor closed by who probes in the background."""
        if state is HALF_OPEN:
            trip(one)
            lease(one)
        else:
            one.override(NAME, state, "by hand", asking())
        before = other.read(NAME)
        if what == "hold":
            one.hold(NAME, before.generation, TRIED + 99)
        else:
            one.recover(NAME, before.generation, asking(TRIED))
        assert other.read(NAME) == before

    def test_recover(self, one: BreakerStore, other: BreakerStore) -> None:
        """A service that is known to be well is called again by all, whatever is left of the open time."""
        generation = trip(one).generation
        record = other.recover(NAME, generation, asking(NOW + 3, by=2))
        assert record == one.read(NAME)
        assert (record.state, record.reason, record.by) == (CLOSED, RECOVERED, 2)
        assert (record.generation, record.changed_at) == (generation + 2, NOW + 3)
        assert (record.outages, record.outage_seconds, record.failed_probes) == (1, 3.0, 0)

    @pytest.mark.parametrize("what", ["hold", "recover"])
    def test_only_in_its_spell(self, one: BreakerStore, other: BreakerStore, what: str) -> None:
        """Who still speaks of an open spell that is over changes nothing in the present one."""
        generation = trip(one).generation
        one.report(NAME, lease(one).token, FAILURE, asking(TRIED))
        before = other.read(NAME)
        assert (before.state, before.generation) == (OPEN, generation + 2)
        for each in (generation, generation + 1, generation + 3):
            if what == "hold":
                other.hold(NAME, each, TRIED + 99)
            else:
                other.recover(NAME, each, asking(TRIED))
        assert one.read(NAME) == before

    # -- pauses ---------------------------------------------------------------------------------------

    def test_the_longest_pause_wins(self, one: BreakerStore, other: BreakerStore) -> None:
        """Whatever the service asks of whom, all stay away for as long as it has asked for at most."""
        one.pause(NAME, NOW + 30, 30.0)
        other.pause(NAME, NOW + 20, 19.0)
        record = one.read(NAME)
        assert (record.pause_until, record.pause_seconds) == (NOW + 30, 30.0)
        other.pause(NAME, NOW + 40, 25.0)
        record = one.read(NAME)
        assert (record.pause_until, record.pause_seconds) == (NOW + 40, 25.0)
        assert (record.state, record.generation, record.changed_at) == (CLOSED, 0, None)

    def test_a_reset_ends_the_pause(self, one: BreakerStore, other: BreakerStore) -> None:
        """A person who resets the circuit wants to see calls again; whoever forces it open does not."""
        one.pause(NAME, NOW + 30, 30.0)
        other.override(NAME, FORCED_OPEN, "upkeep", asking())
        assert other.read(NAME).pause_until == NOW + 30
        other.override(NAME, CLOSED, "reset by hand", asking())
        record = one.read(NAME)
        assert (record.pause_until, record.pause_seconds) == (0.0, 0.0)

    def test_the_end_of_a_pause(self, one: BreakerStore, other: BreakerStore) -> None:
        """It can be ended by itself, and the next one counts, however short it is."""
        one.pause(NAME, NOW + 30, 30.0)
        other.pause(NAME, 0.0, 0.0)
        assert one.read(NAME).pause_until == 0.0
        other.pause(NAME, NOW + 1, 1.0)
        assert one.read(NAME).pause_until == NOW + 1

    def test_a_pause_outlasts_the_outage(self, one: BreakerStore, other: BreakerStore) -> None:
        """That a probe went well ends no pause."""
        trip(one)
        one.pause(NAME, TRIED + 30, 40.0)
        one.report(NAME, lease(one).token, SUCCESS, asking(TRIED))
        assert other.read(NAME).pause_until == TRIED + 30

    # -- being told -----------------------------------------------------------------------------------

    def test_told(self, one: BreakerStore, other: BreakerStore) -> None:
        """Whoever wants to hear of changes is called soon after each, though he asks for nothing."""
        ears = [Ear(), Ear()]
        for ear in ears:
            other.cell(NAME, ear.hear)
        other.read(NAME)  # a store may be asleep until it is asked something for the first time
        for step in (trip, lease, lambda store: store.pause(NAME, NOW + 5, 5.0)):
            before = [ear.told for ear in ears]
            step(one)
            assert soon(lambda then=before: all(e.told > told for e, told in zip(ears, then, strict=True)))

    def test_told_after_the_change(self, one: BreakerStore, other: BreakerStore) -> None:
        """Who is called reads what has become of the circuit."""
        seen: list[tuple[CircuitState, int]] = []

        class Looking:
            def hear(self) -> None:
                seen.append((other.read(NAME).state, cell.words[0]))

        looking = Looking()
        cell = other.cell(NAME, looking.hear)
        other.read(NAME)
        version = trip(one).version
        assert soon(lambda: (OPEN, version) in seen)

    def test_nobody_is_kept_alive(self, one: BreakerStore, other: BreakerStore) -> None:
        """A store does not keep those that listen, nor miss those that are gone."""
        ears = [Ear(), Ear()]
        for number in range(2):
            other.cell(NAME, ears[number].hear)
        other.read(NAME)
        trip(one)
        assert soon(lambda: all(ear.told for ear in ears))
        gone, stays = weakref.ref(ears[0]), ears[1]
        told = stays.told
        ears.clear()
        assert soon(lambda: gc.collect() is not None and gone() is None)
        one.override(NAME, CLOSED, "reset by hand", asking())
        assert soon(lambda: stays.told > told)

    # -- the time of day ------------------------------------------------------------------------------

    def test_one_calendar(self, one: BreakerStore, other: BreakerStore) -> None:
        """All members tell the time of day by one moment, until the wall clock is set anew."""
        today = datetime(2024, 5, 17, 12, tzinfo=UTC)
        known = one.calendar(NOW, today)
        assert known == (NOW, today)
        later = today + timedelta(seconds=10.05)  # as clocks go
        assert other.calendar(NOW + 10, later) == known
        anew = today + timedelta(hours=1)
        assert other.calendar(NOW + 20, anew) == (NOW + 20, anew)
        assert one.calendar(NOW + 30, anew + timedelta(seconds=10)) == (NOW + 20, anew)
