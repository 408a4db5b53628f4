"""``best_effort``: work that may fail without harm to the rest, noted and if wanted kept for later."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from service_utils.calls import CallRecord, Replay
from service_utils.clock import Clock
from service_utils.policies.checks import checked_clock
from service_utils.policies.fallback.failures import (
    Catch,
    Failures,
    check_function,
    check_name,
    is_async,
    raise_if_failed,
    reason_of,
    record_of,
    sentence_of,
    tell,
)

__all__ = ["BestEffort", "DeadLetterSink", "Effort", "best_effort"]

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("service_utils")


class DeadLetterSink(Protocol):
    """Where calls that could not be delivered are kept. May be called from any thread."""

    def add(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        error: BaseException | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Keep a call durably.

        Args:
            service: The client's short name.
            method: The HTTP method.
            path: Path and query string, relative to the client's base URL.
            body: The body as it was sent.
            headers: The headers as they were sent, without credentials.
            error: What the call failed with.
            idempotency_key: The key its attempts carried.

        Returns:
            The letter's id.

        Raises:
            Exception: It could not be kept.
        """
        ...


@dataclass(slots=True)
class Effort:
    """What became of one best effort; complete when its block or call is over.

    Attributes:
        ok: Whether it succeeded.
        error: What it failed with, or None.
        letter_id: The id under which the failed call is kept for later, or None.
    """

    ok: bool = False
    error: BaseException | None = None
    letter_id: str | None = None


def best_effort(
    name: str,
    *,
    catch: Catch = None,
    dead_letters: DeadLetterSink | None = None,
    service: str | None = None,
    clock: Clock | None = None,
) -> BestEffort:
    """Try something whose failure shall stop nothing: it is logged, counted and swallowed.

    ::

        with best_effort("git snapshot") as effort:
            git.post(f"/snapshot/{project}", json={"message": "auto-save"})
        effort.ok, effort.error, effort.letter_id

    It also goes round an ``await``, and decorates functions, sync or async, which then return None when
    they fail; a response with a status of 400 or above counts as a failure there.

    Args:
        name: What is tried, in log lines and metrics.
        catch: Exactly the exceptions to swallow: a type or a tuple of types. By default every
            ``requests.RequestException`` that is not the caller's own mistake. All others pass.
        dead_letters: Keeps the client call inside that failed, if it was a write that can be sent again. If
            it cannot keep it, *its* exception is raised, so that nothing is lost in silence.
        service: Display name for log lines; that of the error by default, else ``name``.
        clock: Where the events get their time from.

    Raises:
        TypeError: ``catch`` holds something that is no ``Exception`` type, or ``dead_letters`` has no
            ``add``.
        ValueError: ``name`` or ``service`` is empty.
    """
    check_name(name)
    if service is not None:
        check_name(service, "service")
    if dead_letters is not None and not callable(getattr(dead_letters, "add", None)):
        raise TypeError(f"dead_letters={dead_letters!r}: must have a method add(service, method, path, ...)")
    return BestEffort(name, Failures(catch), dead_letters, service, checked_clock(clock))


# The ``with`` statement hands nothing from __enter__ to __exit__, so the efforts of this thread or task lie
# here, the innermost last. One variable for all: a context variable of each object's own would never be
# freed.
_entered: ContextVar[tuple[tuple[BestEffort, Effort], ...]] = ContextVar("service_utils_efforts", default=())


class BestEffort:
    """What :func:`best_effort` makes. One object serves any number of threads and tasks at once."""

    __slots__ = ("_clock", "_dead_letters", "_failures", "_service", "name")

    def __init__(
        self,
        name: str,
        failures: Failures,
        dead_letters: DeadLetterSink | None,
        service: str | None,
        clock: Clock,
    ) -> None:
        self.name = name
        self._failures = failures
        self._dead_letters = dead_letters
        self._service = service
        self._clock = clock

    def __enter__(self) -> Effort:
        effort = Effort()
        _entered.set((*_entered.get(), (self, effort)))
        return effort

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        effort = self._leave()
        if error is None:
            effort.ok = True
            return False
        effort.error = error
        if not (isinstance(error, Exception) and self._failures.cover(error)):
            return False
        self._give_up(effort, error)
        return True

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, T]]
    ) -> Callable[P, Coroutine[Any, Any, T | None]]: ...

    @overload
    def __call__(self, func: Callable[P, T]) -> Callable[P, T | None]: ...

    def __call__(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function: it returns None where it would have failed.

        Raises:
            TypeError: It cannot be called, or is a generator function.
        """
        check_function("best_effort", func)
        if is_async(func):
            return self._wrap_async(func)

        @functools.wraps(func)
        def tried(*args: Any, **kwargs: Any) -> Any:
            answered = False
            try:
                result = func(*args, **kwargs)
                answered = True
                raise_if_failed(result)
            except Exception as error:
                if not (answered or self._failures.cover(error)):
                    raise
                self._give_up(Effort(error=error), error)
                return None
            return result

        return tried

    def _wrap_async(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        async def tried(*args: Any, **kwargs: Any) -> Any:
            answered = False
            try:
                result = await func(*args, **kwargs)
                answered = True
                raise_if_failed(result)
            except Exception as error:
                if not (answered or self._failures.cover(error)):
                    raise
                self._give_up(Effort(error=error), error)
                return None
            return result

        return tried

    def __repr__(self) -> str:
        return f"best_effort({self.name!r})"

    def _leave(self) -> Effort:
        """The innermost effort of this object; a fresh one for a block entered in another context."""
        entries = _entered.get()
        for index in range(len(entries) - 1, -1, -1):
            owner, effort = entries[index]
            if owner is self:
                _entered.set(entries[:index] + entries[index + 1 :])
                return effort
        return Effort()

    def _give_up(self, effort: Effort, error: Exception) -> None:
        if self._dead_letters is not None:
            record = record_of(error)
            replay = record.replay if record is not None else None
            if record is not None and replay is not None:
                effort.letter_id = self._keep(self._dead_letters, record, replay, error)
        self._tell("skipped", error)

    def _keep(self, sink: DeadLetterSink, record: CallRecord, replay: Replay, error: Exception) -> str:
        try:
            return sink.add(
                record.name,
                replay.method,
                replay.path,
                body=replay.body,
                headers=replay.headers,
                error=error,
                idempotency_key=replay.idempotency_key,
            )
        except Exception:
            # The caller gets the sink's error now; this line is the last of the call itself.
            text = "[%s] %s failed (%s) and could not be kept for later: %s"
            service = self._service or record.service
            _logger.error(text, service, self.name, reason_of(error), sentence_of(error))
            self._tell("failure", error)
            raise

    def _tell(self, status: str, error: Exception) -> None:
        tell(
            pattern="best_effort",
            strategy=self.name,
            status=status,
            first=error,
            clock=self._clock,
            label=self.name,
            service=self._service,
        )
