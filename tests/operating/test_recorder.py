"""What keeps the history."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator, Sequence

import pytest

from service_utils import ResilientServiceClient
from service_utils.events import DegradationChanged, subscribe
from service_utils.events.telling import notify
from service_utils.operating import Change, MemoryHistory, Recorder, Sample
from service_utils.registry import ServiceRegistry
from service_utils.testing import FakeClock, FaultServer
from tests.forked import in_child

BOUND = 10.0


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    """Services of one application."""
    registry = ServiceRegistry()
    yield registry
    registry.close()


def client(registry: ServiceRegistry, url: str = "http://127.0.0.1:1") -> ResilientServiceClient:
    """A client whose circuit opens at once."""
    return ResilientServiceClient(
        url, "Chroma Server", name="chroma", max_retries=1, failure_threshold=1, registry=registry
    )


class Told(MemoryHistory):
    """A history that says when something has come."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def add(self, changes: Sequence[Change], samples: Sequence[Sample]) -> None:
        """Keep it."""
        super().add(changes, samples)
        if changes:
            self.came.set()


def test_a_change_is_kept_at_once(registry: ServiceRegistry) -> None:
    """The thread is woken for it; the caller does not write."""
    history = Told()
    recorder = Recorder(registry, history, interval=3600)
    chroma = client(registry)
    recorder.start()
    try:
        chroma.breaker.force_open("maintenance")
        assert history.came.wait(BOUND)
    finally:
        recorder.stop()
    (change,) = history.changes(10)
    assert (change.name, change.service) == ("chroma", "Chroma Server")
    assert (change.from_state, change.to_state) == ("closed", "forced_open")
    assert "maintenance" in change.reason


def test_what_waits_is_kept_when_it_stops(registry: ServiceRegistry) -> None:
    """The last change before a restart is often the one of interest."""
    history = MemoryHistory()
    recorder = Recorder(registry, history, interval=3600)
    recorder.start()
    client(registry).breaker.force_open("x")
    recorder.stop()
    assert len(history.changes(10)) == 1
    assert not recorder.running


def test_another_applications_services_are_not_ours(registry: ServiceRegistry) -> None:
    """Events are the process's, a history is an application's."""
    history = MemoryHistory()
    recorder = Recorder(ServiceRegistry(), history)
    recorder.start()
    client(registry).breaker.force_open("x")
    recorder.stop()
    assert history.changes(10) == []


@pytest.mark.parametrize(("elsewhere", "kept"), [(False, 1), (True, 0)])
def test_levels_are_kept_by_the_process_that_found_them(
    registry: ServiceRegistry, elsewhere: bool, kept: int
) -> None:
    """Of four workers that learn of a level one has found it."""
    history = MemoryHistory()
    recorder = Recorder(registry, history)
    recorder.start()
    event = DegradationChanged(
        service="system",
        name="system",
        at=0.0,
        from_level="normal",
        to_level="severe",
        reason="two are away",
        worse=True,
        elsewhere=elsewhere,
    )
    notify((), event)
    recorder.stop()
    assert len(history.changes(10)) == kept


def test_calls_are_counted(registry: ServiceRegistry, fault_server: FaultServer) -> None:
    """A sample has the counts up to its moment."""
    history, clock = MemoryHistory(), FakeClock()
    chroma = client(registry, fault_server.url)
    recorder = Recorder(registry, history, clock=clock)
    recorder.tick()
    chroma.get("/x")
    recorder.tick()
    assert [(each.total, each.member) for each in history.samples(0.0)] == [
        (0, str(os.getpid())),
        (1, str(os.getpid())),
    ]


def test_a_history_that_cannot_be_written_loses_nothing(
    registry: ServiceRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Changes wait for it, and the log says so once."""

    class Full(MemoryHistory):
        broken = True

        def add(self, changes: Sequence[Change], samples: Sequence[Sample]) -> None:
            if self.broken:
                raise OSError("no space left")
            super().add(changes, samples)

    history = Full()
    recorder = Recorder(registry, history)
    unsubscribe = subscribe(recorder.note)
    try:
        client(registry).breaker.force_open("x")
    finally:
        unsubscribe()
    recorder.tick()
    recorder.tick()
    history.broken = False
    recorder.tick()
    assert len(history.changes(10)) == 1
    assert caplog.text.count("no space left") == 1


def test_a_status_that_cannot_be_told_leaves_the_others_alone(
    registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sick client is no reason to count nothing."""
    history = MemoryHistory()
    chroma = client(registry)
    ResilientServiceClient("http://127.0.0.1:1", "Git", name="git", registry=registry)
    monkeypatch.setattr(chroma, "get_status", lambda: 1 / 0)
    Recorder(registry, history).tick()
    assert [each.name for each in history.samples(0.0)] == ["git"]


def test_its_thread_does_not_keep_it_alive(registry: ServiceRegistry) -> None:
    """An application that is dropped takes its recorder along."""
    recorder = Recorder(registry, MemoryHistory(), interval=3600)
    recorder.start()
    gone = threading.Event()
    weakref.finalize(recorder, gone.set)
    del recorder
    gc.collect()
    assert gone.wait(BOUND)


def test_a_forked_child_goes_on(registry: ServiceRegistry) -> None:
    """With a thread of its own; what the parent has not written yet is the parent's."""
    history = Told()
    recorder = Recorder(registry, history, interval=3600)
    chroma = client(registry)
    recorder.start()

    def work() -> None:
        assert recorder.running
        chroma.breaker.force_open("in the child")
        assert history.came.wait(BOUND)

    try:
        in_child(work)
    finally:
        recorder.stop()


def test_starting_twice_is_starting_once(registry: ServiceRegistry) -> None:
    """Each change is kept once."""
    history = MemoryHistory()
    recorder = Recorder(registry, history)
    recorder.start()
    recorder.start()
    client(registry).breaker.force_open("x")
    recorder.stop()
    assert len(history.changes(10)) == 1
