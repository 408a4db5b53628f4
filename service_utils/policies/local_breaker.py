"""The circuit breaker: who may call a service, decided from how the last calls went.

States and ways between them::

               failure_threshold reached              recovery_timeout over, next acquire()
    CLOSED ─────────────────────────────► OPEN ─────────────────────────────► HALF_OPEN
       ▲                                    ▲                                   │    │
       │                                    └───── one probe failed or expired ─┘    │
       └────────────────────── success_threshold probes succeeded ───────────────────┘

    any ── force_open() ──► FORCED_OPEN        any ── disable() ──► DISABLED        any ── reset() ──► CLOSED

With a window the share of failures or slow calls in it opens a closed circuit, with a quota their share among
so many probes opens or closes a half-open one.

Each spell in one state is a *generation*. A permit carries the generation it was given in, and a result
counts only in that generation: a call that set out long ago can neither close nor re-open a circuit that has
moved on.

Thread safety: every method may be called from any thread. The one lock is held for a few assignments and
never while a listener, user code or I/O runs.

Without the lock go the calls through a closed circuit that go well, and those that an open one refuses: there
is nothing to decide. What they need to know is laid out for them whenever the circuit changes. What they
change relies on this: CPython (3.11 to 3.13) lets another thread or a signal handler go first only at a call
or at a jump backwards. Tests and assignments of plain attributes with no call between them are done at one
stroke, and so is ``self.n += 1``. A build without the global lock keeps its circuits right all the same; only
the totals of such successes and refusals are rough there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from service_utils import forks
from service_utils.calls import Outcome
from service_utils.clock import Clock
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitState, Listener, count_hushed, notify, notify_rejection
from service_utils.policies.breaker_config import BreakerConfig, breakers_enabled
from service_utils.policies.checks import checked_clock, checked_listeners, require_number
from service_utils.policies.circuit import Circuit, Told
from service_utils.policies.guard import Classify, Guard, Rules
from service_utils.policies.permit import OWN_REFERENCES, Permit, Report, Spell, references_to
from service_utils.policies.reasons import RESET
from service_utils.policies.refusal import Refusal, Shut, error_for
from service_utils.policies.tally import Unlocked

__all__ = ["LocalBreaker", "check_result"]

_SUCCESS = Outcome.SUCCESS  # before Python 3.12 a look into an enum costs as much as all of acquire()
_NEVER = Spell(-1)  # no permit belongs to it
_RUSH = 10e-6  # seconds; nothing that goes over a network is so quick
_STRIDE = 16


class LocalBreaker(Guard):
    """A breaker whose circuit belongs to it alone; ``CircuitBreaker`` says how it decides.

    What it does without its lock stays as it is where others share the circuit: only :meth:`_ask` and the
    other ways that go round the lock-free ones differ there.
    """

    def __init__(
        self,
        name: str,
        config: BreakerConfig | None = None,
        *,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
        label: str | None = None,
        ignore: type[BaseException] | tuple[type[BaseException], ...] = (),
        classify: Classify | None = None,
        **fields: Any,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"name={name!r}: must be a non-empty string")
        self.name = name
        self.label = label or name
        self.config = _config(config, fields)
        super().__init__(checked_clock(clock), Rules.of(ignore, classify))
        self.listeners = checked_listeners(listeners)
        # Re-entrant because the garbage collector, and a signal handler, may run in the middle of a locked
        # section: a forgotten coroutine that is closed there gives its permit back to this very breaker.
        self._lock = threading.RLock()
        self._circuit = self._new_circuit()
        if not breakers_enabled():
            self._circuit.start_disabled("CIRCUIT_BREAKER_ENABLED=false")
        self._who = (self.label, self.name)
        self._monotonic = self.clock.monotonic
        self._last_success: float | None = None
        self._begin_process()
        forks.guard(self)

    def _new_circuit(self) -> Circuit:
        return Circuit(self.name, self.label, self.config)

    def _begin_process(self) -> None:
        self._spare, self._other = Permit(), Permit()  # to be given out, and again
        self._succeeded = 0
        self._rejected = 0
        self._counted_then = 0  # successes when the last one was timed
        self._look_at = 0  # the number of successes at which to look at the clock again
        self._shut: Shut | None = None
        self._lay_out_locked()

    def _renew_in_child(self) -> None:
        """Calls under way and counts are the parent's own; the circuit's state and timers are kept."""
        self._forget_blocks()
        self._circuit.renew()
        self._begin_process()

    def _lay_out_locked(self) -> None:
        """Lay out what those without the lock need to know. To be done after all that changes the circuit."""
        circuit = self._circuit
        spell, shut = circuit.spell, self._shut
        if shut is None or shut.spell is not spell:
            shut = Shut.of(circuit)
        passing = spell if circuit.passes else None
        calm = spell if passing is not None and circuit.calm else _NEVER
        self._passing, self._calm, self._shut = passing, calm, shut  # at one stroke

    # -- asking and telling -------------------------------------------------------------------------

    def acquire(self) -> Permit:
        """Ask for the right to make one call.

        Returns:
            A permit, to be given back by :meth:`record` or :meth:`release`.

        Raises:
            CircuitOpenError: The circuit is open, forced open, or half open with all its probes under way.
        """
        spell = self._passing
        if spell is not None:
            permit = self._spare
            self._spare, self._other = self._other, permit
            if references_to(permit) > OWN_REFERENCES:
                permit = self._other = Permit()
            permit.spell = spell
            return permit
        asked = self._ask()
        if asked.__class__ is tuple:  # no call: no signal may come between a probe and its caller
            raise self.error_for(asked)
        return asked  # type: ignore[return-value]

    def _ask(self) -> Permit | Refusal:
        """What :meth:`acquire` comes to when not everybody may pass."""
        now = self._monotonic()
        shut = self._shut
        if shut is not None and now < shut.until:
            return self._refuse(shut, now)
        told: Told = []
        permit: Permit | None = None
        try:
            with self._lock:
                try:
                    permit = self._circuit.acquire(now, told)
                finally:
                    self._lay_out_locked()
                shut = self._shut or Shut(self._circuit.spell, self._circuit.state)
            self._tell(told)
        except BaseException:  # interrupted, or killed in a listener: the caller never sees the permit
            if permit is not None:
                self.release(permit)
            raise
        return self._refuse(shut, now) if permit is None else permit

    def refused(self) -> Refusal | None:
        """Whether :meth:`acquire` would refuse now, which is then counted and told; no permit is taken.

        An open circuit whose time is over does not refuse: only ``acquire`` moves it on.

        Returns:
            None, or what :meth:`error_for` makes an error of.
        """
        if self._passing is not None:
            return None
        monotonic, shut = self._monotonic, self._shut
        now = monotonic()
        if shut is None:
            with self._lock:
                if not self._circuit.blocked(now):
                    return None
                shut = Shut(self._circuit.spell, self._circuit.state)
        elif now >= shut.until:
            return None
        return self._refuse(shut, now)

    def _refuse(self, shut: Shut, now: float) -> Refusal:
        """Count and tell one refused call."""
        self._rejected += 1
        refusal = shut.refusal or (shut.state, shut.until - now)
        if not count_hushed(shut.hush, now):
            generation = shut.spell.generation
            shut.hush = notify_rejection(self.listeners, self._who, generation, now, *refusal)
        return refusal

    def error_for(self, refusal: Refusal) -> CircuitOpenError:
        """The error that tells a caller of a refusal."""
        return error_for(self.label, refusal)

    def check(self) -> None:
        """Raise the :class:`CircuitOpenError` that :meth:`acquire` would raise now, but take no permit.

        An open circuit whose time is over passes: only ``acquire`` moves it on.
        """
        refusal = self.refused()
        if refusal is not None:
            raise self.error_for(refusal)

    def record(
        self,
        permit: Permit,
        outcome: Outcome,
        duration: float = 0.0,
        error: BaseException | str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Give a permit back and tell how the call went.

        A result of an earlier generation, of an expired probe, of a permit already given back or of another
        breaker's permit changes nothing.

        Args:
            permit: From :meth:`acquire`.
            outcome: What the call came to.
            duration: Seconds of the longest attempt, body included, waiting between attempts left out. It
                matters where ``slow_call_seconds`` is given.
            error: What went wrong, for the status; an exception or a sentence. To be given by name, as
                ``retry_after``.
            retry_after: Seconds the service asked to be left alone, when it did.

        Raises:
            TypeError: ``permit`` is no :class:`Permit`, ``outcome`` no :class:`Outcome`, ``duration`` or
                ``retry_after`` no number.
        """
        if outcome is _SUCCESS and retry_after is None:
            calm = self._calm
            try:
                if permit.spell is calm:  # down to the count at one stroke
                    permit.spell = calm.over
                    self._succeeded = count = self._succeeded + 1
                    if count >= self._look_at:
                        self._note_time(count)
                    return
            except AttributeError:
                pass  # no permit: what is wrong is said in a moment
        self._record(permit, Report(outcome, duration, error, retry_after))

    def _record(self, permit: Permit, report: Report) -> None:
        """What :meth:`record` comes to when the result may change something."""
        check_result(permit, report)
        told: Told = []
        try:
            now = self._monotonic()
            with self._lock:
                try:
                    self._circuit.record(permit, report, now, told)
                finally:
                    self._lay_out_locked()
        except BaseException:  # interrupted, or killed while it waited for the lock
            with self._lock:
                self._circuit.give_back(permit)
            raise
        self._tell(told)

    def _note_time(self, count: int) -> None:
        """Note that a success was just now.

        A look at the clock costs as much as all the rest of a call through a closed circuit. Where successes
        follow each other within microseconds only one of several is timed, until somebody asks.
        """
        now, before = self._monotonic(), self._last_success
        rushing = before is not None and 0.0 < now - before < _RUSH * (count - self._counted_then)
        self._last_success, self._counted_then = now, count
        self._look_at = count + (_STRIDE if rushing else 1)

    def release(self, permit: Permit) -> None:
        """Give a permit back without a result: the same as recording ``Outcome.IGNORED``."""
        self.record(permit, Outcome.IGNORED)

    def _tell(self, told: Told) -> None:
        for event in told:
            notify(self.listeners, event)

    # -- probing in the background --------------------------------------------------------------------

    def hold_open(self, generation: int, seconds: float) -> bool:
        """Keep an open circuit from trying the service with a call, because somebody probes it otherwise.

        Args:
            generation: Of the open spell, as :class:`~service_utils.events.CircuitChanged` tells it.
            seconds: For how long from now; an open time that lasts longer stays as it is. Whoever probes does
                this again and again, so that calls are let through when it has died.

        Returns:
            Whether the circuit is still open in that spell.
        """
        now = self._monotonic()
        with self._lock:
            try:
                self._shut = None  # it knows how long the spell lasts
                return self._circuit.hold(generation, now + seconds)
            finally:
                self._lay_out_locked()

    def recover(self, generation: int) -> bool:
        """Close an open circuit whose service has been found well, whatever is left of its open time.

        Args:
            generation: Of the open spell; in any other nothing is changed.

        Returns:
            Whether it was closed.
        """
        now = self._monotonic()
        told: Told = []
        with self._lock:
            try:
                recovered = self._circuit.recover(generation, now, told)
            finally:
                self._lay_out_locked()
        self._tell(told)
        return recovered

    # -- by hand ------------------------------------------------------------------------------------

    def force_open(self, reason: str) -> None:
        """Refuse every call until :meth:`reset`."""
        self._override(CircuitState.FORCED_OPEN, f"forced: {_checked_reason(reason)}")

    def disable(self, reason: str) -> None:
        """Let every call pass until :meth:`reset`; results are still counted."""
        self._override(CircuitState.DISABLED, _checked_reason(reason))

    def reset(self) -> None:
        """Close the circuit and forget its failures, whatever its state. Calls under way count no more."""
        self._override(CircuitState.CLOSED, RESET)

    def _override(self, state: CircuitState, reason: str) -> None:
        now = self._monotonic()
        told: Told = []
        with self._lock:
            try:
                self._circuit.override(state, reason, now, told)
            finally:
                self._lay_out_locked()
        self._tell(told)

    # -- reading ------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """The state. Reading never changes it: an open circuit reads open until a permit is asked for."""
        return self._circuit.state

    @property
    def known_state(self) -> CircuitState:
        """The state as it was when it was last looked at; no store is asked."""
        return self._circuit.state

    @property
    def generation(self) -> int:
        """The number of the present spell in one state."""
        return self._circuit.spell.generation

    def retry_after(self) -> float | None:
        """Seconds after which a call may get through; None when that is now, or depends on an operator."""
        now = self._monotonic()
        with self._lock:
            circuit = self._circuit
            waits = circuit.blocked(now) and circuit.state is not CircuitState.FORCED_OPEN
            return circuit.cooldown(now) if waits else None

    def get_stats(self) -> dict[str, Any]:
        """A JSON-ready picture of the breaker; times are ISO 8601 in UTC or None, durations seconds.

        ``failure_count`` is the number of failures in a row, or in the window where there is one. Of the
        window tell, besides, ``window_calls``, ``failure_rate`` and ``slow_call_rate``: shares from 0 to 1,
        None while it is empty or when there is none, and the latter without ``slow_call_seconds``.

        ``last_success`` is exact unless successes follow each other within microseconds: then it may be some
        of them behind.
        """
        now, today = self._monotonic(), self.clock.now()
        agreed = self._agreed(now, today)
        with self._lock:
            self._look_at = 0
            unlocked = Unlocked(self._succeeded, self._rejected, self._last_success)
            return self._circuit.stats(now, today, unlocked, agreed)

    def _agreed(self, now: float, today: datetime) -> tuple[float, datetime] | None:
        """A moment on both clocks by which several members tell the time of day, if there are any."""
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.state.value}>"


def check_result(permit: Permit, report: Report) -> None:
    """Require what :meth:`LocalBreaker.record` is given to be of the right types.

    Raises:
        TypeError: Something is not.
    """
    if not isinstance(permit, Permit):
        raise TypeError(f"permit={permit!r}: must be a Permit")
    if type(report.outcome) is not Outcome:
        raise TypeError(f"outcome={report.outcome!r}: must be an Outcome")
    if type(report.duration) is not float:
        require_number("duration", report.duration)
    if report.retry_after is not None:
        require_number("retry_after", report.retry_after)


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
