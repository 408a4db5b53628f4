"""The circuit: the state machine inside a circuit breaker, without locks, listeners or a clock of its own.

Every decision is a function of the state, the configuration and a time that is handed in. The changes that
listeners shall hear of are appended to the list ``told``. None of this may be used by two threads at once:
:class:`~service_utils.policies.breaker.CircuitBreaker` holds its lock round each method.
"""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any, TypeAlias

from service_utils.calls import Outcome
from service_utils.events import CircuitChanged, CircuitState
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.permit import Permit, Probe, Spell
from service_utils.policies.tally import Tally, Unlocked

__all__ = ["Circuit", "Told"]

Told: TypeAlias = list[CircuitChanged]

_MAX_DOUBLINGS = 60  # beyond it any sensible limit has long been reached; keeps the power of two finite
_RECOVERED = "service recovered"
_PROBE_FAILED = "recovery probe failed"
_TRYING = "recovery timeout over"


class Circuit:
    """State, generation, counts and times of one circuit.

    Args:
        name: Short name, for events.
        label: Display name, for events.
        config: The limits.

    Attributes:
        state: The state.
        spell: The present stay in it. A permit that belongs to another means nothing any more.
        open_until: When an open circuit may be tried.
    """

    def __init__(self, name: str, label: str, config: BreakerConfig) -> None:
        self.state = CircuitState.CLOSED
        self.spell = Spell.begin(0)
        self.open_until = 0.0
        self._name = name
        self._label = label
        self._config = config
        self._random = random.random
        self._tally = Tally()
        self._failures = 0
        self._successes = 0
        self._probes: set[Probe] = set()
        self._failed_probes = 0
        self._reason: str | None = None

    def start_disabled(self, reason: str) -> None:
        """Let everything pass from the beginning; nobody is told of a change, for there was none."""
        self.state, self._reason = CircuitState.DISABLED, reason

    def renew(self) -> None:
        """Begin in a forked child: the state stays, calls and counts are the parent's own."""
        self.spell = Spell.begin(self.spell.generation, half_open=self.spell.half_open)
        self._probes.clear()
        self._tally.forget_counts()

    # -- decisions ----------------------------------------------------------------------------------

    def acquire(self, now: float, told: Told) -> Permit | None:
        """A permit, or None when there is none to be had; an open circuit whose time is over is tried."""
        self.expire(now, told)
        if self.state is CircuitState.OPEN and now >= self.open_until:
            self._enter(CircuitState.HALF_OPEN, _TRYING, now, told)
        if self.blocked(now):
            return None
        if self.state is not CircuitState.HALF_OPEN:
            permit = Permit()
            permit.spell = self.spell
            return permit
        probe = Probe(self.spell, now + self._config.probe_seconds)
        try:
            self._probes.add(probe)
        except BaseException:  # a signal that came meanwhile: nobody will ever give this one back
            self._probes.discard(probe)
            raise
        return probe

    def give_back(self, permit: Permit) -> bool:
        """Take a permit back. Returns whether it was given in this spell and is still out."""
        spell = self.spell
        if permit.spell is not spell:
            return False
        permit.spell = spell.over  # no call since the line before: no other thread can have given it back
        if isinstance(permit, Probe):
            self._probes.discard(permit)
        return True

    @property
    def passes(self) -> bool:
        """Whether every call gets a permit, until a result says otherwise."""
        return self.state is CircuitState.CLOSED or self.state is CircuitState.DISABLED

    @property
    def calm(self) -> bool:
        """Whether, besides, a success has nothing to change: there is no failure that it could make good."""
        return self.passes and self._failures == 0

    def blocked(self, now: float) -> bool:
        """Whether :meth:`acquire` would give no permit now."""
        if self.state is CircuitState.OPEN:
            return now < self.open_until
        if self.state is CircuitState.HALF_OPEN:
            live = self._live_probes(now)
            return live == len(self._probes) and live >= self._config.half_open_max_calls
        return self.state is CircuitState.FORCED_OPEN

    def _live_probes(self, now: float) -> int:
        return sum(1 for probe in tuple(self._probes) if now < probe.expires_at)

    def expire(self, now: float, told: Told) -> None:
        """A probe that never reported failed at the moment its time was over, not when that is noticed."""
        due = [probe.expires_at for probe in tuple(self._probes) if now >= probe.expires_at]
        if due:
            self._failures += 1
            self._tally.failed(now, f"a probe did not report within {self._config.probe_seconds:g} s")
            self._probe_failed(min(due), None, told)

    def _count(
        self,
        permit: Permit,
        outcome: Outcome,
        now: float,
        error: BaseException | str | None,
        retry_after: float | None,
        told: Told,
    ) -> None:
        if outcome is Outcome.IGNORED:
            self._tally.ignored()
        elif outcome is Outcome.SUCCESS:
            self._tally.succeeded(now)
            self._succeeded(permit, now, told)
        else:
            self._tally.failed(now, error)
            self._failed(permit, now, retry_after, told)

    def _succeeded(self, permit: Permit, now: float, told: Told) -> None:
        self._failures = 0
        if permit.half_open:
            self._successes += 1
            if self._successes >= self._config.success_threshold:
                self._close(_RECOVERED, now, told)

    def _failed(self, permit: Permit, now: float, retry_after: float | None, told: Told) -> None:
        self._failures += 1
        threshold = self._config.failure_threshold
        if permit.half_open:
            self._probe_failed(now, retry_after, told)
        elif self.state is CircuitState.CLOSED and self._failures >= threshold:
            self._open(f"threshold reached: {self._failures}/{threshold}", now, retry_after, told)

    def _probe_failed(self, now: float, retry_after: float | None, told: Told) -> None:
        self._failed_probes += 1
        self._open(_PROBE_FAILED, now, retry_after, told)

    def record(
        self,
        permit: Permit,
        outcome: Outcome,
        now: float,
        error: BaseException | str | None,
        retry_after: float | None,
        told: Told,
    ) -> None:
        """Take a permit back with its result, which counts if the permit is of this generation."""
        self.expire(now, told)
        if self.give_back(permit):
            self._count(permit, outcome, now, error, retry_after, told)

    def override(self, state: CircuitState, reason: str, now: float, told: Told) -> None:
        """Go to a state by hand."""
        if state is CircuitState.CLOSED:
            self._tally.closed_by_hand()
            self._close(reason, now, told)
        else:
            self._enter(state, reason, now, told)

    # -- from state to state --------------------------------------------------------------------------

    def _open(self, reason: str, now: float, retry_after: float | None, told: Told) -> None:
        self.open_until = now + self._open_seconds(retry_after)
        self._tally.opened(now)
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

    def _close(self, reason: str, now: float, told: Told) -> None:
        self._tally.recovered(now)
        self._failures = 0
        self._failed_probes = 0
        self._enter(CircuitState.CLOSED, reason, now, told)

    def _enter(self, state: CircuitState, reason: str, now: float, told: Told) -> None:
        before, self.state = self.state, state
        half_open = state is CircuitState.HALF_OPEN
        self.spell = Spell.begin(self.spell.generation + 1, half_open=half_open)
        self._successes = 0
        self._probes.clear()
        self._reason = None if state is CircuitState.CLOSED else reason
        if before is state:
            return
        self._tally.changed(now)
        told.append(
            CircuitChanged(
                service=self._label,
                name=self._name,
                at=now,
                from_state=before,
                to_state=state,
                reason=reason,
                generation=self.spell.generation,
            )
        )

    # -- reading ------------------------------------------------------------------------------------

    def cooldown(self, now: float) -> float:
        """Seconds until an open circuit lets a probe through; 0.0 in any other state."""
        return max(self.open_until - now, 0.0) if self.state is CircuitState.OPEN else 0.0

    def stats(self, now: float, today: datetime, unlocked: Unlocked) -> dict[str, Any]:
        """A JSON-ready picture.

        Args:
            now: Seconds on the monotonic clock.
            today: The time of day at that moment.
            unlocked: What is to be added to the counts.
        """
        return {
            "name": self._name,
            "state": self.state.value,
            "failure_count": self._failures,
            "failure_threshold": self._config.failure_threshold,
            "failure_rate": None,
            "slow_call_rate": None,
            "window_calls": 0,
            "half_open_in_use": self._live_probes(now),
            "recovery_timeout": self._config.recovery_timeout,
            "cooldown_remaining": self.cooldown(now),
            "reason": self._reason,
            **self._tally.shown(now, today, unlocked),
        }
