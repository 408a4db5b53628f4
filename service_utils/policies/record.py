"""What several processes know of one circuit together, and what may become of it.

A :class:`CircuitRecord` never changes. Each intent of a ``BreakerStore`` is one function here, from a record
to the next one: without locks, clocks or files, so that every store decides alike. A function that finds
nothing to do returns the very record it was given.

Times are seconds on a monotonic clock that all members share.
"""

from __future__ import annotations

from typing import NamedTuple

from service_utils.calls import Outcome
from service_utils.events import CircuitState
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.permit import Report
from service_utils.policies.rates import Rates
from service_utils.policies.reasons import PROBE_FAILED, PROBED, RECOVERED, TRYING

__all__ = ["BLANK", "MAX_LEASES", "Asking", "CircuitRecord", "Lease", "Trip"]

MAX_LEASES = 8
"""The most probes that all members together have under way, whatever ``half_open_max_calls`` says."""

_CLOSED, _OPEN, _HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Asking(NamedTuple):
    """Who asks something of a circuit, when and by which limits.

    Attributes:
        by: The member; no two have the same number.
        now: The time.
        config: The limits.
        chance: What the jitter of an open time is drawn by, in [0, 1).
    """

    by: int
    now: float
    config: BreakerConfig
    chance: float = 0.0


class Lease(NamedTuple):
    """The right of one member to probe. It is void once its time is over.

    Attributes:
        token: Its number; no two leases of a circuit have the same one.
        expires_at: When it counts as failed if nothing has been reported.
    """

    token: int
    expires_at: float


class Trip(NamedTuple):
    """What a member wants who has found a closed circuit's service sick.

    Attributes:
        reason: Why, in the words of the log line.
        at: When it found so.
        open_until: When the service may be tried again.
        by: The member.
    """

    reason: str
    at: float
    open_until: float
    by: int = 0


