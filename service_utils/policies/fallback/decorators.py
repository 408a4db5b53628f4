"""``fail_open`` and ``fail_closed``: what a function does when the service it needs does not answer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast, overload

from service_utils.clock import Clock
from service_utils.errors import RequestException, ServiceError
from service_utils.policies.checks import checked_clock
from service_utils.policies.fallback.degraded import mark_degraded
from service_utils.policies.fallback.failures import (
    Catch,
    Failures,
    check_function,
    check_name,
    is_async,
    name_of,
    raise_if_failed,
    reason_of,
    sentence_of,
    tell,
)

__all__ = ["fail_closed", "fail_open"]

P = ParamSpec("P")
T = TypeVar("T")


def fail_open(
    fallback: Callable[..., Any],
    *,
    name: str | None = None,
    catch: Catch = None,
    clock: Clock | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a fallback answer when a function, sync or async, fails.

    A result with a status of 400 or above that is a response of an HTTP client has failed as well. A
    fallback that answers marks the answer as degraded; either way the process's listeners get a
    ``FallbackUsed``.

    Args:
        fallback: Called with the same arguments; async only if the function is. In an async function a sync
            fallback runs in the event loop, so it should be quick.
        name: What the fallback is called in log lines and metrics; its own name by default.
        catch: Exactly the exceptions that count as failures: a type or a tuple of types. By default every
            ``requests.RequestException`` that is not the caller's own mistake (a bad URL, a bad header).
        clock: Where the events get their time from.

    Returns:
        The decorator. What it makes raises the fallback's exception when that fails too, with the
        function's own as its context.

    Raises:
        TypeError: ``fallback`` cannot be called, ``catch`` holds something that is no ``Exception`` type,
            or (when decorating) the function is a generator function, or sync with an async fallback.
        ValueError: ``name`` is empty.
    """
    if not callable(fallback):
        raise TypeError(f"fallback={fallback!r}: must be a callable that takes the function's arguments")
    if name is None:
        name = name_of(fallback)
    check_name(name)
    return _FailOpen(fallback, name, Failures(catch), checked_clock(clock)).decorate


