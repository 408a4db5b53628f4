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

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from service_utils.calls import Outcome
from service_utils.clock import Clock
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitChanged, CircuitRejected, CircuitState, Event, Listener, notify
from service_utils.policies import guard
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.checks import checked_clock, checked_listeners, require_number
from service_utils.policies.guard import Classify

__all__ = ["BreakerConfig", "CircuitBreaker", "CircuitState", "Outcome", "Permit"]

P = ParamSpec("P")
R = TypeVar("R")

_MAX_DOUBLINGS = 60  # beyond it any sensible limit has long been reached; keeps the power of two finite
_RECOVERED = "service recovered"
_RESET = "reset by hand"
_PROBE_FAILED = "recovery probe failed"
_TRYING = "recovery timeout over"


class Permit:
    """The right to make one call, handed out by :meth:`CircuitBreaker.acquire`.

    Its owner gives it back exactly once, by ``record`` or ``release``; whatever is tried with it afterwards
    does nothing.

    Attributes:
        owner: The breaker that gave it, the only one to take it back.
        generation: The spell in which it was given.
        half_open: Whether the call is a probe.
    """

    __slots__ = ("expires_at", "generation", "half_open", "open", "owner")

    def __init__(
        self,
        owner: CircuitBreaker,
        generation: int,
        *,
        half_open: bool = False,
        expires_at: float | None = None,
    ) -> None:
        self.owner = owner
        self.generation = generation
        self.half_open = half_open
        self.expires_at = expires_at
        self.open = True

    def __repr__(self) -> str:
        kind = "probe" if self.half_open else "call"
        return f"<Permit {kind} generation={self.generation} {'open' if self.open else 'given back'}>"


