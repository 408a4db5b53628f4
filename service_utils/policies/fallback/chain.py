"""``FallbackChain``: several ways to an answer, the best first."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

from service_utils.clock import Clock
from service_utils.policies.checks import checked_clock, require_count, require_seconds
from service_utils.policies.fallback.chain_run import ChainPlan, ChainRun
from service_utils.policies.fallback.failures import Catch, Failures, check_name, is_async, raise_if_failed
from service_utils.policies.fallback.report import ChainCounts, ChainReport
from service_utils.policies.fallback.side_calls import SideCalls
from service_utils.policies.fallback.strategy import Strategy, StrategyLike, in_order

__all__ = ["FallbackChain", "Strategy"]


class FallbackChain:
    """Tries strategies in their order until one succeeds. For any number of threads.

    A strategy fails with the exceptions that ``catch`` names, by returning a response whose status is 400 or
    above, or by not answering within its time. Everything else it raises is a mistake in the program, and
    passes at once.

    A strategy with a ``timeout``, and each one in a chain with a ``deadline``, runs in a thread of its own (a
    coroutine in a task of its own) that sees the caller's context variables; there the deadline of client
    calls is lowered to the time that it has. When that is up the chain goes on. Python cannot end a thread:
    one that hangs in something else than a client call runs until that ends. While ``max_hung`` calls of a
    strategy do so, it is skipped. So each strategy leaves behind fewer than that many threads, and those
    that were under way at that moment.

    Args:
        name: Display name of the chain for log lines.
        strategies: :class:`Strategy` objects, ``(name, callable)`` pairs, or callables that go by their own
            names. Lower priority numbers are tried first, equal ones in the order of the list.
        catch: Exactly the exceptions that count as failures: a type or a tuple of types. By default every
            ``requests.RequestException`` that is not the caller's own mistake.
        deadline: Seconds for all strategies together. When they are over, those that are left are skipped
            but for each ``last_resort``.
        max_hung: How many late calls of one strategy may be left behind before it is skipped.
        clock: Where the time comes from.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A name is empty, two strategies share one, there is no strategy, or a number is out of
            its range.
    """

    def __init__(
        self,
        name: str,
        strategies: Iterable[StrategyLike],
        *,
        catch: Catch = None,
        deadline: float | None = None,
        max_hung: int = 8,
        clock: Clock | None = None,
    ) -> None:
        check_name(name)
        if deadline is not None:
            require_seconds("deadline", deadline, zero=False)
        require_count("max_hung", max_hung)
        self.name = name
        self.strategies = in_order(name, strategies)
        self.deadline = deadline
        clock = checked_clock(clock)
        names = [strategy.name for strategy in self.strategies]
        self._plan = ChainPlan(
            name,
            self.strategies,
            Failures(catch),
            deadline,
            max_hung,
            clock,
            ChainCounts(names),
            {each: SideCalls(f"{name}: {each}", clock) for each in names},
        )

    def run(self, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        """Call the strategies with these arguments until one succeeds.

        Returns:
            Its answer and its name.

        Raises:
            Exception: The last strategy's, when all have failed, with ``.tried``: (name, exception) of
                each, in order; and ``.report``, a :class:`ChainReport`. One that was skipped counts as
                failed: with a ``CircuitOpenError``, or with a ``BulkheadFullError`` where too many calls of
                it hang; one that was late with a ``DeadlineExceeded``.
            TypeError: A strategy is async; nothing has been tried.
        """
        report = self.run_report(*args, **kwargs)
        return report.answer, report.strategy or ""

    def run_report(self, *args: Any, **kwargs: Any) -> ChainReport:
        """The same, and what was tried on the way.

        Raises:
            Exception: As :meth:`run`.
            TypeError: As :meth:`run`.
        """
        for strategy in self.strategies:
            if is_async(strategy.func):
                raise TypeError(f"strategy {strategy.name!r} of {self.name!r} is async: use run_async")
        run = ChainRun(self._plan)
        for strategy in run.due():
            answered = False
            try:
                answer = self._call(run, strategy, functools.partial(strategy.func, *args, **kwargs))
                answered = True
                raise_if_failed(answer)
            except Exception as error:
                run.note_failure(error, answered=answered)
            else:
                return run.succeeded(answer)
        raise run.last_error()

    async def run_async(self, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        """The same in a coroutine. Sync strategies without a time-out run in the event loop: be quick there.

        Returns:
            The answer of the first strategy that succeeds, and its name.

        Raises:
            Exception: As :meth:`run`.
        """
        report = await self.run_report_async(*args, **kwargs)
        return report.answer, report.strategy or ""

    async def run_report_async(self, *args: Any, **kwargs: Any) -> ChainReport:
        """The same, and what was tried on the way.

        Raises:
            Exception: As :meth:`run`.
        """
        run = ChainRun(self._plan)
        for strategy in run.due():
            answered = False
            try:
                answer = await self._call_async(
                    run, strategy, functools.partial(strategy.func, *args, **kwargs)
                )
                answered = True
                raise_if_failed(answer)
            except Exception as error:
                run.note_failure(error, answered=answered)
            else:
                return run.succeeded(answer)
        raise run.last_error()

    def get_status(self) -> dict[str, Any]:
        """A JSON-ready picture: of each strategy its outcomes since the start, and how many calls hang."""
        counts = self._plan.counts.snapshot()
        for strategy in self.strategies:
            counts[strategy.name]["hung"] = self._plan.side_calls[strategy.name].late()
        return {"name": self.name, "deadline": self.deadline, "strategies": counts}

    def __repr__(self) -> str:
        return f"FallbackChain({self.name!r}, {[strategy.name for strategy in self.strategies]!r})"

    def _call(self, run: ChainRun, strategy: Strategy, func: functools.partial[Any]) -> Any:
        limit = run.limit
        return func() if limit is None else self._plan.side_calls[strategy.name].call(func, limit)

    async def _call_async(self, run: ChainRun, strategy: Strategy, func: functools.partial[Any]) -> Any:
        limit, side = run.limit, self._plan.side_calls[strategy.name]
        if limit is not None and not is_async(strategy.func):
            return await side.call_async(func, limit)
        answer = func()
        if not inspect.isawaitable(answer):
            return answer
        return await (answer if limit is None else side.await_task(answer, limit))
