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
from service_utils.policies.permit import Permit, Probe, Report, Spell
from service_utils.policies.rates import Rates, window_for
from service_utils.policies.reasons import PROBE_FAILED, PROBED, RECOVERED, TRYING
from service_utils.policies.tally import Moment, Tally, Unlocked
from service_utils.policies.window import CountWindow

__all__ = ["Circuit", "Told"]

Told: TypeAlias = list[CircuitChanged]

# Names of their own, because before Python 3.12 a look into an enum costs as much as a call.
_CLOSED, _OPEN, _HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
_DISABLED, _FORCED_OPEN = CircuitState.DISABLED, CircuitState.FORCED_OPEN
_SUCCESS, _FAILURE, _IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED


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
        self.state = _CLOSED
        self.spell = Spell.begin(0)
        self.open_until = 0.0
        self._name = name
        self._label = label
        self._config = config
        self._random = random.random
        self._tally = Tally()
        self._rates = Rates(config)
        self._window = window_for(config)
        self._trial = CountWindow(config.half_open_quota) if config.half_open_quota else None
        self._failures = 0  # in a row
        self._successes = 0
        self._probes: set[Probe] = set()
        self._failed_probes = 0
        self._reason: str | None = None

    def start_disabled(self, reason: str) -> None:
        """Let everything pass from the beginning; nobody is told of a change, for there was none."""
        self.state, self._reason = _DISABLED, reason

    def renew(self) -> None:
        """Begin in a forked child: the state stays, calls and counts are the parent's own.

        What speaks for opening a closed circuit belongs to its state: failures in a row, and the window.
        """
        self.spell = Spell.begin(self.spell.generation, half_open=self.spell.half_open)
        self._probes.clear()
        self._forget_trial()
        self._tally.forget_counts()

    # -- decisions ----------------------------------------------------------------------------------

    def acquire(self, now: float, told: Told) -> Permit | None:
        """A permit, or None when there is none to be had; an open circuit whose time is over is tried."""
        self.expire(now, told)
        self._judge_trial(now, None, told)  # a signal may have kept the last result from being judged
        if self.state is _OPEN and now >= self.open_until:
            self._enter(_HALF_OPEN, TRYING, now, told)
        if self.blocked(now):
            return None
        if self.state is not _HALF_OPEN:
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
        if not spell.half_open:
            if permit.spell is not spell:
                return False
            permit.spell = spell.over  # no call since the line before: no other thread can have given it back
            return True
        return self._give_back_probe(permit, spell)

    def _give_back_probe(self, permit: Permit, spell: Spell) -> bool:
        if permit.spell is not spell:
            return False
        if isinstance(permit, Probe):
            self._probes.discard(permit)  # first, so that whoever is interrupted here can do it again
        permit.spell = spell.over
        return True

    @property
    def passes(self) -> bool:
        """Whether every call gets a permit, until a result says otherwise."""
        return self.state is _CLOSED or self.state is _DISABLED

    @property
    def calm(self) -> bool:
        """Whether a success has nothing to change then: there is no failure that it could make good."""
        if self._window is None:
            return self._failures == 0
        return self._window.settled and not self._rates.minds_time

    def blocked(self, now: float) -> bool:
        """Whether :meth:`acquire` would give no permit now."""
        if self.state is _OPEN:
            return now < self.open_until
        if self.state is _HALF_OPEN:
            return self._probes_taken(now)
        return self.state is _FORCED_OPEN

    def _probes_taken(self, now: float) -> bool:
        """Whether all probes are under way that may be, those left out whose time is over."""
        live, places = self._live_probes(now), self._config.half_open_max_calls
        if self._trial is None:
            return live == len(self._probes) and live >= places
        reported, _, _ = self._trial.counts(now)
        return live >= places or (live > 0 and reported + len(self._probes) >= self._trial.size)

    def _live_probes(self, now: float) -> int:
        return sum(1 for probe in tuple(self._probes) if now < probe.expires_at)

    # -- results ------------------------------------------------------------------------------------

    def expire(self, now: float, told: Told) -> None:
        """A probe that never reported failed at the moment its time was over, not when that is noticed."""
        if not self._probes:
            return
        due = [probe for probe in tuple(self._probes) if now >= probe.expires_at]
        for probe in sorted(due, key=lambda probe: probe.expires_at):
            if self.give_back(probe):  # unless one before it has ended the spell
                seconds = self._config.probe_seconds
                report = Report(_FAILURE, seconds, f"a probe did not report within {seconds:g} s")
                self._count(probe, report, probe.expires_at, told)

    def record(self, permit: Permit, report: Report, now: float, told: Told) -> None:
        """Take a permit back with its result, which counts if the permit is of this generation."""
        self.expire(now, told)
        if self.give_back(permit):
            self._count(permit, report, now, told)

    def _count(self, permit: Permit, report: Report, now: float, told: Told) -> None:
        self._note(report, now)
        if report.outcome is _IGNORED:
            return
        if permit.half_open:
            self._judge_probe(report, now, told)
        else:
            self._judge_call(report, now, told)

    def _note(self, report: Report, now: float) -> None:
        """Count a result for people, and the failures in a row."""
        if report.outcome is _IGNORED:
            self._tally.ignored()
        elif report.outcome is _SUCCESS:
            self._tally.succeeded(now)
            self._failures = 0
        else:
            self._tally.failed(now, report.error)
            self._failures += 1

    def _judge_call(self, report: Report, now: float, told: Told) -> None:
        """Open a closed circuit if this result was one too many. A disabled one only counts."""
        failed = report.outcome is _FAILURE
        reason = self._too_much(failed, report.duration, now)
        if reason is not None and self.state is _CLOSED:
            self._open(reason, now, report.retry_after if failed else None, told)

    def _too_much(self, failed: bool, duration: float, now: float) -> str | None:
        """Take a result into account, and say what speaks for opening the circuit."""
        if self._window is None:
            threshold = self._config.failure_threshold
            return f"threshold reached: {self._failures}/{threshold}" if self._failures >= threshold else None
        self._window.record(now, failed, self._rates.is_slow(duration))
        calls, failures, slow = self._window.counts(now)
        return self._rates.reached(calls, failures, slow) if calls >= self._rates.least_calls else None

    def _judge_probe(self, report: Report, now: float, told: Told) -> None:
        failed = report.outcome is _FAILURE
        if self._trial is not None:
            self._trial.record(now, failed, self._rates.is_slow(report.duration))
            self._judge_trial(now, report.retry_after if failed else None, told)
        elif failed:
            self._probe_failed(PROBE_FAILED, now, report.retry_after, told)
        else:
            self._successes += 1
            if self._successes >= self._config.success_threshold:
                self._close(RECOVERED, now, told)

    def _judge_trial(self, now: float, retry_after: float | None, told: Told) -> None:
        """Close or open a half-open circuit once all results of its quota are there."""
        if self._trial is None or not self._trial.full:
            return
        reason = self._rates.reached(*self._trial.counts(now))
        if reason is None:
            self._close(RECOVERED, now, told)
        else:
            self._probe_failed(f"{PROBE_FAILED}: {reason}", now, retry_after, told)

    def _probe_failed(self, reason: str, now: float, retry_after: float | None, told: Told) -> None:
        self._failed_probes += 1
        self._open(reason, now, retry_after, told)

    def override(self, state: CircuitState, reason: str, now: float, told: Told) -> None:
        """Go to a state by hand."""
        if state is _CLOSED:
            self._tally.closed_by_hand()
            self._close(reason, now, told)
        else:
            self._enter(state, reason, now, told)

    def hold(self, generation: int, until: float) -> bool:
        """Keep a circuit that is open in this spell so until then; an open time is never shortened."""
        if not self._is_open(generation):
            return False
        self.open_until = max(self.open_until, until)
        return True

    def recover(self, generation: int, now: float, told: Told) -> bool:
        """Close a circuit that is open in this spell, for its service is known to be well again."""
        if not self._is_open(generation):
            return False
        self._enter(_HALF_OPEN, PROBED, now, told)
        self._close(RECOVERED, now, told)
        return True

    def _is_open(self, generation: int) -> bool:
        return self.state is _OPEN and self.spell.generation == generation

    # -- from state to state ------------------------------------------------------------------------

    def _open(self, reason: str, now: float, retry_after: float | None, told: Told) -> None:
        chance = self._random()
        self.open_until = now + self._config.open_seconds(self._failed_probes, chance, retry_after)
        self._tally.opened(now)
        self._enter(_OPEN, reason, now, told)

    def _close(self, reason: str, now: float, told: Told) -> None:
        self._tally.recovered(now)
        self._failures = 0
        self._failed_probes = 0
        if self._window is not None:
            self._window.clear()
        self._enter(_CLOSED, reason, now, told)

    def _forget_trial(self) -> None:
        if self._trial is not None:
            self._trial.clear()

    def _enter(self, state: CircuitState, reason: str, now: float, told: Told) -> None:
        before, self.state = self.state, state
        half_open = state is _HALF_OPEN
        self.spell = Spell.begin(self.spell.generation + 1, half_open=half_open)
        self._successes = 0
        self._probes.clear()
        self._forget_trial()
        self._reason = None if state is _CLOSED else reason
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

    def failures(self, now: float) -> int:
        """How many failures speak for opening it: in a row, or in the window."""
        return self._failures if self._window is None else self._window.counts(now)[1]

    def cooldown(self, now: float) -> float:
        """Seconds until an open circuit lets a probe through; 0.0 in any other state."""
        return max(self.open_until - now, 0.0) if self.state is _OPEN else 0.0

    def stats(self, now: float, today: datetime, unlocked: Unlocked, agreed: Moment = None) -> dict[str, Any]:
        """A JSON-ready picture.

        Args:
            now: Seconds on the monotonic clock.
            today: The time of day at that moment.
            unlocked: What is to be added to the counts.
            agreed: A moment on both clocks to tell the time of day by; None for that one.
        """
        calls, failures, slow = (0, 0, 0) if self._window is None else self._window.counts(now)
        return {
            "name": self._name,
            "state": self.state.value,
            "failure_count": self._failures if self._window is None else failures,
            "failure_threshold": self._config.failure_threshold,
            "failure_rate": failures / calls if calls else None,
            "slow_call_rate": slow / calls if calls and self._rates.minds_time else None,
            "window_calls": calls,
            "half_open_in_use": self._live_probes(now),
            "recovery_timeout": self._config.recovery_timeout,
            "cooldown_remaining": self.cooldown(now),
            "reason": self._reason,
            **self._tally.shown(now, today, unlocked, agreed),
        }
