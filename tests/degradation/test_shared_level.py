"""The level of a whole host: one process asks health and rules, and an override holds for all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service_utils.degradation import DegradationLevel, DegradationMonitor, Rule, unhealthy
from service_utils.degradation.rules import Assessment
from service_utils.degradation.shared import Findings, SharedLevel
from service_utils.events import DegradationChanged, Event
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.integrations.shared_memory.locks import lock_file
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock
from tests.forked import in_child

NORMAL, SEVERE, CRITICAL = DegradationLevel.NORMAL, DegradationLevel.SEVERE, DegradationLevel.CRITICAL


def until(what: Callable[[], object]) -> None:
    """Wait for something, within a bound."""
    ends = time.monotonic() + 10.0
    while not what():
        assert time.monotonic() < ends, "it never comes to that"
        time.sleep(0.01)


class Process:
    """What one worker has: a store, a circuit and a monitor that listens."""

    def __init__(self, path: Path) -> None:
        self.store = SharedMemoryStore(path)
        self.breaker = CircuitBreaker("billing", store=self.store)
        self.asked = 0
        self.health = "healthy"
        self.events: list[Event] = []
        self.monitor = DegradationMonitor(
            self,
            [Rule(SEVERE, "billing", "Billing away"), Rule(CRITICAL, unhealthy("disk"), "disk full")],
            health=self,
            interval=0.05,
            calm_seconds=0.0,
            listeners=[self.events.append],
            share=self.store,
        )

    def circuit_breakers(self) -> dict[str, CircuitBreaker]:
        return {"billing": self.breaker}

    def check_all(self) -> dict[str, str]:
        self.asked += 1
        return {"disk": self.health}

    @property
    def told(self) -> list[bool]:
        """Of each change of the level, whether another process has found or decided so."""
        return [each.elsewhere for each in self.events if isinstance(each, DegradationChanged)]

    def end(self) -> None:
        self.monitor.stop()
        self.store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "circuits"


@pytest.fixture
def store(path: Path) -> Iterator[SharedMemoryStore]:
    made = SharedMemoryStore(path)
    yield made
    made.close()


@pytest.fixture
def processes(path: Path) -> Iterator[tuple[Process, Process]]:
    one, other = Process(path), Process(path)
    yield one, other
    one.end()
    other.end()


def test_one_asks_for_all(processes: tuple[Process, Process]) -> None:
    """Only the leader runs health checks; its findings are everybody's, and another leads when it ends."""
    first, second = processes
    first.monitor.start()
    until(lambda: first.asked > 0)
    second.monitor.start()
    until(lambda: second.monitor.get_status()["evaluated_at"] is not None)
    first.health = "unhealthy"
    until(lambda: first.monitor.level is CRITICAL)
    until(lambda: second.monitor.level is CRITICAL)

    assert second.asked == 0
    assert second.monitor.reasons == ("disk full",)
    assert second.monitor.get_status()["health"] == {"disk": "unhealthy"}
    assert first.told == [False]
    assert second.told == [True]

    first.end()
    until(lambda: second.asked > 0 and second.monitor.level is NORMAL)
    assert second.told == [True, False]


def test_a_circuit_decides_for_all(processes: tuple[Process, Process]) -> None:
    """One process opens the circuit, and both are at the level that follows from it."""
    for each in processes:
        each.monitor.start()
    processes[0].breaker.force_open("test")
    for each in processes:
        until(lambda each=each: each.monitor.level is SEVERE)  # type: ignore[misc]
    processes[1].breaker.reset()
    for each in processes:
        until(lambda each=each: each.monitor.level is NORMAL)  # type: ignore[misc]


