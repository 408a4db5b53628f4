"""Whoever is interrupted, stopped or called by a signal in the middle of a change holds nobody up."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.integrations.shared_memory.locks import lock_file, unlock_file
from service_utils.integrations.shared_memory.segment import Files
from service_utils.policies.breaker import BreakerConfig, CircuitBreaker
from service_utils.policies.record import Asking, CircuitRecord
from service_utils.policies.store import StoreUnavailable
from tests.integrations.shared_memory.conftest import MakeChild
from tests.integrations.shared_memory.processes import until
from tests.integrations.shared_memory.stepping import done_at

NAME = "billing"
UNLOCKED_WITHIN = 0.3
ALONE_WITHIN = 5.0
SOON = 5.0
CLOSED, FORCED_OPEN = CircuitState.CLOSED, CircuitState.FORCED_OPEN


def force_open(store: SharedMemoryStore, reason: str) -> CircuitRecord:
    return store.override(NAME, FORCED_OPEN, reason, Asking(1, time.monotonic(), BreakerConfig()))


@pytest.fixture
def outsider(store: SharedMemoryStore, path: Path) -> Iterator[int]:
    """An opening of the mapped file that is nobody's of those under test."""
    store.read(NAME)
    segment = Files(path).find()
    yield segment.descriptor
    segment.close()


def is_free(descriptor: int) -> bool:
    """Whether another one can have the file in time."""
    if not lock_file(descriptor, UNLOCKED_WITHIN):
        return False
    unlock_file(descriptor)
    return True


class Stop(BaseException):
    """What a test interrupts by; a KeyboardInterrupt ends the whole run where it gets away."""


