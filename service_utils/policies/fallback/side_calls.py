"""Calls that are left behind when they take too long.

Python cannot end a thread. A call that must not hold its caller runs in a thread of its own, and when it is
late the caller goes on without it; the thread runs until the call ends by itself. So that a service that
hangs does not fill the process with such threads, no new call is begun while too many are late.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from service_utils.clock import Clock, wait_for
from service_utils.forks import guard
from service_utils.policies.deadline import Deadline, lower_deadline
from service_utils.policies.fallback.single_flight import Done

if TYPE_CHECKING:
    import asyncio

__all__ = ["Late", "NoThread", "SideCalls"]


class Late(Exception):
    """The time was up before the call had ended. It has been left behind."""


class NoThread(Exception):
    """The system has no thread to run the call in."""


def _nothing() -> None:
    """What is done at the end of a call whose caller waits for nothing else."""


class _Call:
    """One call while it is under way, and what came of it.

    Attributes:
        limit: Until when it is in time.
        then: Called in its thread when it has ended.
        by: Its thread, or that of its event loop.
        alive: Whether it may still be under way; not so if its thread was never begun.
    """

    __slots__ = ("alive", "by", "done", "error", "limit", "result", "then")

    def __init__(self, limit: Deadline, then: Callable[[], object] = _nothing) -> None:
        self.limit = limit
        self.then = then
        self.done = Done()
        self.by: int | None = threading.get_ident()
        self.alive: Callable[[], bool] = lambda: True
        self.result: Any = None
        self.error: BaseException | None = None

    def outcome(self) -> Any:
        """What it returned; raises what it raised."""
        error, self.error = self.error, None  # its traceback leads to the frames that lead to this
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error


class SideCalls:
    """The calls of one strategy. For any number of threads; a forked child has none of its parent's.

    Args:
        name: What the threads are called.
        clock: Whose seconds count. Coroutines are waited for by their event loop's own clock.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.RLock()
        self._running: set[_Call] = set()
        guard(self)

    def _renew_in_child(self) -> None:
        mine = threading.get_ident()
        self._running = {call for call in self._running if call.by == mine}

    def late(self) -> int:
        """How many calls are under way although their time is up."""
        with self._lock:
            late = [call for call in self._running if call.limit.expired]
            # Whoever was interrupted before he could begin one has left it here.
            self._running.difference_update(call for call in late if not call.alive())
            return sum(call in self._running for call in late)

    def call(self, func: Callable[[], Any], limit: Deadline) -> Any:
        """What the function returns, if it does so in time.

        It runs in a copy of this context, in which the deadline of calls is lowered to the limit. What it
        changes there is not seen here.

        Raises:
            Late: It did not.
            NoThread: There is none to run it in.
            BaseException: Whatever the function raises.
        """
        call = _Call(limit)
        self._start(call, func)
        if not wait_for(call.done.wait, limit.remaining(), self._clock):
            raise Late
        return call.outcome()

    async def call_async(self, func: Callable[[], Any], limit: Deadline) -> Any:
        """The same for a coroutine, which waits without blocking its event loop.

        What the function returns is awaited if it can be, in the same time; a late coroutine is cancelled,
        and left behind if it does not heed that.
        """
        import asyncio  # loaded late: whoever gets here has it already, and nobody else pays for it

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        call = _Call(limit, wake)
        self._start(call, func)
        waiting = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait({waiting}, timeout=limit.remaining())
        finally:
            waiting.cancel()
        if not call.done.is_set():
            raise Late
        answer = call.outcome()
        if isinstance(answer, Awaitable):
            return await self.await_task(answer, limit)
        return answer

    async def await_task(self, awaitable: Awaitable[Any], limit: Deadline) -> Any:
        """What an awaitable comes to, if it does so in time.

        Raises:
            Late: It did not.
            BaseException: Whatever it raises.
        """
        import asyncio

        context = copy_context()
        context.run(lower_deadline, limit)
        call = _Call(limit)
        task = asyncio.get_running_loop().create_task(_awaited(awaitable), context=context)
        with self._lock:
            self._running.add(call)
        task.add_done_callback(lambda ended: self._ended(call, ended))
        try:
            done, _ = await asyncio.wait({task}, timeout=limit.remaining())
        finally:
            task.cancel()  # nothing, if it has ended
        if not done:
            raise Late
        return task.result()

    def _start(self, call: _Call, func: Callable[[], Any]) -> None:
        context = copy_context()
        work = threading.Thread(
            target=self._work,
            args=(call, lambda: context.run(_lowered, func, call.limit)),
            name=self._name,
            daemon=True,
        )
        call.alive = work.is_alive
        with self._lock:
            self._running.add(call)
        try:
            work.start()
        except RuntimeError as error:
            with self._lock:
                self._running.discard(call)
            raise NoThread(f"no thread to run it in ({error})") from error

    def _work(self, call: _Call, func: Callable[[], Any]) -> None:
        call.by = threading.get_ident()
        with self._lock:
            self._running.add(call)
        try:
            call.result = func()
        except BaseException as error:  # the caller raises it
            call.error = error
        finally:
            with self._lock:
                self._running.discard(call)
            call.done.set()
            call.then()

    def _ended(self, call: _Call, task: asyncio.Task[Any]) -> None:
        with self._lock:
            self._running.discard(call)
        if not task.cancelled():
            task.exception()  # seen, so that the loop does not complain of it when the task was left behind


def _lowered(func: Callable[[], Any], limit: Deadline) -> Any:
    lower_deadline(limit)
    return func()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
