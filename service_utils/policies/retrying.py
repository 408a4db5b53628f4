"""The attempts of any callable, made as a :class:`~service_utils.policies.retry.RetryPolicy` says."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from service_utils.clock import SYSTEM, Clock, SystemClock

if TYPE_CHECKING:
    from service_utils.policies.budget import RetryBudget
    from service_utils.policies.retry import RetryPolicy

__all__ = ["Retrying"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """What all runs of attempts with the same settings have in common. For any thread.

    Args:
        policy: How often and how fast.
        budget: Where the calls pay in and the retries take out, or None.
        exceptions: What is retried.
        timeout: Seconds for one run, or None.
        clock: Whose seconds.
    """

    policy: RetryPolicy
    budget: RetryBudget | None
    exceptions: tuple[type[Exception], ...] = (Exception,)
    timeout: float | None = None
    clock: Clock = SYSTEM

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function; of a coroutine function, make the coroutine that runs it.

        Raises:
            TypeError: Not a function that can be retried.
        """
        _check_function(func)
        run: Callable[..., Any] = self._run_async if _is_async(func) else self._run
        return cast(T, run(func, args, kwargs))

    def decorate(self, func: Callable[P, T]) -> Callable[P, T]:
        """The function that runs this one.

        Raises:
            TypeError: Not a function that can be retried.
        """
        _check_function(func)
        if _is_async(func):

            @functools.wraps(func)
            async def retried_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await self._run_async(cast(Callable[..., Awaitable[Any]], func), args, kwargs)

            return cast(Callable[P, T], retried_async)

        @functools.wraps(func)
        def retried(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._run(func, args, kwargs)

        return retried

    def _run(self, func: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        run = _Run(self)
        while True:
            try:
                return func(*args, **kwargs)
            except self.exceptions as error:
                delay = run.delay_after(error)
                if delay is None:
                    raise
                self.clock.sleep(delay)
                if run.out_of_time():  # sleeps may last longer than they were asked to
                    raise

    async def _run_async(
        self, func: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        run = _Run(self)
        cut = self.timeout is not None and isinstance(self.clock, SystemClock)
        while True:
            try:
                attempt = func(*args, **kwargs)
                return await (_cut_off(attempt, run) if cut else attempt)
            except self.exceptions as error:
                delay = run.delay_after(error)
                if delay is None:
                    raise
                await self.clock.async_sleep(delay)
                if run.out_of_time():
                    raise


class _Run:
    """Where one run of attempts stands. Belongs to the one thread or task that makes them."""

    __slots__ = ("_budget", "_clock", "_ends_at", "_failed", "_policy")

    def __init__(self, retrying: Retrying) -> None:
        self._policy = retrying.policy
        self._budget = retrying.budget
        self._clock = retrying.clock
        self._failed = 0
        self._ends_at = math.inf if retrying.timeout is None else self._clock.monotonic() + retrying.timeout
        if self._budget is not None:
            self._budget.deposit()

    def remaining(self) -> float:
        return self._ends_at - self._clock.monotonic()

    def out_of_time(self) -> bool:
        return self.remaining() <= 0

    def end(self) -> None:
        self._ends_at = -math.inf

    def delay_after(self, error: Exception) -> float | None:
        """Seconds until the next attempt, or None when there is none."""
        self._failed += 1
        if self._failed >= self._policy.max_attempts:
            return None
        retry_after = _retry_after_of(error)
        if retry_after is not None and retry_after > self._policy.max_retry_after:
            return None
        delay = self._policy.delay(self._failed, retry_after)
        if delay >= self.remaining():
            return None
        if self._budget is not None and not self._budget.try_withdraw():
            return None
        return delay


async def _cut_off(attempt: Awaitable[T], run: _Run) -> T:
    """Await an attempt for as long as there is time; after one that was cut there is no other."""
    import asyncio  # loaded late: whoever gets here has it already, and nobody else pays for it

    seconds = max(run.remaining(), 0.0)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await attempt
    except TimeoutError as error:
        if not limit.expired():
            raise  # the function's own
        run.end()
        raise TimeoutError(f"cut off after {seconds:.3f} s: the time for all attempts is up") from error


def _retry_after_of(error: Exception) -> float | None:
    seconds = getattr(error, "retry_after", None)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        return None
    return seconds


def _is_async(func: object) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


def _check_function(func: object) -> None:
    if not callable(func):
        raise TypeError(f"{func!r}: only functions and other callables can be retried")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(
            f"{func!r}: a generator function runs nothing when it is called, so nothing can be retried"
        )
