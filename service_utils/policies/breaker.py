"""The circuit breaker: who may call a service, decided from how the last calls went.

States and ways between them::

               failure_threshold reached              recovery_timeout over, next acquire()
    CLOSED ─────────────────────────────► OPEN ─────────────────────────────► HALF_OPEN
       ▲                                    ▲                                   │    │
       │                                    └───── one probe failed or expired ─┘    │
       └────────────────────── success_threshold probes succeeded ───────────────────┘

    any ── force_open() ──► FORCED_OPEN        any ── disable() ──► DISABLED        any ── reset() ──► CLOSED

Each spell in one state is a *generation*. A permit carries the generation it was given in, and a result
counts only in that generation: a call that set out long ago can neither close nor re-open a circuit that has
moved on.

Thread safety: every method may be called from any thread. The one lock is held for a few assignments and
never while a listener, user code or I/O runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from service_utils.calls import Outcome
from service_utils.clock import Clock
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitState, Event, Listener, notify
from service_utils.policies import guard
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.checks import checked_clock, checked_listeners, require_number
from service_utils.policies.circuit import Circuit, Permit
from service_utils.policies.guard import Classify

__all__ = ["BreakerConfig", "CircuitBreaker", "CircuitState", "Outcome", "Permit"]

P = ParamSpec("P")
R = TypeVar("R")

_RESET = "reset by hand"


class CircuitBreaker:
    """Decides whether calls go through, from the results it is told.

    Args:
        name: Short name, fit for metric labels.
        config: The limits; or give the fields of :class:`BreakerConfig` as keyword arguments.
        store: Where the state is shared with other processes; None keeps it in this one.
        clock: Where the time comes from.
        listeners: Called with every event of this breaker, besides the listeners of the process.
        label: What log lines and errors call it; default: the name.
        ignore: Exception types that ``call``, ``with`` and the decorator count as nothing at all.
        classify: ``classify(exception) -> Outcome``, or None where the usual rule shall hold.
        **fields: Fields of :class:`BreakerConfig`, in place of ``config``.

    Raises:
        ValueError: A field is out of its range, or both ``config`` and fields are given.
        TypeError: An argument is of a wrong type or unknown.
    """

    def __init__(
        self,
        name: str,
        config: BreakerConfig | None = None,
        *,
        store: object | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
        label: str | None = None,
        ignore: type[BaseException] | tuple[type[BaseException], ...] = (),
        classify: Classify | None = None,
        **fields: Any,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"name={name!r}: must be a non-empty string")
        if store is not None:
            raise ValueError(f"store={store!r}: this version keeps a circuit's state in its own process only")
        self.name = name
        self.label = label or name
        self.config = _config(config, fields)
        self.listeners = checked_listeners(listeners)
        self.clock = checked_clock(clock)
        self._rules = guard.Rules.of(ignore, classify)
        # Re-entrant because the garbage collector, and a signal handler, may run in the middle of a locked
        # section: a forgotten coroutine that is closed there gives its permit back to this very breaker.
        self._lock = threading.RLock()
        self._circuit = Circuit(self.name, self.label, self.config, self.clock.now)
        if not guard.breakers_enabled():
            self._circuit.start_disabled("CIRCUIT_BREAKER_ENABLED=false")
        self._blocks: list[guard.Entry] = []  # ``with`` blocks of this breaker that are entered and not left

    # -- asking and telling -------------------------------------------------------------------------

    def acquire(self) -> Permit:
        """Ask for the right to make one call.

        Returns:
            A permit, to be given back by :meth:`record` or :meth:`release`.

        Raises:
            CircuitOpenError: The circuit is open, forced open, or half open with all its probes under way.
        """
        now = self.clock.monotonic()
        told: list[Event] = []
        permit: Permit | None = None
        try:
            with self._lock:
                permit = self._circuit.acquire(now, told)
                state, remaining = self._circuit.state, self._circuit.cooldown(now)
            self._tell(told)
        except BaseException:  # interrupted, or killed in a listener: the caller never sees the permit
            if permit is not None:
                self.release(permit)
            raise
        if permit is None:
            raise self._refusal(state, remaining)
        return permit

    def check(self) -> None:
        """Raise the :class:`CircuitOpenError` that :meth:`acquire` would raise now, but take no permit.

        An open circuit whose time is over passes: only ``acquire`` moves it on.
        """
        now = self.clock.monotonic()
        told: list[Event] = []
        with self._lock:
            blocked = self._circuit.blocked(now)
            if blocked:
                self._circuit.reject(now, told)
            state, remaining = self._circuit.state, self._circuit.cooldown(now)
        if blocked:
            self._tell(told)
            raise self._refusal(state, remaining)

    def record(
        self,
        permit: Permit,
        outcome: Outcome,
        duration: float = 0.0,
        *,
        error: BaseException | str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Give a permit back and tell how the call went.

        A result of an earlier generation, of an expired probe, of a permit already given back or of another
        breaker's permit changes nothing.

        Args:
            permit: From :meth:`acquire`.
            outcome: What the call came to.
            duration: Seconds of the longest attempt, waiting between attempts left out.
            error: What went wrong, for the status; an exception or a sentence.
            retry_after: Seconds the service asked to be left alone, when it did.

        Raises:
            TypeError: ``permit`` is no :class:`Permit`, ``outcome`` no :class:`Outcome`, ``retry_after`` no
                number.
        """
        if not isinstance(permit, Permit):
            raise TypeError(f"permit={permit!r}: must be a Permit")
        if type(outcome) is not Outcome:
            raise TypeError(f"outcome={outcome!r}: must be an Outcome")
        if retry_after is not None:
            require_number("retry_after", retry_after)
        told: list[Event] = []
        try:
            now = self.clock.monotonic()
            with self._lock:
                self._circuit.record(permit, outcome, now, error, retry_after, told)
        except BaseException:  # interrupted, or killed while it waited for the lock
            with self._lock:
                self._circuit.give_back(permit)
            raise
        self._tell(told)

    def release(self, permit: Permit) -> None:
        """Give a permit back without a result: the same as recording ``Outcome.IGNORED``."""
        self.record(permit, Outcome.IGNORED)

    # -- by hand ------------------------------------------------------------------------------------

    def force_open(self, reason: str) -> None:
        """Refuse every call until :meth:`reset`."""
        self._override(CircuitState.FORCED_OPEN, f"forced: {_checked_reason(reason)}")

    def disable(self, reason: str) -> None:
        """Let every call pass until :meth:`reset`; results are still counted."""
        self._override(CircuitState.DISABLED, _checked_reason(reason))

    def reset(self) -> None:
        """Close the circuit and forget its failures, whatever its state. Calls under way count no more."""
        self._override(CircuitState.CLOSED, _RESET)

    # -- reading ------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """The state. Reading never changes it: an open circuit reads open until a permit is asked for."""
        return self._circuit.state

    def retry_after(self) -> float | None:
        """Seconds after which a call may get through; None when that is now, or depends on an operator."""
        now = self.clock.monotonic()
        with self._lock:
            circuit = self._circuit
            waits = circuit.blocked(now) and circuit.state is not CircuitState.FORCED_OPEN
            return circuit.cooldown(now) if waits else None

    def get_stats(self) -> dict[str, Any]:
        """A JSON-ready picture of the breaker; times are ISO 8601 in UTC or None, durations seconds."""
        now = self.clock.monotonic()
        with self._lock:
            return self._circuit.stats(now)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self.state.value}>"

    # -- round a piece of code ----------------------------------------------------------------------

    def call(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function through the breaker; a coroutine function gives a coroutine that does the same.

        An ``Exception`` is a failure unless ``ignore`` or ``classify`` say otherwise; our own refusals
        (ServiceUnavailable, TokenError) and everything that is no ``Exception`` are ignored.

        Raises:
            CircuitOpenError: See :meth:`acquire`.
        """
        result: R = guard.wrap(self, func, self._rules)(*args, **kwargs)
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
        rules = guard.Rules.of(ignore, classify) if ignore or classify else self._rules
        if func is None:
            return lambda decorated: guard.wrap(self, decorated, rules)
        return guard.wrap(self, func, rules)

    def __enter__(self) -> Self:
        guard.enter(self, self.clock.monotonic())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        guard.leave(self, error, self._rules)

    # -- small helpers ------------------------------------------------------------------------------

    def _override(self, state: CircuitState, reason: str) -> None:
        now = self.clock.monotonic()
        told: list[Event] = []
        with self._lock:
            self._circuit.override(state, reason, now, told)
        self._tell(told)

    def _refusal(self, state: CircuitState, remaining: float) -> CircuitOpenError:
        if state is CircuitState.OPEN:
            return CircuitOpenError(self.label, remaining)
        if state is CircuitState.HALF_OPEN:
            message = f"{self.label}: circuit breaker is half open and its probe is under way"
            return CircuitOpenError(self.label, 0.0, message=message)
        error = CircuitOpenError(
            self.label, 0.0, message=f"{self.label}: circuit breaker is held open by an operator"
        )
        error.retry_after = None
        return error

    def _tell(self, told: list[Event]) -> None:
        for event in told:
            notify(self.listeners, event)


def _config(config: BreakerConfig | None, fields: dict[str, Any]) -> BreakerConfig:
    if config is None:
        return BreakerConfig(**fields)
    if not isinstance(config, BreakerConfig):
        raise TypeError(f"config={config!r}: must be a BreakerConfig")
    if fields:
        raise ValueError(f"config is given, so {', '.join(sorted(fields))} cannot be given beside it")
    return config


def _checked_reason(reason: str) -> str:
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"reason={reason!r}: must say why, for those who find the circuit so")
    return " ".join(reason.split())
