"""Forks: no child waits for a lock that nobody holds, and none finds things half changed."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from service_utils import forks
from service_utils.forks import Forks
from tests.forked import in_child
from tests.side_by_side import PATIENCE, in_thread, together


class Pair:
    """Two numbers that are always the same, to whoever holds the lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.left = self.right = 0
        self.renewed = 0

    def step(self) -> None:
        with self._lock:
            self.left += 1
            time.sleep(0)  # others go first
            self.right += 1

    def _renew_in_child(self) -> None:
        self.renewed += 1

    def look(self) -> tuple[int, int, int]:
        with self._lock:
            return self.left, self.right, self.renewed


class Broken(Pair):
    """Cannot be put right."""

    def _renew_in_child(self) -> None:
        raise LookupError("lost")


def free(pair: Pair) -> bool:
    """Whether another thread can have the lock."""
    return in_thread(pair.look)


@pytest.fixture
def busy() -> Iterator[Callable[[Pair], None]]:
    """Have a pair stepped on by a thread, over and over, until the test ends."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def start(pair: Pair) -> None:
        def work() -> None:
            while not over.is_set():
                pair.step()
                time.sleep(
                    0
                )  # whoever waits for the lock gets it now and then, also on a machine that is busy

        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join(PATIENCE)


def test_children_of_a_busy_process(busy: Callable[[Pair], None]) -> None:
    """While a thread is in a guarded section all the time, no child hangs and none sees half a change."""
    pairs = [Pair() for _ in range(3)]
    for pair in pairs:
        forks.guard(pair)
        busy(pair)

    for _ in range(20):
        for left, right, renewed in in_child(lambda: [pair.look() for pair in pairs]):
            assert left == right
            assert renewed == 1


def test_the_parent_goes_on(busy: Callable[[Pair], None]) -> None:
    """After a fork the parent's threads have their locks back and nothing of the parent is put right."""
    pair = Pair()
    forks.guard(pair)
    busy(pair)

    in_child(pair.look)
    before = pair.look()[0]
    until = time.monotonic() + PATIENCE
    while pair.look()[0] == before and time.monotonic() < until:
        time.sleep(0.001)

    assert pair.look()[0] > before
    assert pair.look()[2] == 0


def test_children_of_children(busy: Callable[[Pair], None]) -> None:
    """A child may fork in its turn; a grandchild is put right twice."""
    pair = Pair()
    forks.guard(pair)
    busy(pair)

    left, right, renewed = in_child(lambda: in_child(pair.look))

    assert (left == right, renewed) == (True, 2)


def test_two_threads_that_fork() -> None:
    """Threads that fork at the same moment do not wait for each other's locks for ever."""
    pairs = [Pair() for _ in range(2)]
    for pair in pairs:
        forks.guard(pair)

    looks = together(2, lambda index: [in_child(pairs[index].look) for _ in range(10)])

    assert looks == [[(0, 0, 1)] * 10] * 2


def test_fork_inside_a_guarded_section() -> None:
    """A signal handler that forks in the middle of a section finds a lock that works, in child and parent."""
    pair = Pair()
    forks.guard(pair)
    seen: list[bool] = []

    def handler(*_: object) -> None:
        seen.append(in_child(lambda: free(pair)))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pair._lock:
            os.kill(os.getpid(), signal.SIGUSR1)
            until = time.monotonic() + PATIENCE
            while not seen and time.monotonic() < until:
                time.sleep(0.001)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert seen == [True]
    assert free(pair)


def test_lock_that_is_new_in_the_child() -> None:
    """A child leaves a section that its parent's thread had entered, and the lock is free."""
    pair = Pair()
    forks.guard(pair)
    with pair._lock:
        assert in_child(lambda: free(pair))
        assert in_child(pair.look) == (0, 0, 1)
    assert free(pair)


