"""Members of one circuit in every order: what they may do to each other, and what never happens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitChanged
from service_utils.forks import Forks
from service_utils.policies.breaker import CircuitBreaker, Permit
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.permit import Leased, Report
from service_utils.policies.record import BLANK, Asking, CircuitRecord, Lease, Trip
from service_utils.policies.store import MemoryBreakerStore
from service_utils.testing import FakeClock
from tests.policies.breaker_model import Call, Limits, Model
from tests.policies.circuits import Ear
from tests.policies.sharing import NAME, Line

# -- all orders of short scripts -----------------------------------------------------------------------

RECOVERY, PROBE_TIME = 10.0, 4.0
SCRIPTS = [
    "look trip lease success",
    "look trip lease failure",
    "lease ignored lease success failure",
    "lease",  # and dies
    "look lease trip",
    "look trip reset lease",
]
SHORT = ["look trip lease success", "lease failure", "lease"]
WAITS = ["10 4 10", "9 5 9"]
LIMITS = [
    {"half_open_max_calls": 1, "success_threshold": 1},
    {"half_open_max_calls": 2, "success_threshold": 2},
]


class Held(NamedTuple):
    """A lease of a member, the spell it was given in, and whether it has been reported."""

    lease: Lease
    generation: int
    reported: bool = False


class Moment(NamedTuple):
    """Where all members and the circuit are: nothing else matters for what may come of it."""

    steps: tuple[int, ...]
    now: float = 0.0
    record: CircuitRecord = BLANK
    known: tuple[int, ...] = (-1,) * 3
    held: tuple[Held | None, ...] = (None,) * 3


class Orders:
    """Goes through all orders in which members can take the steps of their scripts, and time its own.

    Whatever comes after the same moment is the same, however it was reached: it is gone through once.

    Args:
        scripts: One for each member; the last is what time does.
        limits: Of the circuit.
    """

    def __init__(self, scripts: Sequence[str], limits: dict[str, int]) -> None:
        self.scripts = [script.split() for script in scripts]
        self.config = BreakerConfig(recovery_timeout=RECOVERY, half_open_timeout=PROBE_TIME, **limits)
        self.store = MemoryBreakerStore()
        self.cell = self.store.cell(NAME)
        self.seen: set[Moment] = set()
        self.ends = 0
        self.path: list[str] = []

    def go(self) -> None:
        try:
            self.go_on(Moment((0,) * len(self.scripts)))
        except AssertionError as error:
            raise AssertionError(f"after {' / '.join(self.path)}") from error

    def go_on(self, moment: Moment) -> None:
        if moment in self.seen:
            return
        self.seen.add(moment)
        self.check(moment)
        for index, script in enumerate(self.scripts):
            step = moment.steps[index]
            if step < len(script):
                self.path.append(f"{index}: {script[step]}")
                steps = (*moment.steps[:index], step + 1, *moment.steps[index + 1 :])
                self.go_on(self.take(index, script[step], moment._replace(steps=steps)))
                self.path.pop()
        if all(step == len(script) for step, script in zip(moment.steps, self.scripts, strict=True)):
            self.ends += 1
            self.recover(moment)

    def put(self, record: CircuitRecord) -> None:
        self.store._records[NAME] = record
        self.cell.words = self.store.cell(NAME).words
        self.cell.words[0] = record.version  # type: ignore[index]

    def take(self, index: int, what: str, moment: Moment) -> Moment:
        """Take one step of a script."""
        if index == len(self.scripts) - 1:
            return moment._replace(now=moment.now + float(what))
        self.put(moment.record)
        held = moment.held[index]
        if what == "look":
            known = self.store.read(NAME).version
            return moment._replace(known=(*moment.known[:index], known, *moment.known[index + 1 :]))
        if what == "trip":
            self.trip(index, moment)
        elif what == "lease":
            held = self.lease(index, moment)
        elif what == "reset":
            asking = self.asking(index, moment)
            record = self.store.override(NAME, BLANK.state, "reset by hand", asking)
            assert (record.state, record.leases, record.generation) == (
                "closed",
                (),
                moment.record.generation + 1,
            )
        elif held is not None:
            self.report(index, Outcome(what), held, moment)
            held = held._replace(reported=True)
        record = self.store.read(NAME)
        self.compare(moment.record, record)
        return moment._replace(record=record, held=(*moment.held[:index], held, *moment.held[index + 1 :]))

    def asking(self, index: int, moment: Moment) -> Asking:
        return Asking(index + 1, moment.now, self.config)

    def trip(self, index: int, moment: Moment) -> None:
        before, known = moment.record, moment.known[index]
        wish = Trip("sick", moment.now, moment.now + RECOVERY, index + 1)
        record = self.store.trip(NAME, known, wish)
        if known != before.version or before.state != "closed":
            assert record == before  # what it was decided on is no longer so
            return
        assert (record.state, record.by, record.open_until) == ("open", index + 1, moment.now + RECOVERY)
        assert record.opened == before.opened + 1

    def lease(self, index: int, moment: Moment) -> Held | None:
        record, lease = self.store.lease_probe(NAME, self.asking(index, moment))
        assert (lease is not None) is self.may_probe(moment)
        if lease is None:
            return moment.held[index]
        assert lease == record.leases[-1]
        assert lease.token > moment.record.last_token
        assert lease.expires_at == moment.now + PROBE_TIME
        assert record.state == "half_open"
        return Held(lease, record.generation)

    def may_probe(self, moment: Moment) -> bool:
        """Whether a lease is to be had, and if the last one has just been lost what opened the circuit."""
        record, now = moment.record, moment.now
        if record.state == "closed":
            return False
        if record.state == "open":
            return now >= record.open_until
        failed_at = self.failed_at(moment)
        if failed_at is not None:
            return now >= failed_at + RECOVERY
        return len(record.leases) < self.config.half_open_max_calls

    def failed_at(self, moment: Moment) -> float | None:
        """When the first lease was over that nobody had noticed."""
        ends = [each.expires_at for each in moment.record.leases if each.expires_at <= moment.now]
        return min(ends, default=None)

    def report(self, index: int, outcome: Outcome, held: Held, moment: Moment) -> None:
        before, now = moment.record, moment.now
        record = self.store.report(NAME, held.lease.token, Report(outcome), self.asking(index, moment))
        failed_at = self.failed_at(moment)
        if failed_at is not None:  # that ends the spell, whoever it is that reports
            assert (record.state, record.open_until) == ("open", failed_at + RECOVERY)
        elif held.lease not in before.leases:
            assert record == before  # void
        elif outcome is Outcome.FAILURE:
            assert (record.state, record.open_until, record.leases) == ("open", now + RECOVERY, ())
            assert record.opened == before.opened + 1
        elif outcome is Outcome.SUCCESS and before.successes + 1 == self.config.success_threshold:
            assert (record.state, record.leases) == ("closed", ())
        else:
            assert record.state == "half_open"
            assert set(before.leases) - set(record.leases) == {held.lease}
            assert record.successes == before.successes + (outcome is Outcome.SUCCESS)

    def compare(self, before: CircuitRecord, after: CircuitRecord) -> None:
        """What holds of every change."""
        assert self.cell.words[0] == after.version
        assert (after.version == before.version) is (after == before)
        assert after.version >= before.version
        assert after.generation >= before.generation
        assert after.last_token >= before.last_token
        assert after.opened >= before.opened
        if after.state is not before.state:
            assert after.generation > before.generation

    def check(self, moment: Moment) -> None:
        """What holds at every moment."""
        record, now = moment.record, moment.now
        believed = [
            each.lease
            for each in moment.held
            if each is not None and not each.reported and each.generation == record.generation
        ]
        live = [each for each in believed if now < each.expires_at]
        assert len(live) <= self.config.half_open_max_calls
        assert set(live) <= set(record.leases)
        assert len({each.token for each in record.leases}) == len(record.leases)
        assert not record.leases or record.state == "half_open"

    def recover(self, moment: Moment) -> None:
        """Whatever has happened, after some time anybody can try the service and close the circuit."""
        self.put(moment.record)
        later, record = moment.now + 1000.0, moment.record
        for number in range(self.config.success_threshold):
            if record.state == "closed":
                break
            asking = Asking(9, later + number, self.config)
            _, lease = self.store.lease_probe(NAME, asking)
            assert lease is not None
            record = self.store.report(NAME, lease.token, Report(Outcome.SUCCESS), asking)
        assert record.state == "closed"
        assert self.store.trip(NAME, record.version, Trip("sick", later, later + 1, 9)).state == "open"


@pytest.mark.parametrize("limits", LIMITS, ids=["one-probe", "two-probes"])
def test_two_members_in_all_orders(limits: dict[str, int]) -> None:
    """Whatever two members do, and whenever time passes, one rule decides, and none is locked out."""
    ends = 0
    for members in itertools.combinations_with_replacement(SCRIPTS, 2):
        for waits in WAITS:
            orders = Orders([*members, waits], limits)
            orders.go()
            ends += orders.ends
    assert ends > 1000


@pytest.mark.parametrize("limits", LIMITS, ids=["one-probe", "two-probes"])
def test_three_members_in_all_orders(limits: dict[str, int]) -> None:
    """The same of three."""
    ends = 0
    for members in itertools.combinations_with_replacement(SHORT, 3):
        orders = Orders([*members, "10 14"], limits)
        orders.go()
        ends += orders.ends
    assert ends > 500


# -- random stories, against the model of one circuit --------------------------------------------------

NOBODY = -1
MEMBERS = 3
WHO = st.integers(0, MEMBERS - 1)
RESULTS = st.tuples(st.sampled_from(Outcome), st.integers(0, 5))
"""What a call came to, and how long it took."""


class SharedModel(Model):
    """The circuit of all members, of whom each counts its own failures in a row.

    That a probe's time is over is noticed by whoever asks for a probe or reports one.
    """

    def __init__(self, limits: Limits) -> None:
        self.rows = [0] * (MEMBERS + 1)
        self.who = NOBODY
        self.generation = 0
        self.void: set[Call] = set()
        super().__init__(limits)

    @property
    def in_a_row(self) -> int:
        return self.rows[self.who]

    @in_a_row.setter
    def in_a_row(self, number: int) -> None:
        self.rows[self.who] = number

    def move(self, state: str) -> None:
        self.generation += 1
        super().move(state)

    def close(self, when: float, by_hand: bool = False) -> None:
        super().close(when, by_hand)
        self.rows = [0] * len(self.rows)

    def bury_silent_probes(self) -> None:
        who, self.who = self.who, NOBODY
        super().bury_silent_probes()
        self.who = who

    def record(self, call: Call, outcome: Outcome, duration: int, retry_after: int | None) -> None:
        if call in self.void or call.spell is not self.spell:
            return
        self.void.add(call)
        if call.expires is not None:
            super().record(call, outcome, duration, retry_after)
        elif outcome is not Outcome.IGNORED:
            self.count(self.now, outcome is Outcome.FAILURE, duration, retry_after)


LIMITS_OF_STORIES: dict[str, st.SearchStrategy[Any]] = {
    "threshold": st.integers(1, 3),
    "recovery": st.integers(0, 8),
    "successes": st.integers(1, 3),
    "probes": st.integers(1, 3),
    "probe_time": st.none() | st.integers(1, 12),
    "growth": st.none() | st.integers(0, 40),
    "quota": st.none() | st.integers(1, 5),
}


def limits_of(drawn: dict[str, Any]) -> Limits:
    return Limits(
        threshold=drawn["threshold"],
        recovery=drawn["recovery"],
        successes=1 if drawn["quota"] else drawn["successes"],
        probes=drawn["probes"],
        probe_time=drawn["probe_time"],
        longest=None if drawn["growth"] is None else drawn["recovery"] + drawn["growth"],
        longest_retry_after=20,
        window_size=None,
        window_seconds=None,
        least_calls=1,
        failure_share=Fraction(1, 2),
        slow_from=None,
        slow_share=Fraction(1),
        quota=drawn["quota"],
    )


def config_of(limits: Limits) -> BreakerConfig:
    return BreakerConfig(
        failure_threshold=limits.threshold,
        recovery_timeout=limits.recovery,
        success_threshold=limits.successes,
        half_open_max_calls=limits.probes,
        half_open_timeout=limits.probe_time,
        max_recovery_timeout=limits.longest,
        max_retry_after=limits.longest_retry_after,
        half_open_quota=limits.quota,
    )


class SharedStories(RuleBasedStateMachine):
    """Members of one store are one circuit, the same as a single breaker would be."""

    calls = Bundle("calls")

    @initialize(drawn=st.fixed_dictionaries(LIMITS_OF_STORIES))
    def begin(self, drawn: dict[str, Any]) -> None:
        limits = limits_of(drawn)
        self.model = SharedModel(limits)
        self.clock = FakeClock()
        self.ears = [Ear() for _ in range(MEMBERS)]
        store, config = MemoryBreakerStore(), config_of(limits)
        self.breakers = [
            CircuitBreaker(NAME, config, store=store, clock=self.clock, listeners=[ear]) for ear in self.ears
        ]
        self.given: list[list[Call]] = [[] for _ in range(MEMBERS)]

    @contextmanager
    def _doing(self, who: int) -> Iterator[CircuitBreaker]:
        """What one member does is heard by all, by the others as done elsewhere."""
        moves, heard = len(self.model.moves), [len(ear.changes) for ear in self.ears]
        self.model.who = who
        yield self.breakers[who]
        changed = len(self.model.moves) > moves
        for index, ear in enumerate(self.ears):
            changes = [each for each in ear.events if isinstance(each, CircuitChanged)][heard[index] :]
            assert bool(changes) is changed
            assert all(each.elsewhere is (index != who) for each in changes)
            if changes:
                assert changes[-1].to_state == self.model.spell.state
                assert changes[-1].generation == self.model.generation
            for earlier, later in itertools.pairwise(changes):
                assert earlier.to_state == later.from_state

    def _acquire(self, who: int) -> tuple[int, Permit, Call] | None:
        with self._doing(who) as breaker:
            expected = self.model.acquire()
            if expected is None:
                with pytest.raises(CircuitOpenError) as caught:
                    breaker.acquire()
                assert caught.value.cooldown_remaining == self.model.cooldown
                return None
            permit = breaker.acquire()
        assert permit.half_open is (expected.expires is not None)
        assert permit.expires_at == expected.expires
        self.given[who].append(expected)
        return who, permit, expected

    def _record(
        self, call: tuple[int, Permit, Call], result: tuple[Outcome, int], retry_after: int | None = None
    ) -> None:
        who, permit, expected = call
        with self._doing(who) as breaker:
            self.model.record(expected, *result, retry_after)
            breaker.record(permit, *result, retry_after=retry_after)

    @rule(target=calls, who=WHO, times=st.integers(1, 3))
    def acquire(self, who: int, times: int) -> object:
        return multiple(*filter(None, (self._acquire(who) for _ in range(times))))

    @rule(call=calls, result=RESULTS, retry_after=st.none() | st.integers(0, 30))
    def record(
        self, call: tuple[int, Permit, Call], result: tuple[Outcome, int], retry_after: int | None
    ) -> None:
        self._record(call, result, retry_after)

    @rule(call=consumes(calls))
    def forget(self, call: tuple[int, Permit, Call]) -> None:
        """A call that never reports."""

    @rule(who=WHO, results=st.lists(RESULTS, min_size=1, max_size=4))
    def call(self, who: int, results: list[tuple[Outcome, int]]) -> None:
        """Calls that report at once, as most do."""
        for result in results:
            if (call := self._acquire(who)) is not None:
                self._record(call, result)

    @rule(seconds=st.integers(0, 15))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.model.now += seconds

    @rule()
    def advance_to_the_end_of_the_open_time(self) -> None:
        seconds = self.model.cooldown
        self.clock.advance(seconds)
        self.model.now += seconds

    @rule(who=WHO, which=st.sampled_from(["forced_open", "disabled", "closed", "closed", "closed"]))
    def override(self, who: int, which: str) -> None:
        with self._doing(who) as breaker:
            if which == "closed":
                self.model.close(self.model.now, by_hand=True)
                breaker.reset()
            elif which == "forced_open":
                self.model.move(which)
                breaker.force_open("story")
            else:
                self.model.move(which)
                breaker.disable("story")

    @rule(who=WHO, seconds=st.integers(0, 20))
    def hold_open(self, who: int, seconds: int) -> None:
        with self._doing(who) as breaker:
            is_open = self.model.spell.state == "open"
            if is_open:
                self.model.open_until = max(self.model.open_until, self.model.now + seconds)
            assert breaker.hold_open(breaker.generation, seconds) is is_open

    @rule(who=WHO)
    def recover(self, who: int) -> None:
        if self.model.spell.state == "open":
            with self._doing(who) as breaker:
                self.model.move("half_open")
                self.model.close(self.model.now)
                assert breaker.recover(breaker.generation) is True

    @rule(who=WHO)
    def fork(self, who: int) -> None:
        """What is done in a forked child: that member's calls under way are void from then on."""
        forks = Forks()
        forks.guard(self.breakers[who])
        forks.before()
        forks.after_in_child()
        self.model.void.update(self.given[who])

    @rule(who=WHO)
    def refused(self, who: int) -> None:
        refuses = self.model.would_refuse()
        expected = (self.model.spell.state, self.model.cooldown) if refuses else None
        assert self.breakers[who].refused() == expected

    @invariant()
    def all_say_the_same(self) -> None:
        model = self.model
        waits = model.would_refuse() and model.spell.state != "forced_open"
        mttr = sum(model.outages) / len(model.outages) if model.outages else None
        for breaker, row in zip(self.breakers, model.rows, strict=False):
            stats = breaker.get_stats()
            assert stats["state"] == breaker.state == model.spell.state
            assert breaker.generation == model.generation
            assert stats["failure_count"] == row
            assert stats["cooldown_remaining"] == model.cooldown
            assert stats["half_open_in_use"] == model.in_use <= model.limits.probes
            assert stats["opened_count"] == model.opened
            assert stats["mttr_seconds"] == mttr
            assert breaker.retry_after() == (model.cooldown if waits else None)