def test_an_override_holds_for_all(
    processes: tuple[Process, Process], caplog: pytest.LogCaptureFixture
) -> None:
    """At once, whoever sets it and whoever clears it; only his log says so."""
    one, other = processes
    caplog.set_level(logging.INFO, logger="service_utils")
    one.monitor.override("critical", reason="fire drill", author="ada")
    assert other.monitor.level is CRITICAL
    override = other.monitor.active_override
    assert override is not None
    assert (override.author, override.reason) == ("ada", "fire drill")
    assert override == one.monitor.active_override
    assert (one.told, other.told) == ([False], [True])

    assert other.monitor.clear_override(author="bob")
    assert one.monitor.level is NORMAL
    assert one.monitor.active_override is None
    assert one.monitor.history()[-1].author == "bob"
    said = [each.getMessage() for each in caplog.records if "degradation" in each.getMessage()]
    assert len(said) == 2


def test_the_last_override_wins(processes: tuple[Process, Process]) -> None:
    """A second one takes the first one's place, and one may be set again that was cleared."""
    one, other = processes
    for author in ("ada", "bob"):
        one.monitor.override("severe", reason="drill", author=author)
        assert other.monitor.active_override == one.monitor.active_override
        other.monitor.override("critical", reason="drill", author=author)
        assert one.monitor.level is CRITICAL
        assert one.monitor.clear_override(author=author)
        assert other.monitor.level is NORMAL


def test_those_who_come_later_know(path: Path, processes: tuple[Process, Process]) -> None:
    """A worker that starts finds the override that holds, but none whose time is over."""
    processes[0].monitor.override("critical", reason="drill", author="ada", expires_in=0.2)
    later = Process(path)
    try:
        assert later.monitor.level is CRITICAL
        until(lambda: later.monitor.level is NORMAL)
    finally:
        later.end()
    latest = Process(path)
    try:
        assert latest.monitor.level is NORMAL
        assert latest.told == []
    finally:
        latest.end()


def test_a_child_is_another_process(processes: tuple[Process, Process]) -> None:
    """A forked child hears of overrides, and is heard."""
    one, other = processes
    one.monitor.override("severe", reason="drill", author="ada")

    def child() -> list[Any]:
        seen = one.monitor.level.label
        one.monitor.override("critical", reason="drill", author="child")
        return [seen]

    assert in_child(child) == ["severe"]
    assert one.monitor.level is CRITICAL
    assert other.monitor.level is CRITICAL


def test_texts_that_are_too_long_are_cut(processes: tuple[Process, Process]) -> None:
    """What does not fit is shortened; the level is what matters."""
    one, other = processes
    one.monitor.override("severe", reason="𝕊" * 200, author="é" * 200)
    assert other.monitor.level is SEVERE
    override = other.monitor.active_override
    assert override is not None
    assert override.reason.startswith("𝕊" * 10)


@pytest.mark.parametrize(
    "value",
    [b"", b"noise", b"[]", b'{"override": 7}', b'{"override": {"level": 99}}', b"\xff\xfe", b'{"by": 3}'],
)
def test_what_is_not_ours_is_passed_over(processes: tuple[Process, Process], value: bytes) -> None:
    """Another version may have written it."""
    one, _ = processes
    one.store.post("degradation override", value)
    one.store.post("degradation findings", value)
    assert one.monitor.evaluate() is NORMAL


def test_while_the_store_is_away(
    processes: tuple[Process, Process], caplog: pytest.LogCaptureFixture
) -> None:
    """Each goes by itself, and says that it could not tell the others."""
    one, other = processes
    one.store.close()
    one.monitor.override("severe", reason="drill", author="ada")
    assert one.monitor.level is SEVERE
    assert other.monitor.level is NORMAL
    assert "cannot be told of the degradation level" in caplog.text
    assert SharedLevel(one.store, one.monitor.clock, one.monitor._hear, 30.0).findings() is None


@contextmanager
def away(process: Process) -> Iterator[None]:
    """The file is locked by somebody who does not let go, as seen by one process that asks meanwhile."""
    process.store.read("billing")
    segment = process.store._home.segment
    assert segment is not None
    descriptor = os.open(segment.path, os.O_RDWR)
    try:
        assert lock_file(descriptor, 5.0)
        yield
    finally:
        os.close(descriptor)


