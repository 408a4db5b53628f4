"""Failures in a generator's ``with breaker:`` were not counted when its steps ran in different contexts."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


def test_a_generator_whose_steps_run_in_copies_of_the_context() -> None:
    """Frameworks run each step of a streamed answer in a thread pool, in a copy of the context."""
    breaker = CircuitBreaker("b", failure_threshold=2, clock=FakeClock())

    def answer() -> Iterator[int]:
        with breaker:
            yield 1
            raise ValueError("failed")

    for _ in range(2):
        steps = answer()
        contextvars.copy_context().run(next, steps)
        with pytest.raises(ValueError, match="failed"):
            contextvars.copy_context().run(next, steps)

    assert breaker.state == "open"


def test_a_generator_finished_by_another_thread() -> None:
    """A probe that another thread brings to its end frees the way and closes the circuit."""
    clock = FakeClock()
    breaker = CircuitBreaker("b", failure_threshold=1, recovery_timeout=5, clock=clock)
    with contextlib.suppress(ValueError), breaker:
        raise ValueError
    clock.advance(5)

    def answer() -> Iterator[int]:
        with breaker:
            yield 1

    steps = answer()
    next(steps)
    thread = threading.Thread(target=list, args=(steps,))
    thread.start()
    thread.join(10)

    assert breaker.state == "closed"
    with breaker:  # what was left elsewhere does not mix with the blocks of this thread
        pass
    assert breaker.get_stats()["total"]["succeeded"] == 2


def test_nothing_of_a_block_lives_on_in_copied_contexts() -> None:
    """A context copied within the block keeps no variable of the function alive."""

    class Large:
        pass

    breaker = CircuitBreaker("b", clock=FakeClock())

    def work() -> tuple[contextvars.Context, weakref.ref[Large]]:
        large = Large()
        with breaker:
            return contextvars.copy_context(), weakref.ref(large)

    context, large = work()
    gc.collect()

    assert large() is None
    assert context is not None


def test_stacks_of_exits() -> None:
    """Two ExitStacks give back a permit each, in whatever order they are closed."""
    breaker = CircuitBreaker("b", clock=FakeClock())
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(breaker)
    second.enter_context(breaker)

    first.close()
    second.close()

    assert breaker.get_stats()["total"]["succeeded"] == 2
