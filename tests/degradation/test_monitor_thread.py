"""The monitor's thread: it looks now and then, and when a circuit changes its state."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service_utils.degradation import DegradationLevel, DegradationMonitor, Rule, Snapshot, unhealthy
from service_utils.events import DegradationChanged, telling
from service_utils.testing import FakeClock
from tests.degradation.circuits import RULES, Circuits, Told, make_monitor
from tests.forked import in_child
from tests.side_by_side import PATIENCE, in_thread, together

NORMAL, MINOR, MODERATE, SEVERE, CRITICAL = DegradationLevel


def until(condition: Callable[[], object]) -> bool:
    """Whether it comes true before patience ends."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def threads() -> list[threading.Thread]:
    """The threads of monitors."""
    return [each for each in threading.enumerate() if each.name == "degradation-monitor"]


class Health:
    """Stands for a health checker that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = "healthy"

    def check_all(self) -> dict[str, str]:
        self.asked += 1
        return {"database": self.status}


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """A test that leaves a thread or a subscription behind has failed."""
    subscribed = len(telling._subscribers)
    yield
    gc.collect()
    assert until(lambda: threads() == [])
    assert len(telling._subscribers) == subscribed


@pytest.fixture
def circuits(fake_clock: FakeClock) -> Circuits:
    """Four services, all well."""
    return Circuits(clock=fake_clock)


@pytest.fixture
def told() -> Told:
    """Who is told of changes."""
    return Told()


@pytest.fixture
def monitor(circuits: Circuits, fake_clock: FakeClock, told: Told) -> Iterator[DegradationMonitor]:
    """A monitor over them that runs and has looked once."""
    made = make_monitor(circuits, fake_clock, listeners=[told])
    made.start()
    fake_clock.wait_for_sleepers(1)
    yield made
    made.stop()


def test_it_looks_as_soon_as_it_starts(circuits: Circuits, fake_clock: FakeClock) -> None:
    """Trouble that there was before the start shows at once."""
    circuits.open("billing")
    monitor = make_monitor(circuits, fake_clock)
    monitor.start()
    assert until(lambda: monitor.level is SEVERE)
    assert monitor.stop()


def test_it_looks_when_a_circuit_opens(monitor: DegradationMonitor, circuits: Circuits) -> None:
    """Trouble shows at once, without a second going by."""
    circuits.open("billing")
    assert until(lambda: monitor.level is SEVERE)


def test_it_gets_better_by_itself(circuits: Circuits, fake_clock: FakeClock, told: Told) -> None:
    """When the calm time is over listeners hear that it is better, though nobody looks at the level."""
    monitor = make_monitor(circuits, fake_clock, listeners=[told], interval=1000)
    monitor.start()
    circuits.open("billing")
    assert until(lambda: told.steps() == [("normal", "severe")])
    circuits.close("billing")
    assert until(lambda: monitor.get_status()["rules_level"] == "normal")
    fake_clock.wait_for_sleepers(1)
    fake_clock.advance(60)
    assert until(lambda: told.steps()[1:] == [("severe", "normal")])
    monitor.stop()


def test_an_override_ends_by_itself(circuits: Circuits, fake_clock: FakeClock, told: Told) -> None:
    """Listeners hear of an override's end at its moment, though nobody reads the level."""
    monitor = make_monitor(circuits, fake_clock, listeners=[told], interval=1000)
    monitor.start()
    fake_clock.wait_for_sleepers(1)
    monitor.override("critical", reason="drill", author="ada", expires_in=7)

    def passes() -> bool:
        fake_clock.advance(0.25 if fake_clock.monotonic() < 100 else 0)
        return len(told) == 2

    assert until(passes)
    assert told.steps() == [("normal", "critical"), ("critical", "normal")]
    assert told[1].at == 7.0
    monitor.stop()


def test_health_is_asked_once_per_interval(circuits: Circuits, fake_clock: FakeClock) -> None:
    """Checks run every 30 seconds; a circuit that opens in between does not have to wait for them."""
    health = Health()
    monitor = make_monitor(
        circuits, fake_clock, Rule(CRITICAL, unhealthy("database")), Rule(MINOR, "git"), health=health
    )
    monitor.start()
    fake_clock.wait_for_sleepers(1)
    circuits.open("git")
    assert until(lambda: monitor.level is MINOR)
    assert health.asked == 1
    health.status = "unhealthy"
    fake_clock.wait_for_sleepers(1)
    fake_clock.advance(30)
    assert until(lambda: monitor.level is CRITICAL)
    assert health.asked == 2
    monitor.stop()


def test_whoever_opens_a_circuit_is_not_held_up(circuits: Circuits, fake_clock: FakeClock) -> None:
    """While the monitor is busy with a slow rule or listener, circuits open and close as quickly as ever."""
    entered, leave = threading.Event(), threading.Event()

    def slow(snapshot: Snapshot) -> bool:
        entered.set()
        leave.wait(PATIENCE)
        return snapshot.is_open("git")

    monitor = make_monitor(circuits, fake_clock, Rule(MINOR, slow))
    monitor.start()
    assert entered.wait(PATIENCE)
    assert in_thread(lambda: [circuits.open("git"), circuits.close("git"), circuits.open("git")])
    assert not leave.is_set()
    leave.set()
    assert until(lambda: monitor.level is MINOR)
    monitor.stop()


