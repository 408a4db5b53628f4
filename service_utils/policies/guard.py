"""A circuit breaker round a piece of code: ``call``, ``with`` and the decorator."""

from __future__ import annotations

import abc
import functools
import inspect
import math
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType, FunctionType, TracebackType
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar, overload

from service_utils.calls import Outcome
from service_utils.clock import Clock
from service_utils.errors import DeadlineExceeded, ServiceUnavailable, TokenError
from service_utils.policies.permit import Permit

__all__ = ["Classify", "Guard", "Rules"]

P = ParamSpec("P")
R = TypeVar("R")

Classify: TypeAlias = Callable[[Exception], "Outcome | None"]

_SUCCESS, _IGNORED = Outcome.SUCCESS, Outcome.IGNORED  # an enum is slow to look into before Python 3.12
_RUNS_LATER = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


@dataclass(frozen=True, slots=True)
class Rules:
    """What an exception out of the guarded code means for the breaker."""

    ignore: tuple[type[BaseException], ...]
    classify: Classify | None

    @classmethod
    def of(
        cls, ignore: type[BaseException] | tuple[type[BaseException], ...], classify: Classify | None
    ) -> Rules:
        """Check both and make the rules.

        Raises:
            TypeError: ``ignore`` holds something that is no exception type, or ``classify`` cannot be called.
        """
        types = ignore if isinstance(ignore, tuple) else (ignore,)
        for kind in types:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"ignore={ignore!r}: must be an exception type or a tuple of them")
        if classify is not None and not callable(classify):
            raise TypeError(f"classify={classify!r}: must be a callable that takes an exception")
        return cls(types, classify)

    def outcome_of(self, error: BaseException | None) -> Outcome:
        """Classify what the guarded code ended with. What ``classify`` raises passes to the caller.

        Raises:
            TypeError: ``classify`` returned neither an :class:`Outcome` nor None.
        """
        if error is None:
            return _SUCCESS
        if not isinstance(error, Exception) or isinstance(error, self.ignore):
            return _IGNORED
        if self.classify is not None:
            outcome = self.classify(error)
            if type(outcome) is Outcome:
                return outcome
            if outcome is not None:
                raise TypeError(f"classify returned {outcome!r}: must be an Outcome or None")
        refused = isinstance(error, ServiceUnavailable | TokenError)
        unsent = isinstance(error, DeadlineExceeded) and not error.sent
        return _IGNORED if refused or unsent else Outcome.FAILURE


class Guard(abc.ABC):
    """What can be put round a piece of code: the half of a breaker that is told in exceptions.

    Args:
        clock: Where the time comes from.
        rules: What an exception means.
    """

    def __init__(self, clock: Clock, rules: Rules) -> None:
        self.clock = clock
        self._rules = rules
        self._blocks: list[Entry] = []  # ``with`` blocks that are entered and not left

    @abc.abstractmethod
    def acquire(self) -> Permit:
        """Ask for the right to make one call."""

    @abc.abstractmethod
    def record(
        self,
        permit: Permit,
        outcome: Outcome,
        duration: float = 0.0,
        error: BaseException | str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Give a permit back and tell how the call went."""

    def _forget_blocks(self) -> None:
        """Have the ``with`` blocks that are open mean nothing when they are left."""
        for block in self._blocks:
            block.body = None
        self._blocks.clear()

    def call(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function through the breaker; a coroutine function gives a coroutine that does the same.

        An ``Exception`` is a failure unless ``ignore`` or ``classify`` say otherwise; our own refusals
        (ServiceUnavailable, TokenError) and everything that is no ``Exception`` are ignored.

        Raises:
            CircuitOpenError: See :meth:`acquire`.
        """
        if _is_plain(func):
            return _run(self, func, self._rules, args, kwargs)
        result: R = wrap(self, func, self._rules)(*args, **kwargs)
        return result

    @overload
    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def __call__(
        self,
        func: None = None,
        /,
        *,
        ignore: type[BaseException] | tuple[type[BaseException], ...] = (),
        classify: Classify | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def __call__(
        self,
        func: Any = None,
        /,
        *,
        ignore: type[BaseException] | tuple[type[BaseException], ...] = (),
        classify: Classify | None = None,
    ) -> Any:
        """Decorate a function or coroutine function: ``@breaker`` or ``@breaker(ignore=(KeyError,))``."""
        rules = Rules.of(ignore, classify) if ignore or classify else self._rules
        if func is None:
            return lambda decorated: wrap(self, decorated, rules)
        return wrap(self, func, rules)

    def __enter__(self) -> Self:
        enter(self, self.clock.monotonic())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave(self, error, self._rules)


def wrap(breaker: Guard, func: Callable[..., Any], rules: Rules) -> Callable[..., Any]:
    """The function with the breaker round each of its calls.

    Raises:
        TypeError: ``func`` cannot be called, or is a generator function: its body runs long after the call.
    """
    if not callable(func):
        raise TypeError(f"func={func!r}: must be callable")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(
            f"func={func!r}: a generator function ends before its body has begun; guard the loop instead"
        )
    if inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None)):  # noqa: B004
        return _wrap_async(breaker, func, rules)

    @functools.wraps(func)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return _run(breaker, func, rules, args, kwargs)

    return guarded