class CircuitRecord(NamedTuple):
    """One circuit at one moment.

    Attributes:
        version: Another number after every change, given by the store; no decision rests on how large it is.
        generation: The number of the spell in one state.
        state: The state.
        reason: Why it came to be so; None for a circuit nobody has touched.
        open_until: When an open circuit may be tried.
        by: The member that brought it here.
        changed_at: When it came to this state; None before the first change.
        failed_probes: Probes, or quotas of them, that have failed since it was closed.
        successes: Probes of this half-open spell that went well.
        leases: Who is probing.
        last_token: The number of the lease given last.
        trial: Calls, failures and slow calls of a quota, so far.
        opened: How often it has opened because of failures.
        outage_began: When the present outage began; None while there is none.
        outages: How many outages are over.
        outage_seconds: How long they lasted together.
        pause_until: Until when the service has asked all callers to stay away.
        pause_seconds: How long it has asked for.
    """

    version: int = 0
    generation: int = 0
    state: CircuitState = _CLOSED
    reason: str | None = None
    open_until: float = 0.0
    by: int = 0
    changed_at: float | None = None
    failed_probes: int = 0
    successes: int = 0
    leases: tuple[Lease, ...] = ()
    last_token: int = 0
    trial: tuple[int, int, int] = (0, 0, 0)
    opened: int = 0
    outage_began: float | None = None
    outages: int = 0
    outage_seconds: float = 0.0
    pause_until: float = 0.0
    pause_seconds: float = 0.0

    # -- intents --------------------------------------------------------------------------------------

    def tripped(self, expected_version: int, trip: Trip) -> CircuitRecord:
        """Open a closed circuit, if it is as its member knew it."""
        if self.version != expected_version or self.state is not _CLOSED:
            return self
        return self._opened(trip.reason, trip.at, trip.open_until, trip.by)

    def leased(self, asking: Asking) -> tuple[CircuitRecord, Lease | None]:
        """Lease a probe; an open circuit whose time is over becomes half open by it.

        Returns:
            The record, and the lease, or None where there is none to be had.
        """
        config, now = asking.config, asking.now
        record = self.expired(asking)
        if record.state is _OPEN and now >= record.open_until:
            record = record._entered(_HALF_OPEN, TRYING, now, asking.by)
        if record.state is not _HALF_OPEN or not record.has_room(config, now):
            return record, None
        lease = Lease(record.last_token + 1, now + config.probe_seconds)
        return record._replace(leases=(*record.leases, lease), last_token=lease.token), lease

    def reported(self, token: int, report: Report, asking: Asking) -> CircuitRecord:
        """Take a lease back with its result; of a lease that is over the word is void."""
        record = self.expired(asking)
        kept = tuple(lease for lease in record.leases if lease.token != token)
        if len(kept) == len(record.leases):
            return record
        record = record._replace(leases=kept)
        if report.outcome is Outcome.IGNORED:
            return record
        return record._judged(report, asking.now, asking)

    def expired(self, asking: Asking) -> CircuitRecord:
        """Have the leases whose time is over fail, each at its moment; the first to fail ends the spell."""
        record = self
        for lease in sorted(record.leases, key=lambda lease: lease.expires_at):
            if lease.expires_at > asking.now or lease not in record.leases:
                break
            record = record._replace(leases=tuple(each for each in record.leases if each is not lease))
            report = Report(Outcome.FAILURE, asking.config.probe_seconds)
            record = record._judged(report, lease.expires_at, asking)
        return record

    def overridden(self, state: CircuitState, reason: str, asking: Asking) -> CircuitRecord:
        """Go to a state by hand. To close it ends the outage, and the pause, without a recovery."""
        if state is _CLOSED:
            record = self._replace(outage_began=None, pause_until=0.0, pause_seconds=0.0)
            return record._closed(reason, asking.now, asking.by)
        return self._entered(state, reason, asking.now, asking.by)

    def held(self, generation: int, until: float) -> CircuitRecord:
        """Keep a circuit that is open in this spell so until then; an open time is never shortened."""
        if self.state is not _OPEN or self.generation != generation or until <= self.open_until:
            return self
        return self._replace(open_until=until)

    def recovered(self, generation: int, asking: Asking) -> CircuitRecord:
        """Close a circuit that is open in this spell, for its service is known to be well again."""
        if self.state is not _OPEN or self.generation != generation:
            return self
        now, by = asking.now, asking.by
        return self._entered(_HALF_OPEN, PROBED, now, by)._closed(RECOVERED, now, by)

    def paused(self, until: float, seconds: float) -> CircuitRecord:
        """Have all callers stay away until then; a longer pause that is on stays as it is."""
        if until <= self.pause_until:
            return self
        return self._replace(pause_until=until, pause_seconds=seconds)

    def resumed(self) -> CircuitRecord:
        """End the pause by hand."""
        return self._replace(pause_until=0.0, pause_seconds=0.0) if self.pause_until else self

    # -- looking --------------------------------------------------------------------------------------

    def has_room(self, config: BreakerConfig, now: float) -> bool:
        """Whether another probe may begin, or one whose time is over has to be counted first."""
        live = sum(1 for lease in self.leases if now < lease.expires_at)
        places = min(config.half_open_max_calls, MAX_LEASES)
        if config.half_open_quota is None:
            return live < len(self.leases) or live < places
        enough = self.trial[0] + len(self.leases) >= config.half_open_quota
        return live < places and not (live > 0 and enough)

    # -- from state to state --------------------------------------------------------------------------

    def _judged(self, report: Report, now: float, asking: Asking) -> CircuitRecord:
        """What one result of a probe, at that time, comes to."""
        config = asking.config
        failed = report.outcome is Outcome.FAILURE
        rates = Rates(config)
        retry_after = report.retry_after if failed else None
        if config.half_open_quota is not None:
            calls, failures, slow = self.trial
            trial = (calls + 1, failures + failed, slow + rates.is_slow(report.duration))
            record = self._replace(trial=trial)
            if trial[0] < config.half_open_quota:
                return record
            reason = rates.reached(*trial)
            if reason is None:
                return record._closed(RECOVERED, now, asking.by)
            return record._failed(f"{PROBE_FAILED}: {reason}", now, retry_after, asking)
        if failed:
            return self._failed(PROBE_FAILED, now, retry_after, asking)
        record = self._replace(successes=self.successes + 1)
        enough = record.successes >= config.success_threshold
        return record._closed(RECOVERED, now, asking.by) if enough else record

    def _failed(self, reason: str, now: float, retry_after: float | None, asking: Asking) -> CircuitRecord:
        record = self._replace(failed_probes=self.failed_probes + 1)
        until = now + asking.config.open_seconds(record.failed_probes, asking.chance, retry_after)
        return record._opened(reason, now, until, asking.by)

    def _opened(self, reason: str, now: float, until: float, by: int) -> CircuitRecord:
        began = now if self.outage_began is None else self.outage_began
        record = self._replace(open_until=until, opened=self.opened + 1, outage_began=began)
        return record._entered(_OPEN, reason, now, by)

    def _closed(self, reason: str, now: float, by: int) -> CircuitRecord:
        record = self._replace(failed_probes=0)
        if record.outage_began is not None:
            seconds = record.outage_seconds + now - record.outage_began
            record = record._replace(outage_began=None, outages=record.outages + 1, outage_seconds=seconds)
        return record._entered(_CLOSED, reason, now, by)

    def _entered(self, state: CircuitState, reason: str, now: float, by: int) -> CircuitRecord:
        return self._replace(
            generation=self.generation + 1,
            state=state,
            reason=reason,
            by=by,
            changed_at=now if state is not self.state else self.changed_at,
            successes=0,
            leases=(),
            trial=(0, 0, 0),
        )


BLANK = CircuitRecord()
"""A circuit nobody has touched."""
