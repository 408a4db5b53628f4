"""A circuit whose state several members share: it counts its own results, and follows the common record."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from service_utils.calls import Outcome
from service_utils.events import CircuitChanged, CircuitState
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.circuit import Circuit, Told
from service_utils.policies.permit import Leased, Report, Spell
from service_utils.policies.reasons import PROBED, RECOVERED, TRYING
from service_utils.policies.record import BLANK, CircuitRecord, Lease, Trip
from service_utils.policies.tally import Moment, Unlocked

__all__ = ["SharedCircuit"]

_CLOSED, _OPEN, _HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
_BEFORE = {_OPEN: _HALF_OPEN, _HALF_OPEN: _OPEN}  # what must have been between two spells of the same state
_INCARNATION = 40  # bits of a version below those that tell one life of a store from another


class SharedCircuit(Circuit):
    """State, counts and times of one circuit, as one of its members knows them.

    It begins alone: as long as it is, it decides all by itself. Once it follows a record it decides only what
    its own results come to, and wishes for what follows.

    Args:
        name: Short name, for events.
        label: Display name, for events.
        config: The limits.

    Attributes:
        me: The number of this member.
        alone: Whether it decides by itself.
        common: The last record it followed.
        wish: What is to be told the store.
    """

    def __init__(self, name: str, label: str, config: BreakerConfig) -> None:
        super().__init__(name, label, config)
        self.me = secrets.randbits(63)
        self.alone = True
        self.common = BLANK
        self.wish: Trip | None = None
        self._found: Trip | None = None  # by itself, while alone
        self._leased: list[Leased] = []  # its own permits that may still be out

    def renew(self) -> None:
        """Begin in a forked child; what the parent was about to tell the store, it tells itself."""
        super().renew()
        self.me = secrets.randbits(63)
        self.wish = None
        self._leased.clear()

    # -- following ------------------------------------------------------------------------------------

    def follow(self, record: CircuitRecord, told: Told) -> bool:
        """Be as the record says. Returns whether it is news."""
        known = self.common
        same_store = record.version >> _INCARNATION == known.version >> _INCARNATION
        if not self.alone and same_store and record.version < known.version:
            return False  # another thread was quicker
        was_alone, self.alone = self.alone, False
        self.common = record
        self.open_until = record.open_until
        self._failed_probes = record.failed_probes
        self._found = None
        # What was probed alone says nothing of a half-open spell of all, though it may have the same number.
        lone_probes = was_alone and self.state is _HALF_OPEN
        if record.generation != self.spell.generation or record.state is not self.state or lone_probes:
            self._begin_spell(record, told, was_alone=was_alone)
        return True

    def _begin_spell(self, record: CircuitRecord, told: Told, *, was_alone: bool) -> None:
        before, self.state = self.state, record.state
        self.spell = Spell.begin(record.generation, half_open=record.state is _HALF_OPEN)
        self.wish = None
        self._successes = 0
        self._probes.clear()
        self._forget_trial()
        self._reason = None if record.state is _CLOSED else record.reason
        if record.state is _CLOSED:
            self._failures = 0
            if self._window is not None:
                self._window.clear()
        elsewhere = record.by != self.me
        if before is record.state:
            if was_alone or before not in _BEFORE:
                return  # that has been told
            before = _BEFORE[before]
        elif before is _OPEN and record.state is _CLOSED and record.reason == RECOVERED:
            # By a health probe of our own in one stroke, or too quickly for us to see.
            why = TRYING if elsewhere else PROBED
            told.append(self._change(record, _OPEN, _HALF_OPEN, why, elsewhere=elsewhere))
            before = _HALF_OPEN
        told.append(self._change(record, before, record.state, record.reason or "", elsewhere=elsewhere))

    def _change(
        self, record: CircuitRecord, before: CircuitState, after: CircuitState, why: str, *, elsewhere: bool
    ) -> CircuitChanged:
        return CircuitChanged(
            service=self._label,
            name=self._name,
            at=record.changed_at or 0.0,
            from_state=before,
            to_state=after,
            reason=why,
            generation=record.generation - (after is not record.state),
            elsewhere=elsewhere,
        )

    def go_alone(self, now: float, told: Told) -> None:
        """Decide by itself from now on; what was wished for is done."""
        self.alone = True
        wish, self.wish = self.wish, None
        if wish is not None and self.state is _CLOSED:
            self.open_until = wish.open_until
            self._tally.opened(now)
            self._enter(_OPEN, wish.reason, now, told)
            self._found = wish

    def own_trip(self, now: float) -> Trip | None:
        """What to tell a store that is back, when it has been found sick meanwhile."""
        found = self._found
        if not self.alone or self.state is not _OPEN or found is None or found.open_until <= now:
            return None
        return found

    # -- probes ---------------------------------------------------------------------------------------

    def permit_for(self, lease: Lease, record: CircuitRecord) -> Leased | None:
        """The permit of a lease; None when the spell it belongs to is over already."""
        if self.alone or record.generation != self.spell.generation:
            return None
        permit = Leased(self.spell, lease.expires_at, lease.token)
        self._leased = [each for each in self._leased if self._is_live(each)]
        self._leased.append(permit)
        return permit

    def _is_live(self, permit: Leased) -> bool:
        return any(lease.token == permit.token for lease in self.common.leases)

    def take_back(self, permit: Leased, report: Report, now: float) -> bool:
        """Count a probe's result, unless it is void. Returns whether it is to be judged.

        Its lease counts, not the spell it was given in: another one begins here when the store comes back.
        """
        if not self.give_back(permit):
            over = permit.spell.over
            if permit.spell is over or permit not in self._leased or not self._is_live(permit):
                return False
            permit.spell = over
        if now < permit.expires_at:
            self._note(report, now)
        return True

    def judge_alone(self, permit: Leased, report: Report, now: float, told: Told) -> None:
        """Judge the result of a lease where there is no store to do that; a late one is a failure by then."""
        if not self.alone or self.state is not _HALF_OPEN or permit.spell is not self.spell.over:
            return
        if now >= permit.expires_at:
            late = Report(Outcome.FAILURE, self._config.probe_seconds)
            self._judge_probe(late, permit.expires_at, told)
        elif report.outcome is not Outcome.IGNORED:
            self._judge_probe(report, now, told)

    def _probes_taken(self, now: float) -> bool:
        return super()._probes_taken(now) if self.alone else not self.common.has_room(self._config, now)

    def _live_probes(self, now: float) -> int:
        if self.alone:
            return super()._live_probes(now)
        return sum(1 for lease in self.common.leases if now < lease.expires_at)

    # -- decisions ------------------------------------------------------------------------------------

    def _open(self, reason: str, now: float, retry_after: float | None, told: Told) -> None:
        if self.alone:
            super()._open(reason, now, retry_after, told)
            self._found = Trip(reason, now, self.open_until, self.me)
        else:
            seconds = self._config.open_seconds(self._failed_probes, self._random(), retry_after)
            self.wish = Trip(reason, now, now + seconds, self.me)

    # -- reading --------------------------------------------------------------------------------------

    def stats(self, now: float, today: datetime, unlocked: Unlocked, agreed: Moment = None) -> dict[str, Any]:
        """A JSON-ready picture: the circuit of all members, the calls of this one."""
        picture = super().stats(now, today, unlocked, agreed)
        record = self.common
        if not self.alone:
            picture["opened_count"] = record.opened
            picture["last_state_change"] = self._tally.iso(record.changed_at)
            picture["mttr_seconds"] = record.outage_seconds / record.outages if record.outages else None
        return picture
