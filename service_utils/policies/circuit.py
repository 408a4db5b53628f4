"""The circuit: the state machine inside a circuit breaker, without locks, listeners or a clock of its own.

Every decision is a function of the state, the configuration and a time that is handed in. What listeners
shall hear is appended to the list ``told``. None of this may be used by two threads at once:
:class:`~service_utils.policies.breaker.CircuitBreaker` holds its lock round each method.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service_utils.calls import Outcome
from service_utils.events import CircuitChanged, CircuitRejected, CircuitState, Event
from service_utils.policies.breaker_config import BreakerConfig

__all__ = ["Circuit", "Permit"]

_MAX_DOUBLINGS = 60  # beyond it any sensible limit has long been reached; keeps the power of two finite
_RECOVERED = "service recovered"
_PROBE_FAILED = "recovery probe failed"
_TRYING = "recovery timeout over"


class Permit:
    """The right to make one call, handed out by ``CircuitBreaker.acquire``.

    Its owner gives it back exactly once, by ``record`` or ``release``; whatever is tried with it afterwards
    does nothing.

    Attributes:
        owner: The circuit that gave it, the only one to take it back.
        generation: The spell in which it was given.
        half_open: Whether the call is a probe.
    """

    __slots__ = ("expires_at", "generation", "half_open", "open", "owner")

    def __init__(
        self,
        owner: Circuit,
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


class Circuit:
    """State, generation, counts and times of one circuit.

    Args:
        name: Short name, for events.
        label: Display name, for events.
        config: The limits.
        wall_clock: The time of day, for people.

    Attributes:
        state: The state.
        generation: The number of the present spell.
    """

    def __init__(
        self, name: str, label: str, config: BreakerConfig, wall_clock: Callable[[], datetime]
    ) -> None:
        self.state = CircuitState.CLOSED
        self.generation = 0
        self._name = name
        self._label = label
        self._config = config
        self._wall_clock = wall_clock
        self._random = random.random
        self._totals = _Totals()
        self._failures = 0
        self._successes = 0
        self._probes: set[Permit] = set()
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

    def start_disabled(self, reason: str) -> None:
        """Let everything pass from the beginning; nobody is told of a change, for there was none."""
        self.state, self._reason = CircuitState.DISABLED, reason

    # -- decisions ----------------------------------------------------------------------------------

    def acquire(self, now: float, told: list[Event]) -> Permit | None:
        """A permit, or None when there is none to be had; an open circuit whose time is over is tried."""
        self.expire(now, told)
        if self.state is CircuitState.OPEN and now >= self._open_until:
            self._enter(CircuitState.HALF_OPEN, _TRYING, now, told)
        if self.blocked(now):
            self.reject(now, told)
            return None
        if self.state is not CircuitState.HALF_OPEN:
            return Permit(self, self.generation)
        permit = Permit(self, self.generation, half_open=True, expires_at=now + self._config.probe_seconds)
        try:
            self._probes.add(permit)
        except BaseException:  # a signal that came meanwhile: nobody will ever give this one back
            self._probes.discard(permit)
            raise
        return permit

    def give_back(self, permit: Permit) -> bool:
        """Take a permit back. Returns whether it was this circuit's and still out."""
        if not permit.open or permit.owner is not self:
            return False
        permit.open = False
        self._probes.discard(permit)
        return True

    def blocked(self, now: float) -> bool:
        """Whether :meth:`acquire` would give no permit now."""
        if self.state is CircuitState.OPEN:
            return now < self._open_until
        if self.state is CircuitState.HALF_OPEN:
            live = self._live_probes(now)
            return live == len(self._probes) and live >= self._config.half_open_max_calls
        return self.state is CircuitState.FORCED_OPEN

    def _live_probes(self, now: float) -> int:
        return sum(1 for probe in tuple(self._probes) if not _expired(probe, now))

    def expire(self, now: float, told: list[Event]) -> None:
        """A probe that never reported failed at the moment its time was over, not when that is noticed."""
        due = [
            probe.expires_at
            for probe in tuple(self._probes)
            if probe.expires_at is not None and _expired(probe, now)
        ]
        if due:
            self._failures += 1
            self._totals.failed += 1
            self._note_failure(f"a probe did not report within {self._config.probe_seconds:g} s")
            self._probe_failed(min(due), None, told)

    def _count(
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
            self._last_success = self._wall_clock()
            self._succeeded(permit, now, told)
        else:
            self._totals.failed += 1
            self._note_failure(error)
            self._failed(permit, now, retry_after, told)

    def _note_failure(self, error: BaseException | str | None) -> None:
        self._last_failure = self._wall_clock()
        if error is not None:
            self._last_error = error if isinstance(error, str) else type(error).__name__

    def _succeeded(self, permit: Permit, now: float, told: list[Event]) -> None:
        self._failures = 0
        if permit.half_open:
            self._successes += 1
            if self._successes >= self._config.success_threshold:
                self._close(_RECOVERED, now, told)

    def _failed(self, permit: Permit, now: float, retry_after: float | None, told: list[Event]) -> None:
        self._failures += 1
        threshold = self._config.failure_threshold
        if permit.half_open:
            self._probe_failed(now, retry_after, told)
        elif self.state is CircuitState.CLOSED and self._failures >= threshold:
            self._open(f"threshold reached: {self._failures}/{threshold}", now, retry_after, told)

    def _probe_failed(self, now: float, retry_after: float | None, told: list[Event]) -> None:
        self._failed_probes += 1
        self._open(_PROBE_FAILED, now, retry_after, told)

    def record(
        self,
        permit: Permit,
        outcome: Outcome,
        now: float,
        error: BaseException | str | None,
        retry_after: float | None,
        told: list[Event],
    ) -> None:
        """Take a permit back with its result, which counts if the permit is of this generation."""
        self.expire(now, told)
        if self.give_back(permit) and permit.generation == self.generation:
            self._count(permit, outcome, now, error, retry_after, told)

    def override(self, state: CircuitState, reason: str, now: float, told: list[Event]) -> None:
        """Go to a state by hand."""
        if state is CircuitState.CLOSED:
            self._outage_began = None  # ended by a person: says nothing about how long recovery takes
            self._close(reason, now, told)
        else:
            self._enter(state, reason, now, told)

    # -- from state to state --------------------------------------------------------------------------

    def _open(self, reason: str, now: float, retry_after: float | None, told: list[Event]) -> None:
        self._open_until = now + self._open_seconds(retry_after)
        self._opened_count += 1
        if self._outage_began is None:
            self._outage_began = now
        self._enter(CircuitState.OPEN, reason, now, told)

    def _open_seconds(self, retry_after: float | None) -> float:
        config = self._config
        seconds = config.recovery_timeout
        if config.max_recovery_timeout is not None:
            doubled = seconds * 2.0 ** min(self._failed_probes, _MAX_DOUBLINGS)
            seconds = min(doubled, config.max_recovery_timeout)
        seconds *= 1.0 - config.recovery_jitter * self._random()
        if retry_after is not None:
            seconds = max(seconds, min(retry_after, config.max_retry_after))
        return seconds

    def _close(self, reason: str, now: float, told: list[Event]) -> None:
        if self._outage_began is not None:
            self._outages += 1
            self._outage_seconds += now - self._outage_began
        self._outage_began = None
        self._failures = 0
        self._failed_probes = 0
        self._enter(CircuitState.CLOSED, reason, now, told)

    def _enter(self, state: CircuitState, reason: str, now: float, told: list[Event]) -> None:
        before, self.state = self.state, state
        self.generation += 1
        self._successes = 0
        self._probes.clear()
        self._reason = None if state is CircuitState.CLOSED else reason
        if before is state:
            return
        self._last_change = self._wall_clock()
        told.append(
            CircuitChanged(
                service=self._label,
                name=self._name,
                at=now,
                from_state=before,
                to_state=state,
                reason=reason,
                generation=self.generation,
            )
        )

    # -- reading ------------------------------------------------------------------------------------

    def cooldown(self, now: float) -> float:
        """Seconds until an open circuit lets a probe through; 0.0 in any other state."""
        return max(self._open_until - now, 0.0) if self.state is CircuitState.OPEN else 0.0

    def reject(self, now: float, told: list[Event]) -> None:
        """Count and tell that somebody was refused."""
        self._totals.rejected += 1
        told.append(self._rejection(now))

    def _rejection(self, now: float) -> CircuitRejected:
        return CircuitRejected(
            service=self._label,
            name=self._name,
            at=now,
            state=self.state,
            cooldown_remaining=self.cooldown(now),
            generation=self.generation,
        )

    def stats(self, now: float) -> dict[str, Any]:
        """A JSON-ready picture."""
        return {
            "name": self._name,
            "state": self.state.value,
            "failure_count": self._failures,
            "failure_threshold": self._config.failure_threshold,
            "failure_rate": None,
            "slow_call_rate": None,
            "window_calls": 0,
            "total": {
                "succeeded": self._totals.succeeded,
                "failed": self._totals.failed,
                "ignored": self._totals.ignored,
                "rejected": self._totals.rejected,
            },
            "half_open_in_use": self._live_probes(now),
            "opened_count": self._opened_count,
            "recovery_timeout": self._config.recovery_timeout,
            "cooldown_remaining": self.cooldown(now),
            "reason": self._reason,
            "last_failure": _iso(self._last_failure),
            "last_success": _iso(self._last_success),
            "last_state_change": _iso(self._last_change),
            "last_error": self._last_error,
            "mttr_seconds": self._outage_seconds / self._outages if self._outages else None,
        }


def _expired(probe: Permit, now: float) -> bool:
    return probe.expires_at is not None and now >= probe.expires_at


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
