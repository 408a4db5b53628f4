"""What a chain is made of: strategies, and how they may be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from service_utils.policies.checks import require_seconds
from service_utils.policies.fallback.failures import Catch, Failures, check_name, name_of

__all__ = ["Circuit", "Strategy", "StrategyLike", "in_order"]


class Circuit(Protocol):
    """What can say "not now" without calling anybody; a ``CircuitBreaker`` is one."""

    def check(self) -> None:
        """Raise a ``ServiceUnavailable``, such as a ``CircuitOpenError``, if it lets no call through now."""
        ...


class _HasBreaker(Protocol):
    @property
    def breaker(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to an answer.

    Args:
        name: What it is called in log lines, metrics and results.
        func: Called with the arguments of the run; sync, or async for ``run_async``.
        priority: Lower numbers are tried first; of equal ones the one that stands first in the list.
        timeout: Seconds it may take. None: as long as it does, in the caller's own thread.
        breaker: Its circuit: while that lets no calls through, the strategy is skipped. It is only asked;
            results are recorded by whoever makes the calls, as a client does.
        client: A client whose circuit that is, in place of ``breaker``.
        catch: Which exceptions of it lead on to the next strategy; the chain's own rule when left out.
        last_resort: It is called even when the time of the whole chain is up: for what answers at once.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: ``name`` is empty, ``timeout`` is not above 0, or both ``breaker`` and ``client`` are
            given.
    """

    name: str
    func: Callable[..., Any]
    priority: int = 0
    timeout: float | None = None
    breaker: Circuit | None = None
    client: _HasBreaker | None = None
    catch: Catch = None
    last_resort: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if not callable(self.func):
            raise TypeError(f"func={self.func!r}: strategy {self.name!r} must be callable")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise TypeError(f"priority={self.priority!r}: must be an integer; lower ones come first")
        if self.timeout is not None:
            require_seconds("timeout", self.timeout, zero=False)
        if not isinstance(self.last_resort, bool):
            raise TypeError(f"last_resort={self.last_resort!r}: must be True or False")
        Failures(self.catch)
        self._check_circuit()

    def _check_circuit(self) -> None:
        if self.breaker is not None and self.client is not None:
            raise ValueError(f"breaker={self.breaker!r}, client={self.client!r}: give one of them")
        if self.breaker is not None and not callable(getattr(self.breaker, "check", None)):
            raise TypeError(f"breaker={self.breaker!r}: must be a CircuitBreaker")
        breaker = getattr(self.client, "breaker", None)
        if self.client is not None and not callable(getattr(breaker, "check", None)):
            raise TypeError(f"client={self.client!r}: must be a ResilientServiceClient")

    @property
    def circuit(self) -> Circuit | None:
        """The circuit to ask before it is called, or None."""
        circuit: Circuit | None = self.breaker if self.client is None else self.client.breaker
        return circuit


StrategyLike: TypeAlias = Strategy | tuple[str, Callable[..., Any]] | Callable[..., Any]


def in_order(chain: str, given: Iterable[StrategyLike]) -> tuple[Strategy, ...]:
    """The strategies of a chain, those of low priority numbers first.

    Raises:
        TypeError: Something is no strategy.
        ValueError: There are none, or two have one name.
    """
    if not isinstance(given, Iterable):
        raise TypeError(f"strategies={given!r}: must be a list of strategies")
    strategies = [_as_strategy(each) for each in given]
    if not strategies:
        raise ValueError(f"strategies={strategies!r}: the chain {chain!r} needs at least one")
    names = [strategy.name for strategy in strategies]
    for each in names:
        if names.count(each) > 1:
            raise ValueError(
                f"strategies: {each!r} is the name of more than one; give each a name of its own"
            )
    return tuple(sorted(strategies, key=lambda strategy: strategy.priority))


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
