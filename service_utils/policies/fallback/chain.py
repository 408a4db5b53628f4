"""``FallbackChain``: several ways to an answer, the best first."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from service_utils.clock import Clock
from service_utils.policies.checks import checked_clock
from service_utils.policies.fallback.degraded import mark_degraded
from service_utils.policies.fallback.failures import (
    Catch,
    Failures,
    check_name,
    is_async,
    name_of,
    raise_if_failed,
    sentence_of,
    tell,
)

__all__ = ["FallbackChain", "Strategy"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to an answer.

    Args:
        name: What it is called in log lines, metrics and results.
        func: Called with the arguments of the run; sync, or async for ``run_async``.

    Raises:
        TypeError: ``name`` is no str, or ``func`` cannot be called.
        ValueError: ``name`` is empty.
    """

    name: str
    func: Callable[..., Any]

    def __post_init__(self) -> None:
        check_name(self.name)
        if not callable(self.func):
            raise TypeError(f"func={self.func!r}: strategy {self.name!r} must be callable")


StrategyLike: TypeAlias = Strategy | tuple[str, Callable[..., Any]] | Callable[..., Any]
_Tried: TypeAlias = list[tuple[str, Exception]]


class FallbackChain:
    """Tries strategies in their order until one succeeds. Immutable, for any thread.

    A strategy fails with the exceptions that ``catch`` names, or by returning a response whose status is
    400 or above. Everything else it raises is a mistake in the program, and passes at once.

    Args:
        name: Display name of the chain for log lines.
        strategies: :class:`Strategy` objects, ``(name, callable)`` pairs, or callables that go by their own
            names.
        catch: Exactly the exceptions that count as failures: a type or a tuple of types. By default every
            ``requests.RequestException`` that is not the caller's own mistake.
        clock: Where the events get their time from.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A name is empty, two strategies share one, or there is no strategy.
    """

    def __init__(
        self,
        name: str,
        strategies: Iterable[StrategyLike],
        *,
        catch: Catch = None,
        clock: Clock | None = None,
    ) -> None:
        check_name(name)
        if not isinstance(strategies, Iterable):
            raise TypeError(f"strategies={strategies!r}: must be a list of strategies")
        self.name = name
        self.strategies = tuple(_as_strategy(each) for each in strategies)
        self._failures = Failures(catch)
        self._clock = checked_clock(clock)
        names = [strategy.name for strategy in self.strategies]
        if not names:
            raise ValueError(f"strategies={strategies!r}: the chain {name!r} needs at least one")
        for each in names:
            if names.count(each) > 1:
                raise ValueError(
                    f"strategies: {each!r} is the name of more than one; give each a name of its own"
                )

    def run(self, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        """Call the strategies with these arguments until one succeeds.

        Returns:
            Its answer and its name.

        Raises:
            Exception: The last strategy's, when all have failed, with ``.tried``: (name, exception) of
                each, in order.
            TypeError: A strategy is async; nothing has been tried.
        """
        for strategy in self.strategies:
            if is_async(strategy.func):
                raise TypeError(f"strategy {strategy.name!r} of {self.name!r} is async: use run_async")
        tried: _Tried = []
        for strategy in self.strategies:
            answered = False
            try:
                answer = strategy.func(*args, **kwargs)
                answered = True
                raise_if_failed(answer)
            except Exception as error:
                if not (answered or self._failures.cover(error)):
                    raise
                self._note_failure(strategy, error, tried)
            else:
                self._note_success(strategy, tried)
                return answer, strategy.name
        raise _last_of(tried)

    async def run_async(self, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        """The same in a coroutine. Sync strategies run in the event loop, so they should be quick.

        Returns:
            The answer of the first strategy that succeeds, and its name.

        Raises:
            Exception: The last strategy's, when all have failed, with ``.tried``: (name, exception) of
                each, in order.
        """
        tried: _Tried = []
        for strategy in self.strategies:
            answered = False
            try:
                answer = strategy.func(*args, **kwargs)
                if inspect.isawaitable(answer):
                    answer = await answer
                answered = True
                raise_if_failed(answer)
            except Exception as error:
                if not (answered or self._failures.cover(error)):
                    raise
                self._note_failure(strategy, error, tried)
            else:
                self._note_success(strategy, tried)
                return answer, strategy.name
        raise _last_of(tried)

    def __repr__(self) -> str:
        return f"FallbackChain({self.name!r}, {[strategy.name for strategy in self.strategies]!r})"

    def _note_failure(self, strategy: Strategy, error: Exception, tried: _Tried) -> None:
        tried.append((strategy.name, error))
        if len(tried) > 1:  # the first choice is no fallback
            self._tell(strategy, "failure", tried[0][1], sentence_of(error))

    def _note_success(self, strategy: Strategy, tried: _Tried) -> None:
        if tried:
            mark_degraded(strategy.name)
            self._tell(strategy, "success", tried[0][1], None)

    def _tell(self, strategy: Strategy, status: str, first: Exception, detail: str | None) -> None:
        tell(
            pattern="chain",
            strategy=strategy.name,
            status=status,
            first=first,
            clock=self._clock,
            label=self.name,
            detail=detail,
        )


def _last_of(tried: _Tried) -> Exception:
    last = tried[-1][1]
    last.tried = tuple(tried)  # type: ignore[attr-defined]
    return last


def _as_strategy(given: StrategyLike) -> Strategy:
    if isinstance(given, Strategy):
        return given
    if isinstance(given, tuple):
        if len(given) != 2:
            raise TypeError(f"strategies: {given!r} must be a pair of name and callable")
        return Strategy(*given)
    if not callable(given):
        raise TypeError(f"strategies: {given!r} must be a Strategy, a (name, callable) pair or a callable")
    return Strategy(name_of(given), given)