def test_section_that_nobody_leaves() -> None:
    """A section that is not left in time delays the fork, once, and in the child its lock is new."""
    own = Forks(patience=0.01)
    stuck, others = Pair(), [Pair(), Pair()]
    for pair in (others[0], stuck, others[1]):
        own.guard(pair)
    entered, over = threading.Event(), threading.Event()

    def stay() -> None:
        with stuck._lock:
            entered.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    assert entered.wait(PATIENCE)
    own.before()
    locked = [pair._lock for pair in others]
    own.after_in_parent()
    assert [free(pair) for pair in others] == [True, True]
    own.before()
    own.after_in_child()
    over.set()
    thread.join(PATIENCE)

    assert stuck.look() == (0, 0, 1)
    assert [pair._lock for pair in others] != locked
    assert [free(pair) for pair in others] == [True, True]


def test_what_is_locked_while_a_fork_is_made() -> None:
    """Between the two halves of a fork no other thread gets into a guarded section."""
    own, pair = Forks(), Pair()
    own.guard(pair)
    own.before()
    thread = threading.Thread(target=pair.step, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    own.after_in_parent()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_things_that_are_gone() -> None:
    """Nothing is kept alive for being guarded, and nothing is left of what is gone."""
    own, pair = Forks(), Pair()
    own.guard(pair)
    own.in_child(pair.step)
    del pair
    gc.collect()
    assert own._things == {}
    assert own._actions == {}
    own.before()
    own.after_in_child()


def test_nothing_to_put_right() -> None:
    """A thing that needs no more than its lock gets just that."""

    class Plain:
        def __init__(self) -> None:
            self._lock = threading.RLock()

    own, plain = Forks(), Plain()
    own.guard(plain)
    before = plain._lock
    own.before()
    own.after_in_child()
    assert plain._lock is not before
    assert in_thread(plain._lock.acquire)


def test_without_a_lock() -> None:
    """A thing that needs no lock is put right, and given none."""

    class Lockless:
        renewed = 0

        def _renew_in_child(self) -> None:
            self.renewed += 1

    own, thing = Forks(), Lockless()
    own.guard(thing)
    own.before()
    own.after_in_child()
    assert vars(thing) == {"renewed": 1}


def test_guarded_twice() -> None:
    """Who guards a thing twice has it put right once."""
    own, pair = Forks(), Pair()
    own.guard(pair)
    own.guard(pair)
    own.before()
    own.after_in_child()
    assert pair.look() == (0, 0, 1)


def test_one_that_cannot_be_put_right(caplog: pytest.LogCaptureFixture) -> None:
    """A thing or an action that fails in the child is logged, and the others are put right."""
    own, broken, pair = Forks(), Broken(), Pair()
    done: list[str] = []

    def fail() -> None:
        raise LookupError("lost too")

    own.guard(broken)
    own.guard(pair)
    own.in_child(fail)
    own.in_child(lambda: done.append("action"))
    own.before()
    own.after_in_child()

    assert pair.look() == (0, 0, 1)
    assert free(broken)
    assert done == ["action"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "lost" in caplog.text


def test_a_log_that_fails_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """When even the log fails, the other things are put right all the same."""

    class Full(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("disk full")

    monkeypatch.setattr(logging.getLogger("service_utils"), "handlers", [Full()])
    own, broken, pair = Forks(), Broken(), Pair()
    own.guard(broken)
    own.guard(pair)
    own.before()
    own.after_in_child()
    assert pair.look() == (0, 0, 1)


def test_actions_come_last() -> None:
    """What is to be done in a child is done once all guarded things are themselves again."""
    own, pair, seen = Forks(), Pair(), []
    own.in_child(lambda: seen.append(pair.look()))
    own.guard(pair)
    own.before()
    own.after_in_child()
    assert seen == [(0, 0, 1)]


def test_action_in_a_real_child() -> None:
    """in_child() calls a function, or a method of something alive, in children and not in the parent."""
    pair = Pair()
    forks.in_child(pair.step)
    assert in_child(pair.look) == (1, 1, 0)
    assert pair.look() == (0, 0, 0)


def test_forks_while_things_come_and_go(busy: Callable[[Pair], None]) -> None:
    """Things that are made and dropped by other threads disturb no fork."""
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            forks.guard(Pair())

    thread = threading.Thread(target=churn, daemon=True)
    thread.start()
    pair = Pair()
    forks.guard(pair)
    busy(pair)
    try:
        for _ in range(10):
            left, right, _renewed = in_child(pair.look)
            assert left == right
    finally:
        over.set()
        thread.join(PATIENCE)