# -- interrupts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_step_that_raises(
    store: SharedMemoryStore, other: SharedMemoryStore, outsider: int, error: type[BaseException]
) -> None:
    """The lock is given back at once, and nothing is changed."""
    before = store.read(NAME)

    def step(record: CircuitRecord) -> CircuitRecord:
        raise error

    with pytest.raises(error):
        store.change(NAME, step)
    fcntl.flock(outsider, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(outsider, fcntl.LOCK_UN)
    assert other.read(NAME) == store.read(NAME) == before
    assert force_open(other, "after").version == before.version + 1
    assert store.read(NAME).reason == "after"


@contextmanager
def handling(handler: Callable[[], object]) -> Iterator[None]:
    """What SIGUSR1 does."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_that_interrupts_a_step(store: SharedMemoryStore, outsider: int) -> None:
    """As Ctrl-C does."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    def step(record: CircuitRecord) -> CircuitRecord:
        signal.raise_signal(signal.SIGUSR1)
        return record._replace(reason="never")

    with handling(interrupt), pytest.raises(KeyboardInterrupt):
        store.change(NAME, step)
    assert is_free(outsider)
    assert store.read(NAME).reason is None


@pytest.mark.usefixtures("brisk")
def test_an_interrupt_at_any_place(store: SharedMemoryStore, other: SharedMemoryStore, outsider: int) -> None:
    """Others can write soon after, all of the change is done or nothing, and he can go on."""

    def stop() -> None:
        raise Stop

    def work() -> None:
        force_open(store, f"at {place}")

    for place in count():
        reason = other.read(NAME).reason
        try:
            if not done_at(place, work, stop):
                break
        except Stop:
            pass
        assert is_free(outsider), place
        assert other.read(NAME).reason in (reason, f"at {place}")
        force_open(other, f"others at {place}")
        assert until(lambda: store.read(NAME).reason == other.read(NAME).reason, UNLOCKED_WITHIN), place
        force_open(store, f"after {place}")
        assert other.read(NAME).reason == f"after {place}"
    assert place > 20


# -- signal handlers -----------------------------------------------------------------------------------


def test_a_handler_that_uses_the_store(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """In the middle of a step on the same circuit: both changes are made."""
    called: list[CircuitRecord] = []

    def handler() -> None:
        if not called:
            called.append(store.pause(NAME, 10**9, 30.0))

    def step(record: CircuitRecord) -> CircuitRecord:
        signal.raise_signal(signal.SIGUSR1)
        return record._replace(reason="by the step")

    with handling(handler):
        record = store.change(NAME, step)
    assert called[0].version + 1 == record.version
    assert (record.reason, record.pause_seconds) == ("by the step", 30.0)
    assert other.read(NAME) == record


def test_a_handler_at_any_place(store: SharedMemoryStore, other: SharedMemoryStore, outsider: int) -> None:
    """Whatever it comes between, both changes are made, and the lock is free."""

    def handler() -> None:
        store.pause(NAME, 10**9 + place, 30.0)

    def work() -> None:
        force_open(store, f"at {place}")

    for place in count():
        before = store.read(NAME)
        if not done_at(place, work, handler):
            break
        after = other.read(NAME)
        assert (after.reason, after.pause_until) == (f"at {place}", 10**9 + place), place
        assert after.version == before.version + 2
        assert store.read(NAME) == after
        assert is_free(outsider)
    assert place > 20


def test_a_handler_that_posts(store: SharedMemoryStore, other: SharedMemoryStore) -> None:
    """Of a note the last word stands, and it is whole."""

    def handler() -> None:
        store.post("level", b"by the handler")

    for place in count():
        if not done_at(place, lambda: store.post("level", b"by the work"), handler):
            break
        assert other.posted("level") in (b"by the handler", b"by the work")
        store.post("level", f"after {place}".encode())
        assert other.posted("level") == f"after {place}".encode()
    assert place > 20


# -- one that does not let go --------------------------------------------------------------------------


def holding_orders(path: Path) -> dict[str, Callable[..., object]]:
    """For a child: have the file locked."""
    opened: list[int] = []

    def hold() -> bool:
        opened.append(Files(path).find().descriptor)
        return lock_file(opened[0], 1.0)

    return {"hold": hold, "let go": lambda: unlock_file(opened[0])}


def test_a_process_that_stands_still(
    store: SharedMemoryStore,
    other: SharedMemoryStore,
    path: Path,
    make_child: MakeChild,
    lines: Callable[[], list[str]],
) -> None:
    """Calls go on alone, soon and with one warning; when it lets go all is shared again, and is told."""
    breaker, others = CircuitBreaker(NAME, store=store), CircuitBreaker(NAME, store=other)
    assert breaker.state is others.state is CLOSED
    child = make_child(holding_orders(path))
    assert child.ask("hold")
    child.stop()
    began = time.monotonic()
    breaker.force_open("alone")
    assert time.monotonic() - began < ALONE_WITHIN
    assert breaker.state is FORCED_OPEN
    began = time.monotonic()
    for _ in range(100):
        breaker.reset()
        breaker.force_open("alone")
        with pytest.raises(StoreUnavailable):
            store.read(NAME)
    assert time.monotonic() - began < ALONE_WITHIN
    stuck = (
        f"WARNING Shared state {path} cannot be used (another process has it locked):"
        " each process has its own circuits until it can"
    )
    assert lines() == [stuck]  # the other one has nothing to write, and so goes on
    assert others.state is CLOSED
    child.signal(signal.SIGCONT)
    child.ask("let go")
    assert until(lambda: breaker.state is others.state is FORCED_OPEN and lines()[1:], SOON)
    assert breaker.state is FORCED_OPEN
    assert lines()[1:] == [f"WARNING Shared state {path} is in use again"]
    breaker.reset()
    assert others.state is CLOSED


def test_a_process_that_is_killed_with_the_lock(
    store: SharedMemoryStore, path: Path, make_child: MakeChild, lines: Callable[[], list[str]]
) -> None:
    """The system takes it back: nobody notices."""
    store.read(NAME)
    child = make_child(holding_orders(path))
    assert child.ask("hold")
    child.kill()
    assert force_open(store, "after").reason == "after"
    assert lines() == []


def test_a_short_wait_is_nothing(
    store: SharedMemoryStore, outsider: int, lines: Callable[[], list[str]]
) -> None:
    """Whoever holds it for some milliseconds is waited for."""
    assert lock_file(outsider, 1.0)
    timer = threading.Timer(0.02, unlock_file, (outsider,))
    timer.start()
    assert force_open(store, "waited").reason == "waited"
    timer.join()
    assert lines() == []


def test_reading_takes_no_lock(store: SharedMemoryStore, outsider: int) -> None:
    """Whoever reads is not held up, and neither is a call through a closed circuit."""
    breaker = CircuitBreaker(NAME, store=store)
    breaker.release(breaker.acquire())
    assert lock_file(outsider, 1.0)
    began = time.monotonic()
    for _ in range(50):
        breaker.release(breaker.acquire())
        assert breaker.state is CLOSED
    assert time.monotonic() - began < ALONE_WITHIN
    unlock_file(outsider)
    assert os.path.exists(store.path)
