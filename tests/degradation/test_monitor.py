"""The monitor: the level, why, since when, and an operator's word over it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils import ServiceRegistry
from service_utils.calls import Outcome
from service_utils.degradation import DegradationLevel, DegradationMonitor, Rule, unhealthy
from service_utils.events import CircuitState, DegradationChanged
from service_utils.testing import FakeClock
from tests.degradation.circuits import RULES, Circuits, Told, make_monitor
from tests.forked import in_child
from tests.side_by_side import together

NORMAL, MINOR, MODERATE, SEVERE, CRITICAL = DegradationLevel
START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def circuits(fake_clock: FakeClock) -> Circuits:
    """Four services, all well."""
    return Circuits(clock=fake_clock)


@pytest.fixture
def told() -> Told:
    """Who is told of changes."""
    return Told()


@pytest.fixture
def monitor(circuits: Circuits, fake_clock: FakeClock, told: Told) -> DegradationMonitor:
    """A monitor over them."""
    return make_monitor(circuits, fake_clock, listeners=[told])


# -- following the circuits ---------------------------------------------------------------------------


def test_the_level_follows_the_circuits(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """The level is what the rules make of the open circuits; it gets better after a calm minute."""
    assert (monitor.evaluate(), monitor.reasons) == (NORMAL, ())
    circuits.open("chroma", "billing")
    assert monitor.evaluate() is SEVERE
    assert monitor.reasons == ("billing open", "chroma open")
    circuits.close("billing")
    assert monitor.evaluate() is SEVERE
    fake_clock.advance(60)
    assert monitor.evaluate() is MINOR
    assert monitor.reasons == ("chroma open",)


def test_since_is_when_the_level_began(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """How long the trouble lasts can be told, and reasons that change do not begin it anew."""
    fake_clock.advance(10)
    circuits.open("billing")
    monitor.evaluate()
    fake_clock.advance(10)
    circuits.open("chroma")
    monitor.evaluate()
    assert monitor.since == START + timedelta(seconds=10)


def test_each_change_is_told_once(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock, told: Told
) -> None:
    """Listeners hear of changes of the level, with reason and direction, and of nothing else."""
    circuits.open("filesystem")
    monitor.evaluate()
    monitor.evaluate()
    circuits.close("filesystem")
    monitor.evaluate()
    fake_clock.advance(60)
    monitor.evaluate()
    common = {"service": "system", "name": "system"}
    assert told == [
        DegradationChanged(
            **common, at=0.0, from_level="normal", to_level="moderate", reason="filesystem open", worse=True
        ),
        DegradationChanged(
            **common, at=60.0, from_level="moderate", to_level="normal", reason="calm for 60s", worse=False
        ),
    ]


def test_the_log_lines(circuits: Circuits, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """A change for the worse is a warning, one for the better is not."""
    monitor = make_monitor(circuits, fake_clock, Rule(MODERATE, "filesystem", "no files"))
    with caplog.at_level(logging.INFO, "service_utils"):
        circuits.open("filesystem")
        monitor.evaluate()
        circuits.close("filesystem")
        monitor.evaluate()
        fake_clock.advance(60)
        monitor.evaluate()
    assert [(each.levelname, each.message) for each in caplog.records if "System" in each.message] == [
        ("WARNING", "System degradation normal -> moderate (no files)"),
        ("INFO", "System degradation moderate -> normal (calm for 60s)"),
    ]


def test_the_history_is_kept(monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock) -> None:
    """What happened can be read afterwards, oldest first."""
    fake_clock.advance(5)
    circuits.open("billing")
    monitor.evaluate()
    (change,) = monitor.history()
    assert change.as_json() == {
        "from_level": "normal",
        "to_level": "severe",
        "reason": "billing open",
        "cause": "rules",
        "at": "2024-01-01T00:00:05+00:00",
        "author": None,
    }


def test_the_history_does_not_grow_for_ever(circuits: Circuits, fake_clock: FakeClock) -> None:
    """Only so many changes are remembered, the last ones."""
    monitor = make_monitor(circuits, fake_clock, history_size=2)
    for level in (MINOR, MODERATE, SEVERE):
        monitor.override(level, reason="drill", author="ops")
    assert [change.to_level for change in monitor.history()] == [MODERATE, SEVERE]


def test_an_open_circuit_whose_time_is_over_may_be_tried(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """A feature that the level turned off comes back by itself, although nobody has tried its service."""
    breaker = circuits.breakers["filesystem"]
    breaker.record(breaker.acquire(), Outcome.FAILURE)
    assert monitor.evaluate() is MODERATE
    fake_clock.advance(30)
    assert breaker.state is CircuitState.OPEN
    monitor.evaluate()
    fake_clock.advance(60)
    assert monitor.evaluate() is NORMAL


def test_a_real_registry(fake_clock: FakeClock) -> None:
    """The circuits are those of a registry, also such as came later."""
    registry = ServiceRegistry()
    monitor = DegradationMonitor(registry, [Rule(SEVERE, "billing")], clock=fake_clock)
    monitor.evaluate()
    registry.get_circuit_breaker("billing").force_open("drill")
    assert monitor.evaluate() is SEVERE
    registry.close()


def test_a_name_that_nobody_has_registered(
    monitor: DegradationMonitor, circuits: Circuits, caplog: pytest.LogCaptureFixture
) -> None:
    """A rule that can never hold, as one with a slip of the pen, is warned of once and shown."""
    del circuits.breakers["git"]
    monitor.evaluate()
    monitor.evaluate()
    assert [each.message for each in caplog.records] == [
        "Degradation rules name git, but there is no such service or health check"
    ]
    assert monitor.get_status()["unknown"] == ["git"]


def test_late_news_do_not_undo_new_ones(circuits: Circuits, fake_clock: FakeClock) -> None:
    """An evaluation that was held up by a slow rule does not bring back what it saw when it began."""
    slow = True

    def rule(snapshot: Any) -> bool:
        nonlocal slow
        if slow:
            slow = False
            circuits.open("billing")
            monitor.evaluate()  # begins later and ends earlier
        return bool(snapshot.is_open("billing"))

    monitor = make_monitor(circuits, fake_clock, Rule(SEVERE, rule))
    assert monitor.evaluate() is SEVERE
    assert monitor.get_status()["rules_level"] == "severe"


# -- health -------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a check found."""

    status: str