@dataclass(frozen=True, slots=True)
class _FailOpen:
    fallback: Callable[..., Any]
    strategy: str
    failures: Failures
    clock: Clock

    def decorate(self, func: Callable[P, T]) -> Callable[P, T]:
        check_function("fail_open", func)
        if is_async(func):
            return cast(Callable[P, T], self._wrap_async(func))
        if is_async(self.fallback):
            raise TypeError(
                f"fallback={self.fallback!r}: is async, but {func!r} is not, so nobody would await it"
            )
        return cast(Callable[P, T], self._wrap(func))

    def _wrap(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def open_on_failure(*args: Any, **kwargs: Any) -> Any:
            answered = False
            try:
                result = func(*args, **kwargs)
                answered = True
                raise_if_failed(result)
            except Exception as error:
                if not (answered or self.failures.cover(error)):
                    raise
                # Inside the handler, so that an error of the fallback has this one as its context.
                return self._answer(error, name_of(func), args, kwargs)
            return result

        return open_on_failure

    def _wrap_async(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        async def open_on_failure(*args: Any, **kwargs: Any) -> Any:
            answered = False
            try:
                result = await func(*args, **kwargs)
                answered = True
                raise_if_failed(result)
            except Exception as error:
                if not (answered or self.failures.cover(error)):
                    raise
                return await self._answer_async(error, name_of(func), args, kwargs)
            return result

        return open_on_failure

    def _answer(self, first: Exception, label: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            answer = self.fallback(*args, **kwargs)
            raise_if_failed(answer)
        except Exception as error:
            self._tell_failure(first, error, label)
            raise
        self._tell_success(first, label)
        return answer

    async def _answer_async(
        self, first: Exception, label: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            answer = self.fallback(*args, **kwargs)
            if inspect.isawaitable(answer):
                answer = await answer
            raise_if_failed(answer)
        except Exception as error:
            self._tell_failure(first, error, label)
            raise
        self._tell_success(first, label)
        return answer

    def _tell_success(self, first: Exception, label: str) -> None:
        mark_degraded(self.strategy)
        tell(
            pattern="fail_open",
            strategy=self.strategy,
            status="success",
            first=first,
            clock=self.clock,
            label=label,
        )

    def _tell_failure(self, first: Exception, second: Exception, label: str) -> None:
        tell(
            pattern="fail_open",
            strategy=self.strategy,
            status="failure",
            first=first,
            clock=self.clock,
            label=label,
            detail=sentence_of(second),
        )


@overload
def fail_closed(func: Callable[P, T], /) -> Callable[P, T]: ...


@overload
def fail_closed(
    *, name: str | None = None, catch: Catch = None, clock: Clock | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...


def fail_closed(
    func: Callable[P, T] | None = None,
    /,
    *,
    name: str | None = None,
    catch: Catch = None,
    clock: Clock | None = None,
) -> Callable[P, T] | Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a function, sync or async, fail when the service it needs does not answer, and tell the listeners.

    The Flask extension turns what is raised into a problem answer. Results pass as they are, whatever their
    status: a 402 of the billing service is an answer. Works bare (``@fail_closed``) or with arguments.

    Args:
        func: The function, when used bare.
        name: What was given up, in log lines and metrics; the function's own name by default.
        catch: Exactly the exceptions that count as failures: a type or a tuple of types. By default every
            ``requests.RequestException`` that is not the caller's own mistake. What is no RequestException
            is raised as a :class:`~service_utils.errors.ServiceError` that has it as its cause; the others
            as they are.
        clock: Where the events get their time from.

    Raises:
        TypeError: ``catch`` holds something that is no ``Exception`` type, or (when decorating) the
            function cannot be called or is a generator function.
        ValueError: ``name`` is empty.
    """
    if name is not None:
        check_name(name)
    pattern = _FailClosed(name, Failures(catch), checked_clock(clock))
    return pattern.decorate if func is None else pattern.decorate(func)


@dataclass(frozen=True, slots=True)
class _FailClosed:
    name: str | None
    failures: Failures
    clock: Clock

    def decorate(self, func: Callable[P, T]) -> Callable[P, T]:
        check_function("fail_closed", func)
        if is_async(func):
            return cast(Callable[P, T], self._wrap_async(func))

        @functools.wraps(func)
        def closed_on_failure(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return func(*args, **kwargs)
            except Exception as error:
                instead = self._give_up(error, name_of(func))
                if instead is None:
                    raise
                raise instead from error

        return closed_on_failure

    def _wrap_async(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        async def closed_on_failure(*args: Any, **kwargs: Any) -> Any:
            try:
                return await func(*args, **kwargs)
            except Exception as error:
                instead = self._give_up(error, name_of(func))
                if instead is None:
                    raise
                raise instead from error

        return closed_on_failure

    def _give_up(self, error: Exception, label: str) -> ServiceError | None:
        """Tell that it failed; returns what to raise instead of the error, None for the error itself."""
        if not self.failures.cover(error):
            return None
        given_up = self.name or label
        tell(
            pattern="fail_closed",
            strategy=given_up,
            status="failure",
            first=error,
            clock=self.clock,
            label=label,
        )
        return None if isinstance(error, RequestException) else _as_service_error(error, given_up)


def _as_service_error(error: Exception, given_up: str) -> ServiceError:
    # The words of the cause may not be for the outside; they are in the event, the log line and the
    # traceback.
    retry_after = getattr(error, "retry_after", None)
    known = isinstance(retry_after, int | float) and not isinstance(retry_after, bool)
    return ServiceError(
        f"{given_up} failed ({reason_of(error)})",
        service=given_up,
        retry_after=retry_after if known else None,
    )
