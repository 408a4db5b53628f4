"""``with`` blocks inside each other, in generators and in threads: each tells its own result."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from service_utils.errors import CircuitOpenError
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock
from tests.policies.circuits import THRESHOLD, half_open_breaker, make_breaker, totals


def test_blocks_of_two_breakers(fake_clock: FakeClock) -> None:
    """An exception that leaves both blocks is a failure of both."""
    one, other = make_breaker(fake_clock), make_breaker(fake_clock)
    with pytest.raises(ConnectionResetError), one, other:
        raise ConnectionResetError
    with one, other:
        pass
    assert totals(one) == totals(other) == (1, 1, 0, 0)


def test_exception_caught_between_two_blocks(fake_clock: FakeClock) -> None:
    """What the outer block never sees is none of its failures."""
    outer, inner = make_breaker(fake_clock), make_breaker(fake_clock)
    with outer, contextlib.suppress(ConnectionResetError), inner:
        raise ConnectionResetError
    assert (totals(outer), totals(inner)) == ((1, 0, 0, 0), (0, 1, 0, 0))


def test_blocks_of_one_breaker(fake_clock: FakeClock) -> None:
    """A breaker inside itself makes two calls, and the inner one is settled first."""
    breaker = make_breaker(fake_clock, failure_threshold=9)
    with breaker:
        with contextlib.suppress(ConnectionResetError), breaker:
            raise ConnectionResetError
        assert totals(breaker) == (0, 1, 0, 0)
    assert totals(breaker) == (1, 1, 0, 0)


def test_breaker_inside_its_own_probe(fake_clock: FakeClock) -> None:
    """The inner block of a probe finds no place; its refusal leaves the outer one without a result."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.release(probe)
    with pytest.raises(CircuitOpenError), breaker, breaker:
        pytest.fail("must not run")
    assert breaker.state == "half_open"
    assert totals(breaker) == (0, THRESHOLD, 2, 1)
    with breaker:
        pass
    assert breaker.state == "closed"


def test_blocks_left_in_another_order(fake_clock: FakeClock) -> None:
    """Blocks of two breakers need not be left in the order in which they were entered."""
    one, other = make_breaker(fake_clock), make_breaker(fake_clock)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(ConnectionResetError, ConnectionResetError(), None)
    assert (totals(one), totals(other)) == ((1, 0, 0, 0), (0, 1, 0, 0))


def test_stacks_closed_in_another_order(fake_clock: FakeClock) -> None:
    """An ExitStack leaves the blocks of its own breaker, also when another's were entered after it."""
    one, other = make_breaker(fake_clock), make_breaker(fake_clock)
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(one)
    second.enter_context(other)
    first.close()
    assert (totals(one), totals(other)) == ((1, 0, 0, 0), (0, 0, 0, 0))
    second.close()
    assert totals(other) == (1, 0, 0, 0)


def test_leaving_a_block_that_was_not_entered(fake_clock: FakeClock) -> None:
    """Without a block there is nothing to settle."""
    breaker = make_breaker(fake_clock)
    breaker.__exit__(None, None, None)
    assert totals(breaker) == (0, 0, 0, 0)


def guarded(breaker: CircuitBreaker, fails: bool = False) -> Iterator[int]:
    with breaker:
        yield 1
        if fails:
            raise ConnectionResetError


def test_generator_run_to_its_end(fake_clock: FakeClock) -> None:
    """A block in a generator lasts until the generator has ended."""
    breaker = make_breaker(fake_clock)
    stream = guarded(breaker)
    next(stream)
    assert totals(breaker) == (0, 0, 0, 0)
    assert list(stream) == []
    assert totals(breaker) == (1, 0, 0, 0)


def test_generator_that_is_dropped(fake_clock: FakeClock) -> None:
    """A stream that nobody reads to its end counts as nothing and gives its place back."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.release(probe)
    stream = guarded(breaker)
    next(stream)
    assert breaker.get_stats()["half_open_in_use"] == 1
    del stream
    gc.collect()
    assert breaker.get_stats()["half_open_in_use"] == 0
    assert totals(breaker) == (0, THRESHOLD, 2, 0)


def test_generators_that_take_turns(fake_clock: FakeClock) -> None:
    """Of two streams in one thread each tells its own result, in whatever order they end."""
    breaker = make_breaker(fake_clock, failure_threshold=9)
    streams = [guarded(breaker, fails=number % 2 == 0) for number in range(6)]
    for stream in streams:
        next(stream)
    for number in (2, 5, 0, 1, 4, 3):
        with pytest.raises((StopIteration, ConnectionResetError)):
            next(streams[number])
    assert totals(breaker) == (3, 3, 0, 0)


def test_generator_inside_a_block(fake_clock: FakeClock) -> None:
    """A stream begun inside a block and read on after it does not touch the block's result."""
    breaker = make_breaker(fake_clock, failure_threshold=9)
    stream = guarded(breaker, fails=True)
    with breaker:
        next(stream)
    assert totals(breaker) == (1, 0, 0, 0)
    with pytest.raises(ConnectionResetError):
        next(stream)
    assert totals(breaker) == (1, 1, 0, 0)


def test_generator_finished_by_another_thread(fake_clock: FakeClock) -> None:
    """A stream that another thread finishes tells its result like any other."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.release(probe)
    stream = guarded(breaker)
    next(stream)
    thread = threading.Thread(target=list, args=(stream,))
    thread.start()
    thread.join(10)

    assert breaker.state == "closed"
    assert breaker.get_stats()["half_open_in_use"] == 0


def test_threads_in_blocks_at_once(fake_clock: FakeClock) -> None:
    """Threads that are inside the block together each tell their own result."""
    breaker = make_breaker(fake_clock, failure_threshold=99)
    inside = threading.Barrier(8, timeout=10)

    def work(fails: bool) -> None:
        with contextlib.suppress(ConnectionResetError), breaker:
            inside.wait()
            if fails:
                raise ConnectionResetError

    threads = [threading.Thread(target=work, args=(number % 4 == 0,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert totals(breaker) == (6, 2, 0, 0)


def test_context_copied_inside_a_block(fake_clock: FakeClock) -> None:
    """Code that runs in a copy of the context has blocks of its own."""
    breaker = make_breaker(fake_clock, failure_threshold=9)

    def work() -> None:
        with contextlib.suppress(ConnectionResetError), breaker:
            raise ConnectionResetError

    with breaker:
        contextvars.copy_context().run(work)
        assert totals(breaker) == (0, 1, 0, 0)
    assert totals(breaker) == (1, 1, 0, 0)


def test_breakers_are_freed(fake_clock: FakeClock) -> None:
    """Using ``with`` keeps no breaker alive."""
    breaker = make_breaker(fake_clock)
    with breaker:
        pass
    gone = weakref.ref(breaker)
    del breaker
    gc.collect()
    assert gone() is None
