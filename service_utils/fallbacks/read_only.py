"""Reading only: while a database cannot be written, what only reads goes on."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from service_utils.errors import CircuitOpenError, ServiceUnavailable
from service_utils.forks import guard
from service_utils.policies.checks import require_seconds
from service_utils.policies.fallback import mark_degraded
from service_utils.policies.fallback.failures import check_function, check_name, is_async

__all__ = ["ReadOnlyError", "ReadOnlyMode"]

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("service_utils")

_OPEN = ("open", "forced_open")


class ReadOnlyError(ServiceUnavailable):
    """A write was refused because only reading is possible now. The Flask extension answers 503.

    Args:
        name: What cannot be written.
        reason: Why, in words.
        retry_after: Seconds after which another try may make sense, or None.

    Attributes:
        reason: See above.
    """

    def __init__(self, name: str = "", reason: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(f"{name}: read-only ({reason})", service=name, retry_after=retry_after)
        self.reason = reason


class _Breaker(Protocol):
    @property
    def state(self) -> Any: ...

    def check(self) -> None: ...


class ReadOnlyMode:
    """Lets reads pass and refuses writes, while it is on. For any number of threads; per process.

    It is on while somebody has entered it, while the circuit of ``breaker`` is open, or while ``when`` says
    so::

        orders = ReadOnlyMode("orders database", breaker=database_breaker,
                              when=lambda: monitor.level >= DegradationLevel.SEVERE)

        @orders.writes
        def place_order(order): ...

        @orders.writes(otherwise=MessageQueueing(queue, "order"))
        def note_order(order): ...

        orders.enter("failing over to the replica")

    In a ``FallbackChain`` it is a strategy's ``breaker``: ``Strategy("database", write, breaker=orders)`` is
    skipped while it is on.

    Args:
        name: What cannot be written then, for log lines and errors.
        breaker: A ``CircuitBreaker`` that the writes go through; writes are refused while it is open.
        when: Asked at each write: a true value, best a sentence, refuses it. It must be quick.
        retry_after: Seconds that refused callers are told to wait; None to tell nothing. An open circuit
            knows better.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: ``name`` is empty, or ``retry_after`` is negative.
    """

    def __init__(
        self,
        name: str,
        *,
        breaker: _Breaker | None = None,
        when: Callable[[], object] | None = None,
        retry_after: float | None = 30.0,
    ) -> None:
        check_name(name)
        if breaker is not None and not callable(getattr(breaker, "check", None)):
            raise TypeError(f"breaker={breaker!r}: must be a CircuitBreaker")
        if when is not None and not callable(when):
            raise TypeError(f"when={when!r}: must be a callable that takes nothing")
        if retry_after is not None:
            require_seconds("retry_after", retry_after)
        self.name = name
        self._breaker = breaker
        self._when = when
        self._retry_after = retry_after
        self._lock = threading.RLock()
        self._entered: dict[object, str] = {}  # by who entered it: a block, or None by hand
        self._refused = self._otherwise = 0
        guard(self)

    def _renew_in_child(self) -> None:
        self._refused = self._otherwise = 0

    @property
    def active(self) -> bool:
        """Whether writes are refused now. An open circuit counts until its first probe."""
        return self.reason is not None

    @property
    def reason(self) -> str | None:
        """Why writes are refused now, or None."""
        reason = self._said()
        if reason is None and self._breaker is not None and self._breaker.state.value in _OPEN:
            return "circuit open"
        return reason

    def enter(self, reason: str) -> None:
        """Refuse writes from now on, until :meth:`leave`. Another reason takes the place of the one before.

        Raises:
            ValueError: The reason is empty.
        """
        self._enter(None, reason)

    def leave(self) -> None:
        """Undo :meth:`enter`; nothing, if it was not entered by hand."""
        self._leave(None)

    @contextmanager
    def during(self, reason: str) -> Iterator[None]:
        """Refuse writes of all threads while the block runs. Blocks may overlap."""
        block = object()
        try:
            self._enter(block, reason)
            yield
        finally:
            self._leave(block)

    def check(self) -> None:
        """What a write does first.

        Raises:
            ReadOnlyError: It is refused.
        """
        reason, retry_after = self._said(), self._retry_after
        if reason is None and self._breaker is not None:
            try:
                self._breaker.check()
            except CircuitOpenError as error:
                reason, retry_after = "circuit open", error.retry_after
        if reason is not None:
            with self._lock:
                self._refused += 1
            raise ReadOnlyError(self.name, reason, retry_after=retry_after)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A block that writes: it is not begun while writes are refused.

        Raises:
            ReadOnlyError: It is refused.
        """
        self.check()
        yield

    def run(
        self, access: Literal["read", "write"], func: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a function that reads or writes.

        Raises:
            ReadOnlyError: It writes, and that is refused.
            ValueError: ``access`` is neither.
        """
        if access not in ("read", "write"):
            raise ValueError(f"access={access!r}: must be 'read' or 'write'")
        if access == "write":
            self.check()
        return func(*args, **kwargs)

    @overload
    def writes(self, func: Callable[P, T], /) -> Callable[P, T]: ...

    @overload
    def writes(
        self, func: None = None, /, *, otherwise: Callable[..., Any] | None = None
    ) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...

    def writes(
        self, func: Callable[..., Any] | None = None, /, *, otherwise: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Decorate a function that writes, sync or async.

        Args:
            func: The function.
            otherwise: Called with the same arguments while writes are refused, such as a
                ``MessageQueueing``; its answer is marked as degraded. Without it a ReadOnlyError is raised.

        Raises:
            TypeError: Something cannot be called, or is a generator function.
        """
        if otherwise is not None and not callable(otherwise):
            raise TypeError(f"otherwise={otherwise!r}: must be callable")
        if func is None:
            return functools.partial(self._decorate, otherwise)
        return self._decorate(otherwise, func)

    def get_status(self) -> dict[str, Any]:
        """A JSON-ready picture: whether and why it is on, and how many writes were refused or kept."""
        with self._lock:
            counts = {"refused": self._refused, "otherwise": self._otherwise}
        return {"name": self.name, "active": self.active, "reason": self.reason, **counts}

    def __repr__(self) -> str:
        return f"ReadOnlyMode({self.name!r}, active={self.active!r})"

    def _decorate(self, otherwise: Callable[..., Any] | None, func: Callable[..., Any]) -> Callable[..., Any]:
        check_function("ReadOnlyMode.writes", func)
        if is_async(func):

            @functools.wraps(func)
            async def written(*args: Any, **kwargs: Any) -> Any:
                if self._passes(otherwise):
                    return await func(*args, **kwargs)
                answer = self._instead(otherwise, args, kwargs)
                return await answer if inspect.isawaitable(answer) else answer

            return written

        @functools.wraps(func)
        def written_now(*args: Any, **kwargs: Any) -> Any:
            if self._passes(otherwise):
                return func(*args, **kwargs)
            return self._instead(otherwise, args, kwargs)

        return written_now

    def _passes(self, otherwise: Callable[..., Any] | None) -> bool:
        try:
            self.check()
        except ReadOnlyError:
            if otherwise is None:
                raise
            return False
        return True

    def _instead(self, otherwise: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = otherwise(*args, **kwargs)
        with self._lock:
            self._refused -= 1
            self._otherwise += 1
        mark_degraded(self.name)
        return answer

    def _said(self) -> str | None:
        """Why somebody wants no writes, other than an open circuit."""
        with self._lock:
            reason = next(iter(self._entered.values()), None)
        if reason is not None or self._when is None:
            return reason
        said = self._when()
        return (said if isinstance(said, str) else "degraded") if said else None

    def _enter(self, by: object, reason: str) -> None:
        check_name(reason, "reason")
        with self._lock:
            self._entered[by] = reason
        _logger.warning("[%s] Read-only (%s)", self.name, reason)

    def _leave(self, by: object) -> None:
        with self._lock:
            was = self._entered.pop(by, None)
            over = was is not None and not self._entered
        if over:
            _logger.info("[%s] Writes pass again", self.name)