@dataclass(slots=True)
class _Totals:
    succeeded: int = 0
    failed: int = 0
    ignored: int = 0
    rejected: int = 0


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
        self._random = random.random
        # Re-entrant because the garbage collector, and a signal handler, may run in the middle of a locked
        # section: a forgotten coroutine that is closed there gives its permit back to this very breaker.
        self._lock = threading.RLock()
        self._totals = _Totals()
        self._state = CircuitState.CLOSED
        self._generation = 0
        self._failures = 0
        self._successes = 0
        self._probes: set[Permit] = set()
        self._blocks: list[guard.Entry] = []  # ``with`` blocks of this breaker that are entered and not left
        self._open_until = 0.0
        self._failed_probes = 0
        self._reason: str | None = None
        self._opened_count = 0
        self._outage_began: float | None = None
        self._outages = 0
        self._outage_seconds = 0.0
        self._last_failure: datetime | None = None
        self._last_success: datetime | None = None
        self._last_change: datetime | None = None
        self._last_error: str | None = None
        if not guard.breakers_enabled():
            self._state = CircuitState.DISABLED
            self._reason = "CIRCUIT_BREAKER_ENABLED=false"

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
                permit = self._acquire_locked(now, told)
                state, remaining = self._state, self._cooldown_locked(now)
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
        with self._lock:
            blocked = self._blocked_locked(now)
            if blocked:
                self._totals.rejected += 1
                told: list[Event] = [self._rejection_locked(now)]
                state, remaining = self._state, self._cooldown_locked(now)
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
                self._expire_locked(now, told)
                if self._give_back_locked(permit) and permit.generation == self._generation:
                    self._count_locked(permit, outcome, now, error, retry_after, told)
        except BaseException:  # interrupted, or killed while it waited for the lock
            with self._lock:
                self._give_back_locked(permit)
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
        return self._state

    def retry_after(self) -> float | None:
        """Seconds after which a call may get through; None when that is now, or depends on an operator."""
        now = self.clock.monotonic()
        with self._lock:
            blocked = self._blocked_locked(now)
            return (
                self._cooldown_locked(now)
                if blocked and self._state is not CircuitState.FORCED_OPEN
                else None
            )

    def get_stats(self) -> dict[str, Any]:
        """A JSON-ready picture of the breaker; times are ISO 8601 in UTC or None, durations seconds."""
        now = self.clock.monotonic()
        with self._lock:
            return {
                "name": self.name,
                "state": self._state.value,
                "failure_count": self._failures,
                "failure_threshold": self.config.failure_threshold,
                "failure_rate": None,
                "slow_call_rate": None,
                "window_calls": 0,
                "total": {
                    "succeeded": self._totals.succeeded,
                    "failed": self._totals.failed,
                    "ignored": self._totals.ignored,
                    "rejected": self._totals.rejected,
                },
                "half_open_in_use": self._live_probes_locked(now),
                "opened_count": self._opened_count,
                "recovery_timeout": self.config.recovery_timeout,
                "cooldown_remaining": self._cooldown_locked(now),
                "reason": self._reason,
                "last_failure": _iso(self._last_failure),
                "last_success": _iso(self._last_success),
                "last_state_change": _iso(self._last_change),
                "last_error": self._last_error,
                "mttr_seconds": self._outage_seconds / self._outages if self._outages else None,
            }

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self._state.value}>"

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

    # -- decisions, with the lock held --------------------------------------------------------------

    def _acquire_locked(self, now: float, told: list[Event]) -> Permit | None:
        self._expire_locked(now, told)
        if self._state is CircuitState.OPEN and now >= self._open_until:
            self._enter_locked(CircuitState.HALF_OPEN, _TRYING, now, told)
        if self._blocked_locked(now):
            self._totals.rejected += 1
            told.append(self._rejection_locked(now))
            return None
        if self._state is not CircuitState.HALF_OPEN:
            return Permit(self, self._generation)
        permit = Permit(self, self._generation, half_open=True, expires_at=now + self.config.probe_seconds)
        try:
            self._probes.add(permit)
        except BaseException:  # a signal that came meanwhile: nobody will ever give this one back
            self._probes.discard(permit)
            raise
        return permit

    def _give_back_locked(self, permit: Permit) -> bool:
        """Take a permit back. Returns whether it was this breaker's and still out."""
        if not permit.open or permit.owner is not self:
            return False
        permit.open = False
        self._probes.discard(permit)
        return True

    def _blocked_locked(self, now: float) -> bool:
        if self._state is CircuitState.OPEN:
            return now < self._open_until
        if self._state is CircuitState.HALF_OPEN:
            live = self._live_probes_locked(now)
            return live == len(self._probes) and live >= self.config.half_open_max_calls
        return self._state is CircuitState.FORCED_OPEN

    def _live_probes_locked(self, now: float) -> int:
        return sum(1 for probe in tuple(self._probes) if not _expired(probe, now))

    def _expire_locked(self, now: float, told: list[Event]) -> None:
        """A probe that never reported failed at the moment its time was over, not when that is noticed."""
        due = [
            probe.expires_at
            for probe in tuple(self._probes)
            if probe.expires_at is not None and _expired(probe, now)
        ]
        if due:
            self._failures += 1
            self._totals.failed += 1
            self._note_failure_locked(f"a probe did not report within {self.config.probe_seconds:g} s")
            self._probe_failed_locked(min(due), None, told)

    def _count_locked(
        self,
        permit: Permit,
        outcome: Outcome,
        now: float,
        error: BaseException | str | None,
        retry_after: float | None,
        told: list[Event],
    ) -> None:
        if outcome is Outcome.IGNORED:
            self._totals.ignored += 1
        elif outcome is Outcome.SUCCESS:
            self._totals.succeeded += 1
            self._last_success = self.clock.now()
            self._succeeded_locked(permit, now, told)
        else:
            self._totals.failed += 1
            self._note_failure_locked(error)
            self._failed_locked(permit, now, retry_after, told)

    def _note_failure_locked(self, error: BaseException | str | None) -> None:
        self._last_failure = self.clock.now()
        if error is not None:
            self._last_error = error if isinstance(error, str) else type(error).__name__

    def _succeeded_locked(self, permit: Permit, now: float, told: list[Event]) -> None:
        self._failures = 0
        if permit.half_open:
            self._successes += 1
            if self._successes >= self.config.success_threshold:
                self._close_locked(_RECOVERED, now, told)

    def _failed_locked(
        self, permit: Permit, now: float, retry_after: float | None, told: list[Event]
    ) -> None:
        self._failures += 1
        threshold = self.config.failure_threshold
        if permit.half_open:
            self._probe_failed_locked(now, retry_after, told)
        elif self._state is CircuitState.CLOSED and self._failures >= threshold:
            self._open_locked(f"threshold reached: {self._failures}/{threshold}", now, retry_after, told)

    def _probe_failed_locked(self, now: float, retry_after: float | None, told: list[Event]) -> None:
        self._failed_probes += 1
        self._open_locked(_PROBE_FAILED, now, retry_after, told)

    # -- from state to state, with the lock held ----------------------------------------------------

    def _open_locked(self, reason: str, now: float, retry_after: float | None, told: list[Event]) -> None:
        self._open_until = now + self._open_seconds(retry_after)
        self._opened_count += 1
        if self._outage_began is None:
            self._outage_began = now
        self._enter_locked(CircuitState.OPEN, reason, now, told)

    def _open_seconds(self, retry_after: float | None) -> float:
        config = self.config
        seconds = config.recovery_timeout
        if config.max_recovery_timeout is not None:
            doubled = seconds * 2.0 ** min(self._failed_probes, _MAX_DOUBLINGS)
            seconds = min(doubled, config.max_recovery_timeout)
        seconds *= 1.0 - config.recovery_jitter * self._random()
        if retry_after is not None:
            seconds = max(seconds, min(retry_after, config.max_retry_after))
        return seconds

    def _close_locked(self, reason: str, now: float, told: list[Event]) -> None:
        if self._outage_began is not None:
            self._outages += 1
            self._outage_seconds += now - self._outage_began
        self._outage_began = None
        self._failures = 0
        self._failed_probes = 0
        self._enter_locked(CircuitState.CLOSED, reason, now, told)

    def _enter_locked(self, state: CircuitState, reason: str, now: float, told: list[Event]) -> None:
        before, self._state = self._state, state
        self._generation += 1
        self._successes = 0
        self._probes.clear()
        self._reason = None if state is CircuitState.CLOSED else reason
        if before is state:
            return
        self._last_change = self.clock.now()
        told.append(
            CircuitChanged(
                service=self.label,
                name=self.name,
                at=now,
                from_state=before,
                to_state=state,
                reason=reason,
                generation=self._generation,
            )
        )

    def _override(self, state: CircuitState, reason: str) -> None:
        now = self.clock.monotonic()
        told: list[Event] = []
        with self._lock:
            if state is CircuitState.CLOSED:
                self._outage_began = None  # ended by a person: says nothing about how long recovery takes
                self._close_locked(reason, now, told)
            else:
                self._enter_locked(state, reason, now, told)
        self._tell(told)

    # -- small helpers ------------------------------------------------------------------------------

    def _cooldown_locked(self, now: float) -> float:
        return max(self._open_until - now, 0.0) if self._state is CircuitState.OPEN else 0.0

    def _rejection_locked(self, now: float) -> CircuitRejected:
        return CircuitRejected(
            service=self.label,
            name=self.name,
            at=now,
            state=self._state,
            cooldown_remaining=self._cooldown_locked(now),
            generation=self._generation,
        )

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


def _expired(probe: Permit, now: float) -> bool:
    return probe.expires_at is not None and now >= probe.expires_at


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
