"""A model of the circuit breaker that is as simple as can be.

It knows no permits with generations, no locks and no events: a spell in one state is an object, a call
belongs to the spell it began in, and everything else follows from lists and the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from service_utils.calls import Outcome


@dataclass
class Limits:
    threshold: int
    recovery: int
    successes: int
    probes: int
    probe_time: int | None
    longest: int | None
    longest_retry_after: int


@dataclass(eq=False)
class Spell:
    state: str
    calls: list[Call] = field(default_factory=list)
    succeeded: int = 0


@dataclass(eq=False)
class Call:
    spell: Spell
    expires: float | None
    over: bool = False


class Model:
    """What a breaker should do; times are whole seconds, so that sums are exact."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.now = 0.0
        self.spell = Spell("closed")
        self.open_until = 0.0
        self.in_a_row = 0
        self.failed_probes = 0
        self.opened = 0
        self.succeeded = self.failed = self.ignored = self.rejected = self.rejected_before = 0
        self.outages: list[float] = []
        self.outage_since: float | None = None
        self.last_success: float | None = None
        self.moves: list[tuple[str, str]] = []

    @property
    def under_way(self) -> list[Call]:
        return [call for call in self.spell.calls if not call.over and call.expires is not None]

    @property
    def in_use(self) -> int:
        return sum(1 for call in self.under_way if call.expires is not None and call.expires > self.now)

    @property
    def cooldown(self) -> float:
        return max(self.open_until - self.now, 0.0) if self.spell.state == "open" else 0.0

    def would_refuse(self) -> bool:
        """As far as can be seen without moving on."""
        if self.spell.state == "open":
            return self.now < self.open_until
        if self.spell.state == "half_open":
            return self.in_use == len(self.under_way) >= self.limits.probes
        return self.spell.state == "forced_open"

    def move(self, state: str) -> None:
        if self.spell.state != state:
            self.moves.append((self.spell.state, state))
        self.spell = Spell(state)

    def acquire(self) -> Call | None:
        self.bury_silent_probes()
        if self.spell.state == "open" and self.now >= self.open_until:
            self.move("half_open")
        if self.would_refuse():
            self.rejected += 1
            return None
        expires = None
        if self.spell.state == "half_open":
            time = self.limits.recovery or 60 if self.limits.probe_time is None else self.limits.probe_time
            expires = self.now + time
        call = Call(self.spell, expires)
        self.spell.calls.append(call)
        return call

    def record(self, call: Call, outcome: Outcome, retry_after: int | None) -> None:
        self.bury_silent_probes()
        if call.over or call.spell is not self.spell:
            return
        call.over = True
        if outcome is Outcome.IGNORED:
            self.ignored += 1
        elif outcome is Outcome.SUCCESS:
            self.succeeded += 1
            self.last_success = self.now
            self.in_a_row = 0
            self.spell.succeeded += 1
            if self.spell.state == "half_open" and self.spell.succeeded >= self.limits.successes:
                self.close()
        else:
            self.count_failure(self.now, retry_after)

    def bury_silent_probes(self) -> None:
        ends = [call.expires for call in self.under_way if call.expires is not None]
        if ends and min(ends) <= self.now:
            self.count_failure(min(ends), None)

    def count_failure(self, when: float, retry_after: int | None) -> None:
        self.failed += 1
        self.in_a_row += 1
        if self.spell.state == "half_open":
            self.failed_probes += 1
            self.open(when, retry_after)
        elif self.spell.state == "closed" and self.in_a_row >= self.limits.threshold:
            self.open(when, retry_after)

    def open(self, when: float, retry_after: int | None) -> None:
        seconds = self.limits.recovery
        if self.limits.longest is not None:
            seconds = min(self.limits.recovery * 2**self.failed_probes, self.limits.longest)
        asked = min(retry_after or 0, self.limits.longest_retry_after)
        self.open_until = when + max(seconds, asked)
        self.opened += 1
        if self.outage_since is None:
            self.outage_since = when
        self.move("open")

    def fork(self) -> None:
        """Go on as a forked child: in the same state, with no calls and no counts."""
        self.spell = Spell(self.spell.state, succeeded=self.spell.succeeded)
        self.rejected_before += self.rejected
        self.opened = self.succeeded = self.failed = self.ignored = self.rejected = 0
        self.outages.clear()

    def close(self, by_hand: bool = False) -> None:
        if self.outage_since is not None and not by_hand:
            self.outages.append(self.now - self.outage_since)
        self.outage_since = None
        self.in_a_row = self.failed_probes = 0
        self.move("closed")