def test_what_was_decided_while_nobody_could_be_told(processes: tuple[Process, Process]) -> None:
    """An override, and the end of one, hold for all as soon as the store is back."""
    one, other = processes
    for each in processes:
        each.monitor.start()
    with away(one):
        one.monitor.override("critical", reason="drill", author="ada")
        assert other.monitor.level is NORMAL
    until(lambda: other.monitor.level is CRITICAL)
    with away(other):
        other.monitor.clear_override(author="bob")
    until(lambda: one.monitor.level is NORMAL)


def test_the_later_decision_holds(processes: tuple[Process, Process]) -> None:
    """What could not be told comes too late when somebody has decided since."""
    one, other = processes
    with away(one):
        one.monitor.override("critical", reason="drill", author="ada")
    other.monitor.override("severe", reason="later", author="bob")
    until(lambda: one.monitor.level is SEVERE)
    assert other.monitor.level is SEVERE


def test_a_word_that_was_put_over_a_later_one(processes: tuple[Process, Process]) -> None:
    """Whoever knows the later one tells it again."""
    one, other = processes
    one.monitor.override("critical", reason="old", author="ada")
    old = one.store.posted("degradation override")
    assert old is not None
    other.monitor.override("severe", reason="new", author="bob")
    assert one.monitor.level is SEVERE
    one.store.post("degradation override", old)
    assert other.monitor.level is SEVERE
    assert one.monitor.level is SEVERE
    assert one.store.posted("degradation override") != old


def test_a_short_override_that_was_missed(processes: tuple[Process, Process]) -> None:
    """It has ended the one before it, though nobody looked while it held."""
    one, other = processes
    one.monitor.override("critical", reason="long", author="ada", expires_in=None)
    assert other.monitor.level is CRITICAL
    one.monitor.override("severe", reason="short", author="ada", expires_in=0.01)
    until(lambda: one.monitor.level is NORMAL)
    assert other.monitor.level is NORMAL
    assert other.monitor.active_override is None


def test_a_leader_that_looks_no_more(processes: tuple[Process, Process]) -> None:
    """What it has found says nothing any more: the others find out for themselves."""
    first, second = processes
    first.monitor.start()
    until(lambda: first.asked > 0)
    second.monitor.start()
    first.breaker.force_open("down")
    until(lambda: second.monitor.level is SEVERE)
    first.monitor.stop()
    first.breaker.reset()
    until(lambda: second.monitor.level is NORMAL)
    first.monitor.start()
    first.health = "unhealthy"
    until(lambda: second.monitor.level is CRITICAL)


def test_findings_grow_old(store: SharedMemoryStore, fake_clock: FakeClock) -> None:
    """Nobody goes by what a leader without a monitor said long ago, or waits for it for ever."""
    leader, other = (SharedLevel(store, fake_clock, fake_clock.now, 30.0) for _ in range(2))
    leader.leads = True
    leader.publish(Findings(Assessment(SEVERE, ("away",)), {}))
    assert other.findings() is not None
    fake_clock.advance(30.0)
    leader.publish(Findings(Assessment(SEVERE, ("away",)), {}))
    fake_clock.advance(89.0)
    assert other.findings() is not None
    assert other.follows
    fake_clock.advance(2.0)
    assert other.findings() is None
    assert other.follows
    fake_clock.advance(90.0)
    assert not other.follows
    assert not leader.follows


def test_many_long_names(store: SharedMemoryStore, fake_clock: FakeClock) -> None:
    """Findings that do not fit are cut down to the level if need be."""
    leader, other = (SharedLevel(store, fake_clock, fake_clock.now, 30.0) for _ in range(2))
    leader.leads = True
    health = {f"{number}{'𝕊' * 300}": "healthy" for number in range(8)}
    leader.publish(Findings(Assessment(SEVERE, ("away " * 1000,) * 9), health))
    found = other.findings()
    assert found is not None
    assert found.assessment.level is SEVERE
