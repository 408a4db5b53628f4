"""A breaker round coroutines: the decorator, call(), and ``with`` round an await."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from service_utils.errors import CircuitOpenError
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock
from tests.policies.circuits import THRESHOLD, half_open_breaker, make_breaker, totals

Func = Callable[[], Awaitable[Any]]
Use = Callable[[CircuitBreaker, Func], Awaitable[Any]]


async def by_call(breaker: CircuitBreaker, func: Func) -> Any:
    return await breaker.call(func)


async def by_with(breaker: CircuitBreaker, func: Func) -> Any:
    with breaker:
        return await func()


async def by_decorator(breaker: CircuitBreaker, func: Func) -> Any:
    return await breaker(func)()


every_way = pytest.mark.parametrize("use", [by_call, by_with, by_decorator])


@every_way
def test_result_counts_when_the_coroutine_ends(fake_clock: FakeClock, use: Use) -> None:
    """The result is that of the awaited work, not of the call that began it."""
    breaker = make_breaker(fake_clock)
    during = []

    async def func() -> int:
        await asyncio.sleep(0)
        during.append(totals(breaker))
        return 42

    assert asyncio.run(use(breaker, func)) == 42  # type: ignore[arg-type]
    assert during == [(0, 0, 0, 0)]
    assert totals(breaker) == (1, 0, 0, 0)


@every_way
def test_failures_open_the_circuit(fake_clock: FakeClock, use: Use) -> None:
    """Exceptions out of coroutines are failures, and an open circuit runs none."""
    breaker = make_breaker(fake_clock)

    async def func() -> None:
        await asyncio.sleep(0)
        raise ConnectionResetError

    async def story() -> None:
        for _ in range(THRESHOLD):
            with pytest.raises(ConnectionResetError):
                await use(breaker, func)
        with pytest.raises(CircuitOpenError):
            await use(breaker, func)

    asyncio.run(story())
    assert totals(breaker) == (0, THRESHOLD, 0, 1)


@every_way
def test_cancelled_task_gives_its_probe_back(fake_clock: FakeClock, use: Use) -> None:
    """A task that is cancelled counts as nothing, and the next probe can go."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.release(probe)

    async def story() -> None:
        begun = asyncio.Event()

        async def func() -> None:
            begun.set()
            await asyncio.sleep(3600)

        task = asyncio.ensure_future(use(breaker, func))
        await begun.wait()
        assert breaker.get_stats()["half_open_in_use"] == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    assert breaker.get_stats()["half_open_in_use"] == 0
    assert totals(breaker) == (0, THRESHOLD, 2, 0)


@every_way
def test_time_out_is_a_failure(fake_clock: FakeClock, use: Use) -> None:
    """A time-out inside the guarded code is a failure like any exception."""
    breaker = make_breaker(fake_clock)

    async def func() -> None:
        await asyncio.wait_for(asyncio.sleep(3600), 0.001)

    with pytest.raises(TimeoutError):
        asyncio.run(use(breaker, func))  # type: ignore[arg-type]
    assert totals(breaker) == (0, 1, 0, 0)


@every_way
def test_tasks_do_not_mix_up_their_permits(fake_clock: FakeClock, use: Use) -> None:
    """Many tasks in one thread, ending in any order, each tell their own result."""
    breaker = make_breaker(fake_clock, failure_threshold=10_000)

    async def work(number: int) -> None:
        async def func() -> None:
            for _ in range(number * 7 % 5):
                await asyncio.sleep(0)
            if number % 3 == 0:
                raise ConnectionResetError

        await use(breaker, func)

    async def story() -> None:
        await asyncio.gather(*map(work, range(300)), return_exceptions=True)

    asyncio.run(story())
    assert totals(breaker) == (200, 100, 0, 0)


def test_coroutine_that_is_never_awaited_takes_nothing(fake_clock: FakeClock) -> None:
    """A permit is taken when the work begins: a coroutine that is dropped has none."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.release(probe)

    @breaker
    async def func() -> None: ...

    func().close()
    assert breaker.get_stats()["half_open_in_use"] == 0
    assert breaker.acquire().half_open


def test_coroutine_closed_half_way_gives_its_permit_back(fake_clock: FakeClock) -> None:
    """A coroutine that is thrown away while it waits ends like an interrupted call."""
    breaker, probe = half_open_breaker(fake_clock)
    breaker.release(probe)

    @breaker
    async def func() -> None:
        await asyncio.sleep(0)

    coroutine: Any = func()
    coroutine.send(None)
    assert breaker.get_stats()["half_open_in_use"] == 1
    coroutine.close()
    assert breaker.get_stats()["half_open_in_use"] == 0


def test_decorated_coroutine_function_is_one(fake_clock: FakeClock) -> None:
    """Frameworks see that the decorated function is async; its face stays."""

    async def query(text: str) -> str:
        """Look it up."""
        return text

    guarded = make_breaker(fake_clock)(query)
    assert inspect.iscoroutinefunction(guarded)
    assert (guarded.__name__, guarded.__doc__) == ("query", "Look it up.")
    assert asyncio.run(guarded("a")) == "a"


def test_async_callables(fake_clock: FakeClock) -> None:
    """Partials of coroutine functions and objects with an async __call__ are awaited too."""

    class Query:
        async def __call__(self, text: str) -> str:
            raise ConnectionResetError(text)

    breaker = make_breaker(fake_clock)
    for func in (Query(), functools.partial(Query().__call__)):
        with pytest.raises(ConnectionResetError):
            asyncio.run(breaker.call(func, "a"))
    assert totals(breaker) == (0, 2, 0, 0)


def test_blocks_inside_async_generators(fake_clock: FakeClock) -> None:
    """Streams that take turns in one task tell their own results."""
    breaker = make_breaker(fake_clock, failure_threshold=10)

    async def stream(fails: bool) -> AsyncIterator[int]:
        with breaker:
            yield 1
            if fails:
                raise ConnectionResetError

    async def story() -> None:
        bad, good = aiter(stream(True)), aiter(stream(False))
        await anext(bad)
        await anext(good)
        with pytest.raises(ConnectionResetError):
            await anext(bad)
        assert totals(breaker) == (0, 1, 0, 0)
        with pytest.raises(StopAsyncIteration):
            await anext(good)

    asyncio.run(story())
    assert totals(breaker) == (1, 1, 0, 0)


def test_child_tasks_inside_a_block(fake_clock: FakeClock) -> None:
    """Tasks begun inside a block have blocks of their own and leave the outer one alone."""
    breaker = make_breaker(fake_clock, failure_threshold=10)

    async def child() -> None:
        with breaker:
            await asyncio.sleep(0)
            raise ConnectionResetError

    async def story() -> None:
        with breaker:
            children = [asyncio.ensure_future(child()) for _ in range(3)]
            await asyncio.gather(*children, return_exceptions=True)
            assert totals(breaker) == (0, 3, 0, 0)

    asyncio.run(story())
    assert totals(breaker) == (1, 3, 0, 0)