class Health:
    """Stands for a health checker."""

    def __init__(self, report: Any) -> None:
        self.report = report

    def check_all(self) -> Any:
        if isinstance(self.report, Exception):
            raise self.report
        return self.report


@dataclass
class Report:
    """What a health checker says."""

    checks: dict[str, Result]


@pytest.mark.parametrize(
    "report",
    [
        Report({"database": Result("unhealthy")}),
        {"overall_status": "unhealthy", "checks": {"database": {"status": "unhealthy", "detail": "gone"}}},
        {"database": "unhealthy"},
        {"database": Result("UNHEALTHY")},
    ],
    ids=["objects", "mappings", "words", "results"],
)
def test_health_counts(circuits: Circuits, fake_clock: FakeClock, report: Any) -> None:
    """Rules may ask what health checks have found, in whatever form a checker says it."""
    monitor = make_monitor(circuits, fake_clock, Rule(CRITICAL, unhealthy("database")), health=Health(report))
    assert monitor.evaluate() is CRITICAL
    assert monitor.get_status()["health"] == {"database": "unhealthy"}


def test_health_that_cannot_be_asked(
    circuits: Circuits, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """While the checks cannot be run, what they said before counts, and the log says so."""
    health = Health({"database": "unhealthy"})
    monitor = make_monitor(circuits, fake_clock, Rule(CRITICAL, unhealthy("database")), health=health)
    monitor.evaluate()
    health.report = RuntimeError("no threads left")
    fake_clock.advance(100)
    assert monitor.evaluate() is CRITICAL
    assert monitor.get_status()["rules_level"] == "critical"
    assert "Health cannot be asked" in caplog.text


# -- by hand ------------------------------------------------------------------------------------------


def test_an_operator_sets_the_level(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock, told: Told
) -> None:
    """What a person says goes before the rules, with his name and reason, until he takes it back."""
    circuits.open("billing")
    monitor.evaluate()
    monitor.override("minor", reason="billing is\nbeing moved", author="ada")
    assert monitor.evaluate() is MINOR
    assert monitor.reasons == ("set by ada: billing is being moved",)
    assert monitor.clear_override(author="bob")
    assert monitor.level is SEVERE
    assert monitor.reasons == ("billing open",)
    assert [(each.to_level, each.reason) for each in told] == [
        ("severe", "billing open"),
        ("minor", "set by ada: billing is being moved"),
        ("severe", "override cleared by bob"),
    ]
    assert [(each.cause.value, each.author) for each in monitor.history()] == [
        ("rules", None),
        ("override", "ada"),
        ("cleared", "bob"),
    ]


def test_clearing_what_is_not_there(monitor: DegradationMonitor, told: Told) -> None:
    """Taking back an override that has ended already does nothing."""
    assert not monitor.clear_override(author="ada")
    assert (told, monitor.history()) == ([], [])


def test_an_override_ends_at_its_moment_when_the_level_is_only_read(
    monitor: DegradationMonitor, fake_clock: FakeClock, told: Told
) -> None:
    """Nobody has to evaluate anything for an override to end, and its end is told as of its moment."""
    monitor.override("critical", reason="drill", author="ada", expires_in=10)
    fake_clock.advance(9.5)
    assert monitor.level is CRITICAL
    fake_clock.advance(5)
    assert monitor.level is NORMAL
    assert monitor.since == START + timedelta(seconds=10)
    assert told[-1] == DegradationChanged(
        service="system",
        name="system",
        at=10.0,
        from_level="critical",
        to_level="normal",
        reason="override of ada expired",
        worse=False,
    )
    assert monitor.active_override is None


@pytest.mark.parametrize(
    "read",
    [
        lambda monitor: monitor.level,
        lambda monitor: DegradationLevel.parse(monitor.get_status()["level"]),
        lambda monitor: monitor.history()[-1].to_level,
        lambda monitor: NORMAL if monitor.reasons == () else CRITICAL,
        lambda monitor: NORMAL if monitor.active_override is None else CRITICAL,
        lambda monitor: NORMAL if monitor.since > START else CRITICAL,
        lambda monitor: NORMAL if monitor.retry_after(NORMAL) == 0.0 else CRITICAL,
    ],
    ids=["level", "status", "history", "reasons", "override", "since", "retry_after"],
)
def test_no_reader_sees_an_override_that_has_expired(
    monitor: DegradationMonitor, fake_clock: FakeClock, read: Any
) -> None:
    """Whichever way the level is read, an override whose time is over is gone."""
    monitor.override("critical", reason="drill", author="ada", expires_in=10)
    assert read(monitor) is CRITICAL
    fake_clock.advance(10)
    assert read(monitor) is NORMAL


def test_behind_an_override_the_rules_go_on(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """What happens during an override is not forgotten: calm times run on, and trouble shows at its end."""
    circuits.open("billing")
    monitor.evaluate()
    monitor.override("normal", reason="false alarm", author="ada", expires_in=100)
    circuits.close("billing")
    monitor.evaluate()
    fake_clock.advance(60)
    monitor.evaluate()
    circuits.open("filesystem")
    monitor.evaluate()
    assert monitor.level is NORMAL
    assert monitor.get_status()["computed_level"] == "moderate"
    fake_clock.advance(40)
    assert monitor.level is MODERATE


def test_an_override_without_an_end(monitor: DegradationMonitor, fake_clock: FakeClock) -> None:
    """Left to itself an override lasts an hour; without an end it lasts until it is cleared."""
    monitor.override("minor", reason="drill", author="ada")
    fake_clock.advance(3600)
    assert monitor.level is NORMAL
    monitor.override("minor", reason="drill", author="ada", expires_in=None)
    fake_clock.advance(1e9)
    assert monitor.level is MINOR


def test_an_override_to_the_present_level_is_remembered(monitor: DegradationMonitor, told: Told) -> None:
    """Pinning the level that there is changes nothing and is told to nobody, but the history knows it."""
    monitor.override("normal", reason="pin", author="ada")
    assert told == []
    assert [each.author for each in monitor.history()] == ["ada"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"level": "bad"}, ValueError, "level='bad'"),
        ({"reason": " "}, ValueError, "reason=' '"),
        ({"author": ""}, ValueError, "author=''"),
        ({"author": None}, TypeError, "author=None"),
        ({"expires_in": 0}, ValueError, "expires_in=0"),
        ({"expires_in": float("inf")}, ValueError, "expires_in=inf"),
        ({"expires_in": "10"}, TypeError, "expires_in='10'"),
    ],
)
def test_an_override_that_makes_no_sense(
    monitor: DegradationMonitor, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """An override without a reason or an author, or with a bad level or end, is refused."""
    given = {"level": "minor", "reason": "drill", "author": "ada", **arguments}
    with pytest.raises(error, match=words):
        monitor.override(given.pop("level"), **given)
    assert monitor.active_override is None


def test_words_of_an_override_fit_on_a_line(monitor: DegradationMonitor) -> None:
    """Whatever an operator types, no log line is broken or forged by it."""
    made = monitor.override("minor", reason="a\r\n\x1b[2J\u2028b " + "x" * 500, author="ad\x00a")
    assert made.reason.startswith("a [2J b x")
    assert len(made.reason) == 200
    assert made.author == "ad a"


# -- when it can be better ----------------------------------------------------------------------------


def test_when_trying_again_makes_sense(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """The wait is what is left of the calm time, all of it while there is trouble, none when all is well."""
    assert monitor.retry_after(MINOR) == 0.0
    circuits.open("billing")
    monitor.evaluate()
    assert monitor.retry_after(MINOR) == 60.0
    assert monitor.retry_after(SEVERE) == 0.0
    circuits.close("billing")
    monitor.evaluate()
    fake_clock.advance(20)
    assert monitor.retry_after("minor") == 40.0


def test_when_an_override_ends(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """Under an override the wait lasts to its end at least; without an end nobody knows."""
    monitor.override("critical", reason="drill", author="ada", expires_in=100)
    fake_clock.advance(30)
    assert monitor.retry_after(MINOR) == 70.0
    circuits.open("billing")
    monitor.evaluate()
    fake_clock.advance(50)
    assert monitor.retry_after(MINOR) == 60.0
    monitor.override("critical", reason="drill", author="ada", expires_in=None)
    assert monitor.retry_after(MINOR) is None


# -- showing ------------------------------------------------------------------------------------------


def test_the_status_is_ready_for_json(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """A dashboard gets the whole picture in one object."""
    circuits.open("chroma")
    monitor.evaluate()
    circuits.close("chroma")
    fake_clock.advance(1)
    monitor.evaluate()
    monitor.override("severe", reason="drill", author="ada", expires_in=30)
    fake_clock.advance(1)
    status = monitor.get_status()
    history = status.pop("history")
    assert [each["to_level"] for each in history] == ["minor", "severe"]
    assert json.loads(json.dumps(status)) == {
        "level": "severe",
        "value": 3,
        "since": "2024-01-01T00:00:01+00:00",
        "reasons": ["set by ada: drill"],
        "computed_level": "minor",
        "rules_level": "normal",
        "changes_in": 59.0,
        "override": {
            "level": "severe",
            "reason": "drill",
            "author": "ada",
            "at": "2024-01-01T00:00:01+00:00",
            "expires_in": 29.0,
        },
        "circuits": {"chroma": "closed", "filesystem": "closed", "billing": "closed", "git": "closed"},
        "health": {},
        "unknown": [],
        "evaluated_at": "2024-01-01T00:00:01+00:00",
        "running": False,
    }


def test_the_status_before_anybody_has_looked(monitor: DegradationMonitor) -> None:
    """A monitor that has not looked yet says so."""
    status = monitor.get_status()
    assert (status["level"], status["evaluated_at"], status["circuits"]) == ("normal", None, {})


# -- construction -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"interval": 0}, ValueError, "interval=0"),
        ({"calm_seconds": -1}, ValueError, "calm_seconds=-1"),
        ({"raise_after": "x"}, TypeError, "raise_after='x'"),
        ({"history_size": 0}, ValueError, "history_size=0"),
        ({"listeners": [5]}, TypeError, "listeners: 5"),
        ({"clock": 5}, TypeError, "clock=5"),
        ({"name": ""}, ValueError, "name=''"),
        ({"registry": None}, TypeError, "registry=None"),
        ({"health": 5}, TypeError, "health=5"),
        ({"rules": "billing"}, TypeError, "rules='billing'"),
        ({"rules": 5}, TypeError, "rules=5"),
        ({"rules": []}, ValueError, r"rules=\(\)"),
    ],
)
def test_a_monitor_that_makes_no_sense(
    circuits: Circuits, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """A bad argument is refused by name and value."""
    given: dict[str, Any] = {"registry": circuits, "rules": RULES, **arguments}
    with pytest.raises(error, match=words):
        DegradationMonitor(given.pop("registry"), given.pop("rules"), **given)


# -- threads and processes ----------------------------------------------------------------------------


def test_an_override_that_expires_is_told_once(
    monitor: DegradationMonitor, fake_clock: FakeClock, told: Told
) -> None:
    """However many threads read the level when an override expires, one of them tells of it."""
    monitor.override("severe", reason="drill", author="ada", expires_in=10)
    fake_clock.advance(10)
    assert together(16, lambda _: monitor.level) == [NORMAL] * 16
    assert told.steps() == [("normal", "severe"), ("severe", "normal")]


class Overtaken(FakeClock):
    """A clock in whose reading another reader may come first."""

    overtake: Callable[[], object] | None = None

    def monotonic(self) -> float:
        now = super().monotonic()
        overtake, self.overtake = self.overtake, None
        if overtake is not None:
            overtake()
        return now


def test_of_two_who_see_it_expire_one_tells(told: Told) -> None:
    """A reader who finds that another has ended the override in the meantime leaves it at that."""
    clock = Overtaken()
    monitor = make_monitor(Circuits(clock=clock), clock, listeners=[told])
    monitor.override("severe", reason="drill", author="ada", expires_in=10)
    clock.advance(10)

    def other() -> None:
        assert monitor.level is NORMAL
        monitor.override("minor", reason="drill", author="bob")

    clock.overtake = other
    assert monitor.level is MINOR
    assert told.steps() == [("normal", "severe"), ("severe", "normal"), ("normal", "minor")]


def test_changes_from_many_threads_make_one_story(monitor: DegradationMonitor, circuits: Circuits) -> None:
    """Each entry of the history begins where the one before it ended."""

    def work(number: int) -> None:
        name = list(circuits.breakers)[number % 4]
        for _ in range(20):
            circuits.open(name)
            monitor.evaluate()
            monitor.override(number % 5, reason="drill", author="ada")
            circuits.close(name)
            monitor.clear_override(author="ada")

    together(8, work)
    history = monitor.history()
    assert all(b.from_level is a.to_level for a, b in pairwise(history))
    assert history[-1].to_level is monitor.level


def test_a_listener_may_do_anything(circuits: Circuits, fake_clock: FakeClock) -> None:
    """A listener that asks and changes the monitor, or fails, finds no lock held and breaks nothing."""
    seen: list[object] = []

    def listener(event: DegradationChanged) -> None:
        seen.append(together(1, lambda _: monitor.get_status()["level"])[0])
        if event.to_level == "moderate":
            monitor.override("severe", reason="to be safe", author="listener")
        raise RuntimeError("a bug")

    monitor = make_monitor(circuits, fake_clock, listeners=[listener])
    circuits.open("filesystem")
    assert monitor.evaluate() is SEVERE
    assert seen == ["moderate", "severe"]


def test_a_forked_child_goes_on_with_the_level(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """A worker that was forked knows of the trouble and of the override, and ends that by itself."""
    circuits.open("filesystem")
    monitor.evaluate()
    monitor.override("critical", reason="drill", author="ada", expires_in=10)

    def child() -> list[str]:
        before = monitor.level.label
        fake_clock.advance(10)
        return [before, monitor.level.label, monitor.evaluate().label]

    assert in_child(child) == ["critical", "moderate", "moderate"]
    assert monitor.level is CRITICAL


@given(
    story=st.lists(
        st.tuples(
            # Quarters of seconds add up without rounding, so that 60 s are neither more nor less.
            st.one_of(st.integers(0, 120).map(lambda quarters: quarters / 4), st.just(60.0)),
            st.sampled_from(["chroma", "filesystem", "billing", "git"]),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_the_level_never_flaps(story: list[tuple[float, str, bool]]) -> None:
    """Circuits may open and close as they like: what got worse gets no better within the calm time."""
    clock, told = FakeClock(), Told()
    circuits = Circuits(clock=clock)
    monitor = make_monitor(circuits, clock, listeners=[told])
    for wait, name, opens in story:
        clock.advance(wait)
        circuits.open(name) if opens else circuits.close(name)
        monitor.evaluate()
    worse = [each.at for each in told if each.worse]
    for change in told:
        if not change.worse:
            assert not any(change.at - 60 < at < change.at for at in worse)
    assert all(b.from_level == a.to_level for a, b in pairwise(told))