def test_it_survives_what_fails(
    monitor: DegradationMonitor,
    circuits: Circuits,
    fake_clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A registry that raises is logged; the next look goes well."""
    with monkeypatch.context() as patch:
        patch.setattr(Circuits, "circuit_breakers", lambda _self: 1 / 0)
        circuits.open("git")
        assert until(lambda: "could not be brought up to date" in caplog.text)
    fake_clock.wait_for_sleepers(1)
    fake_clock.advance(30)
    assert until(lambda: monitor.level is CRITICAL)


def test_starting_twice_starts_once(circuits: Circuits, fake_clock: FakeClock) -> None:
    """However many threads start a monitor, it has one thread."""
    monitor = make_monitor(circuits, fake_clock)
    together(8, lambda _: monitor.start())
    assert len(threads()) == 1
    assert monitor.running
    assert monitor.get_status()["running"]
    monitor.stop()


def test_stopping_ends_the_thread(
    monitor: DegradationMonitor, circuits: Circuits, fake_clock: FakeClock
) -> None:
    """A monitor that was stopped looks no more, keeps its level, and can be started again."""
    assert monitor.stop()
    assert threads() == []
    assert not monitor.running
    circuits.open("billing")
    assert monitor.level is NORMAL
    assert monitor.stop()
    monitor.start()
    assert until(lambda: monitor.level is SEVERE)


def test_a_listener_may_stop_the_monitor(circuits: Circuits, fake_clock: FakeClock) -> None:
    """Stopping from within a listener does not wait for itself."""
    ended: list[bool] = []

    def listener(_: DegradationChanged) -> None:
        ended.append(monitor.stop())

    monitor = make_monitor(circuits, fake_clock, listeners=[listener])
    circuits.open("git")
    monitor.start()
    assert until(lambda: threads() == [])
    assert ended == [False]
    assert not monitor.running


def test_a_dropped_monitor_leaves_nothing_behind(circuits: Circuits, fake_clock: FakeClock) -> None:
    """An application that is made, dropped and made again does not collect threads."""
    monitor = make_monitor(circuits, fake_clock)
    monitor.start()
    fake_clock.wait_for_sleepers(1)
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None
    assert until(lambda: threads() == [])


def test_no_thread_to_be_had(
    circuits: Circuits, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that fails leaves nothing behind and may be tried again."""
    monitor = make_monitor(circuits, fake_clock)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    subscribed = len(telling._subscribers)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            monitor.start()
    assert not monitor.running
    assert len(telling._subscribers) == subscribed
    monitor.start()
    assert monitor.running
    assert monitor.stop()


def test_a_bad_timeout(monitor: DegradationMonitor) -> None:
    """A time-out that makes no sense is refused, and the monitor runs on."""
    with pytest.raises(ValueError, match="timeout=-1"):
        monitor.stop(-1)
    assert monitor.running


def test_a_forked_child_has_a_thread_of_its_own(monitor: DegradationMonitor, circuits: Circuits) -> None:
    """A worker that was forked from a process with a running monitor follows its own circuits."""

    def child() -> list[Any]:
        circuits.open("billing")
        followed = until(lambda: monitor.level is SEVERE)
        return [followed, len(threads()), len(telling._subscribers), monitor.stop()]

    assert in_child(child) == [True, 1, len(telling._subscribers), True]
    assert monitor.level is NORMAL
    circuits.open("billing")
    assert until(lambda: monitor.level is SEVERE)


def test_a_child_of_a_stopped_one_has_none(circuits: Circuits, fake_clock: FakeClock) -> None:
    """A monitor that was not running does not run in a child."""
    monitor = make_monitor(circuits, fake_clock)
    assert in_child(lambda: [monitor.running, len(threads())]) == [False, 0]


def test_forks_in_the_middle_of_everything(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the threads are doing at a fork, the child's monitor works."""
    # No lines and the machine's clock: pytest's log file and a FakeClock have locks that no fork minds.
    caplog.set_level(logging.CRITICAL + 1, "service_utils")
    circuits = Circuits(clock=None)
    monitor = DegradationMonitor(circuits, RULES)
    monitor.start()
    done = threading.Event()

    def stir(number: int) -> None:
        name = list(circuits.breakers)[number]
        while not done.is_set():
            circuits.open(name)
            circuits.close(name)
            monitor.get_status()
            time.sleep(0)

    stirring = [threading.Thread(target=stir, args=(number,), daemon=True) for number in range(2)]
    for thread in stirring:
        thread.start()
    try:
        for _ in range(5):
            assert in_child(lambda: (circuits.open("git"), until(lambda: monitor.level is CRITICAL))[1])
    finally:
        done.set()
        for thread in stirring:
            thread.join(PATIENCE)
        monitor.stop()
