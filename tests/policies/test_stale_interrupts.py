"""Signal handlers and forks that come while threads wait for each other's call of a StaleCache."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service_utils.policies.fallback import StaleCache
from service_utils.policies.fallback.single_flight import Done
from service_utils.testing import FakeClock
from tests.side_by_side import PATIENCE, in_thread, together


@pytest.fixture
def cache() -> StaleCache:
    return StaleCache(60, 60, clock=FakeClock())


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.001)


def waiting(cache: StaleCache) -> int:
    """How many threads wait for calls that are under way."""
    return sum(flight.waiting for flight in cache._answers._flights._flights.values())


class Interrupted:
    """Runs something in this thread in the middle of a function, as a signal handler would.

    Args:
        name: Of the function, in whatever module.
        step: Before which of its lines, and of those it calls; 0 is the moment before the first.
        work: What to do there.

    Attributes:
        came: Whether there was such a line.
    """

    def __init__(self, name: str, step: int, work: Callable[[], object]) -> None:
        self.came = False
        self._name, self._left, self._work = name, step, work
        self._inside = 0

    def __enter__(self) -> Interrupted:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: Any, event: str, argument: object) -> Any:
        if not self._inside and frame.f_code.co_name != self._name:
            return None
        self._inside += {"call": 1, "return": -1}.get(event, 0)
        if event in ("call", "line") and not self.came:
            self._left -= 1
            if self._left < 0:
                self.came = True
                sys.settrace(None)
                self._work()
        return self._trace


class Stopped:
    """Raises KeyboardInterrupt in this thread, once, at a place at which CPython looks for signals.

    Args:
        name: Of the function in which, or in what it calls.
        step: At which of those places; 0 is its entry.

    Attributes:
        came: Whether there was such a place.
    """

    def __init__(self, name: str, step: int) -> None:
        self.came = False
        self._name, self._left = name, step

    def __enter__(self) -> Stopped:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: Any, event: str, argument: object) -> None:
        if self.came or event not in ("call", "c_return"):
            return
        if self._name not in (frame.f_code.co_name, frame.f_back and frame.f_back.f_code.co_name):
            return
        self._left -= 1
        if self._left < 0:
            self.came = True
            raise KeyboardInterrupt


def test_a_handler_that_waits_too() -> None:
    """Code that interrupts a waiting thread at any moment can wait for the same, and can let all go on."""
    for step in range(100):
        done = Done()
        found: list[bool] = []

        def handler(done: Done = done, found: list[bool] = found) -> None:
            found.append(done.wait(0.001))
            done.set()

        def work(done: Done = done, found: list[bool] = found, step: int = step) -> None:
            with Interrupted("wait", step, handler) as interrupted:
                found.append(done.wait(0.001))
            found.append(interrupted.came)

        assert in_thread(work), f"step {step}"
        if not found[-1]:
            break
        assert found == [False, True, True]
    assert 3 < step < 99


def test_interrupted_while_letting_go() -> None:
    """Code that interrupts whoever lets the others go on finds nothing that it would wait for."""
    for step in range(100):
        done = Done()
        found: list[bool] = []

        def work(done: Done = done, found: list[bool] = found, step: int = step) -> None:
            with Interrupted("set", step, lambda: (done.wait(0.001), done.set())) as interrupted:
                done.set()
            found.append(interrupted.came)

        assert in_thread(work), f"step {step}"
        assert done.wait(0.0)
        if not found[-1]:
            break
    assert 2 < step < 99


def test_interrupted_while_landing(cache: StaleCache) -> None:
    """Whoever is interrupted when his call has just ended leaves nobody waiting for it."""
    for step in range(100):
        came: list[bool] = []

        def slow() -> str:
            wait_until(lambda: waiting(cache))
            return "good"

        def lead(key: int = step, came: list[bool] = came) -> None:
            with contextlib.suppress(KeyboardInterrupt), Stopped("_land", key) as stopped:
                cache.call(key, slow)
            came.append(stopped.came)

        def follow(key: int = step) -> object:
            wait_until(lambda: cache._answers._flights._flights)
            return cache.call(key, lambda: "anew")

        answers = together(2, lambda number: follow() if number else lead())
        assert answers == [None, "good"]
        assert cache._answers._flights._flights == {}
        assert cache._answers._flights._under_way == set()
        if not came[0]:
            break
    assert 3 < step < 99


@contextlib.contextmanager
def handling(handler: Callable[[], object]) -> Iterator[None]:
    """Has a signal run this in the main thread."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("outdated", [False, True])
def test_forking_while_waiting(cache: StaleCache, outdated: bool) -> None:
    """A child that is forked while its thread waits for another's call makes that call itself."""
    parent, started, children = os.getpid(), threading.Event(), list[int]()
    forking = threading.Event()
    reading, writing = os.pipe()

    def fork() -> None:
        """Forks once; while it does, which may take its time, the next signal comes, in both processes."""
        if forking.is_set():
            return
        forking.set()
        with warnings.catch_warnings():
            # That other threads run is what this test is about.
            warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
            children.append(os.fork())

    def forked() -> list[int]:
        """Whether it is done; a signal that comes just before the wait begins does not interrupt it."""
        if not forking.is_set():
            os.kill(parent, signal.SIGUSR1)
        return children

    def slow() -> str:
        started.set()
        wait_until(lambda: waiting(cache))
        if outdated:  # nobody joins it any more, but those who wait for it wait still
            cache.clear()
        wait_until(forked)
        return "the parent's"

    thread = threading.Thread(target=lambda: cache.call("k", slow), daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        with handling(fork):
            answer = cache.call("k", lambda: "the child's")
            if os.getpid() != parent:
                os.write(writing, answer.encode())
                os._exit(0)
        thread.join(PATIENCE)
        assert answer == "the parent's"
        assert select.select([reading], [], [], PATIENCE)[0], "the child hangs"
        assert os.read(reading, 100) == b"the child's"
    finally:
        if os.getpid() != parent:
            os._exit(1)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