# -- random stories in which the store comes and goes --------------------------------------------------


class OutageStories(RuleBasedStateMachine):
    """Whenever members lose the store and find it again, they are one circuit again; no other notices."""

    permits = Bundle("permits")

    @initialize(drawn=st.fixed_dictionaries(LIMITS_OF_STORIES))
    def begin(self, drawn: dict[str, Any]) -> None:
        self.config = config_of(limits_of(drawn))
        self.clock = FakeClock()
        self.store = MemoryBreakerStore()
        self.lines = [Line(self.store) for _ in range(MEMBERS)]
        self.breakers = [
            CircuitBreaker(NAME, self.config, store=line, clock=self.clock) for line in self.lines
        ]
        self.leases: list[tuple[Leased, int]] = []
        self.last = self.store.read(NAME)

    @rule(target=permits, who=WHO, times=st.integers(1, 3))
    def acquire(self, who: int, times: int) -> object:
        permits = [permit for _ in range(times) if (permit := self._acquire(who)) is not None]
        return multiple(*((who, permit) for permit in permits))

    def _acquire(self, who: int) -> Permit | None:
        refused = self.breakers[who].refused() is not None
        try:
            permit = self.breakers[who].acquire()
        except CircuitOpenError:
            return None
        assert not refused
        if isinstance(permit, Leased):
            self.leases.append((permit, self.store.read(NAME).generation))
        return permit

    @rule(given=permits, outcome=st.sampled_from(Outcome), retry_after=st.none() | st.integers(0, 30))
    def record(self, given: tuple[int, Permit], outcome: Outcome, retry_after: int | None) -> None:
        who, permit = given
        self.breakers[who].record(permit, outcome, retry_after=retry_after)
        self.leases = [each for each in self.leases if each[0] is not permit]

    @rule(who=WHO, outcomes=st.lists(st.sampled_from(Outcome), min_size=1, max_size=4))
    def call(self, who: int, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if (permit := self._acquire(who)) is not None:
                self.breakers[who].record(permit, outcome)
                self.leases = [each for each in self.leases if each[0] is not permit]

    @rule(seconds=st.integers(0, 15))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(who=WHO)
    def cut(self, who: int) -> None:
        self.lines[who].cut()

    @rule(who=WHO)
    def mend(self, who: int) -> None:
        self._mend(who)

    def _mend(self, who: int) -> None:
        self.lines[who].mend()

    @rule(who=WHO)
    def tell(self, who: int) -> None:
        self.lines[who].tell()

    @rule(
        who=WHO,
        what=st.sampled_from(
            [
                lambda breaker: breaker.force_open("story"),
                lambda breaker: breaker.disable("story"),
                CircuitBreaker.reset,
                CircuitBreaker.reset,
                lambda breaker: breaker.hold_open(breaker.generation, 9.0),
                lambda breaker: breaker.recover(breaker.generation),
                lambda breaker: breaker.pause(9.0, 9.0),
            ]
        ),
    )
    def take_in_hand(self, who: int, what: Callable[[CircuitBreaker], object]) -> None:
        what(self.breakers[who])

    @invariant()
    def no_number_comes_again(self) -> None:
        before, record = self.last, self.store.read(NAME)
        assert (record.version == before.version) is (record == before)
        assert record.version >= before.version
        assert record.generation >= before.generation
        assert record.last_token >= before.last_token
        assert record.opened >= before.opened
        self.last = record

    @invariant()
    def no_more_probes_than_may(self) -> None:
        record, now = self.store.read(NAME), self.clock.monotonic()
        live = {
            permit.token
            for permit, generation in self.leases
            if generation == record.generation and now < permit.expires_at
        }
        assert live <= {each.token for each in record.leases}
        assert len(record.leases) <= self.config.half_open_max_calls

    @invariant()
    def who_has_the_store_follows_it(self) -> None:
        now = self.clock.monotonic()
        for line, breaker in zip(self.lines, self.breakers, strict=True):
            if line.away:
                continue
            breaker.catch_up()
            record, stats = self.store.read(NAME), breaker.get_stats()
            assert (breaker.state, breaker.generation) == (record.state, record.generation)
            assert stats["opened_count"] == record.opened
            assert stats["half_open_in_use"] == sum(now < each.expires_at for each in record.leases)
            if record.state == "open":
                assert stats["cooldown_remaining"] == max(record.open_until - now, 0.0)

    def teardown(self) -> None:
        """In the end all have the store, and are one circuit that recovers and opens for all."""
        if not hasattr(self, "lines"):
            return
        for who in range(MEMBERS):
            self._mend(who)
        if self.breakers[0].state in ("forced_open", "disabled"):
            self.breakers[1].reset()
        for _ in range(10):
            if self.breakers[0].state == "closed":
                break
            self.clock.advance(100)
            if (permit := self._acquire(2)) is not None:
                self.breakers[2].record(permit, Outcome.SUCCESS)
        assert {each.state.value for each in self.breakers} == {"closed"}
        for _ in range(self.config.failure_threshold):
            if self.breakers[0].state == "closed":  # it has fewer to go if it had some already
                self.breakers[1].record(self.breakers[1].acquire(), Outcome.FAILURE)
        assert {each.state.value for each in self.breakers} == {"open"}


TestSharedStories = SharedStories.TestCase
TestSharedStories.settings = settings(max_examples=50, stateful_step_count=40)
TestOutageStories = OutageStories.TestCase
TestOutageStories.settings = settings(max_examples=50, stateful_step_count=40)