def _is_plain(func: object) -> bool:
    """Whether it takes no longer look to see that this is a function that runs when it is called."""
    return type(func) is FunctionType and not (func.__code__.co_flags & _RUNS_LATER or func.__dict__)


def _run(
    breaker: Guard, func: Callable[..., R], rules: Rules, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    began = breaker.clock.monotonic()
    permit = breaker.acquire()
    try:
        result = func(*args, **kwargs)
    except BaseException as error:
        settle(breaker, permit, rules, error, began)
        raise
    _succeeded(breaker, permit, began)
    return result


def _wrap_async(
    breaker: Guard, func: Callable[..., Any], rules: Rules
) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(func)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        began = breaker.clock.monotonic()
        permit = breaker.acquire()
        try:
            result = await func(*args, **kwargs)
        except BaseException as error:
            settle(breaker, permit, rules, error, began)
            raise
        _succeeded(breaker, permit, began)
        return result

    return guarded


def _succeeded(breaker: Guard, permit: Permit, began: float) -> None:
    """What :func:`settle` comes to when there is no error."""
    outcome, duration = _IGNORED, 0.0
    try:
        duration = breaker.clock.monotonic() - began
        outcome = _SUCCESS
    finally:
        breaker.record(permit, outcome, duration)


def settle(breaker: Guard, permit: Permit, rules: Rules, error: BaseException | None, began: float) -> None:
    """Record how the guarded code ended. The permit is given back even when ``classify`` fails."""
    outcome, retry_after, duration = _IGNORED, None, 0.0
    try:
        duration = breaker.clock.monotonic() - began
        outcome = rules.outcome_of(error)
        retry_after = getattr(error, "retry_after", None)
    finally:
        breaker.record(
            permit,
            outcome,
            duration,
            error=error,
            retry_after=retry_after if _is_a_wait(retry_after) else None,
        )


def _is_a_wait(value: Any) -> bool:
    """Whether what an exception of somebody else's calls ``retry_after`` can be seconds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < math.inf


@dataclass(slots=True, eq=False)
class Entry:
    """A ``with`` block that has been entered and not left."""

    breaker: Guard
    permit: Permit
    began: float
    body: FrameType | None  # the function body the block stands in, while the block is open


# The ``with`` statement hands nothing from __enter__ to __exit__, so the permits of this thread or task lie
# here, innermost last. One variable for all breakers: a context variable per breaker would never be freed.
_entered: ContextVar[tuple[Entry, ...]] = ContextVar("_entered", default=())


def enter(breaker: Guard, now: float) -> None:
    """Take a permit for a ``with`` block."""
    entry = Entry(breaker, breaker.acquire(), now, _body())
    breaker._blocks.append(entry)
    _entered.set((*_still_open(), entry))


def leave(breaker: Guard, error: BaseException | None, rules: Rules) -> None:
    """Settle the innermost ``with`` block of this breaker in the same function body.

    Generators need not leave their blocks in the order in which they entered them, nor in the thread, task or
    context: hence the function body. Where it says nothing (an ``ExitStack`` enters and leaves in bodies of
    its own) the innermost block of this context counts. One that is in another context then finds no permit
    here; a probe's expires by itself.
    """
    body, here = _body(), _still_open()
    left = _innermost(entry for entry in tuple(breaker._blocks) if entry.body is body) or _innermost(
        entry for entry in here if entry.breaker is breaker
    )
    if left is None:
        return
    left.body = None  # a copy of the context may live on, the function's variables need not
    breaker._blocks.remove(left)
    _entered.set(tuple(entry for entry in here if entry is not left))
    settle(breaker, left.permit, rules, error, left.began)


def _still_open() -> tuple[Entry, ...]:
    """The blocks entered in this context, without those that were left in another."""
    return tuple(entry for entry in _entered.get() if entry.body is not None)


def _innermost(entries: Iterable[Entry]) -> Entry | None:
    return next(reversed(tuple(entries)), None)


def _body() -> FrameType:
    """The function body with the ``with`` statement: three calls up, behind ``enter`` and ``__enter__``."""
    return sys._getframe(3)
