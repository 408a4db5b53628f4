"""A model of the circuit breaker that is as simple as can be.

It knows no permits with generations, no locks and no events: a spell in one state is an object, a call
belongs to the spell it began in, and everything else follows from lists and the time. What a window holds is
counted anew each time, from the list of all results.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

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
    window_size: int | None
    window_seconds: int | None
    least_calls: int
    failure_share: Fraction
    slow_from: int | None
    slow_share: Fraction
    quota: int | None

    @property
    def windowed(self) -> bool:
        return self.window_size is not None or self.window_seconds is not None


@dataclass
class Result:
    at: float
    failed: bool
    slow: bool


@dataclass(eq=False)
class Spell:
    state: str
    calls: list[Call] = field(default_factory=list)
    succeeded: int = 0
    results: list[Result] = field(default_factory=list)


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
        self.results: list[Result] = []  # since the circuit was closed, without those of probes
        self.failed_probes = 0
        self.opened = 0
        self.succeeded = self.failed = self.ignored = self.rejected = self.rejected_before = 0
        self.outages: list[float] = []
        self.outage_since: float | None = None
        self.last_success: float | None = None
        self.last_failure: float | None = None
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

    @property
    def window(self) -> list[Result]:
        if self.limits.window_size is not None:
            return self.results[-self.limits.window_size :]
        if self.limits.window_seconds is not None:
            return [each for each in self.results if self.now - each.at < self.limits.window_seconds]
        return []

    @property
    def failure_count(self) -> int:
        if self.limits.windowed:
            return sum(each.failed for each in self.window)
        return self.in_a_row

    def too_much(self, results: list[Result]) -> bool:
        failures, slow = sum(each.failed for each in results), sum(each.slow for each in results)
        too_slow = self.limits.slow_from is not None and slow >= self.limits.slow_share * len(results)
        return too_slow or failures >= self.limits.failure_share * len(results)

    def would_refuse(self) -> bool:
        """As far as can be seen without moving on."""
        if self.spell.state == "open":
            return self.now < self.open_until
        if self.spell.state == "half_open":
            return self.probes_taken()
        return self.spell.state == "forced_open"

    def probes_taken(self) -> bool:
        if self.limits.quota is None:
            return self.in_use == len(self.under_way) >= self.limits.probes
        reported = len(self.spell.results) + len(self.under_way) - self.in_use
        if reported == self.limits.quota:  # the verdict is due
            return False
        return self.in_use >= self.limits.probes or reported + self.in_use >= self.limits.quota

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
            expires = self.now + self.probe_time
        call = Call(self.spell, expires)
        self.spell.calls.append(call)
        return call

    def record(self, call: Call, outcome: Outcome, duration: int, retry_after: int | None) -> None:
        self.bury_silent_probes()
        if call.over or call.spell is not self.spell:
            return
        call.over = True
        if outcome is Outcome.IGNORED:
            self.ignored += 1
        else:
            self.count(self.now, outcome is Outcome.FAILURE, duration, retry_after)

    def bury_silent_probes(self) -> None:
        for probe in sorted(self.under_way, key=lambda call: call.expires or 0):
            assert probe.expires is not None
            if probe.expires <= self.now and probe.spell is self.spell:
                probe.over = True
                self.count(probe.expires, True, self.probe_time, None)

    @property
    def probe_time(self) -> int:
        return self.limits.recovery or 60 if self.limits.probe_time is None else self.limits.probe_time

    def count(self, when: float, failed: bool, duration: int, retry_after: int | None) -> None:
        slow = self.limits.slow_from is not None and duration >= self.limits.slow_from
        result = Result(when, failed, slow)
        if failed:
            self.failed += 1
            self.last_failure = when
            self.in_a_row += 1
        else:
            self.succeeded += 1
            self.last_success = when
            self.in_a_row = 0
        if self.spell.state == "half_open":
            self.spell.results.append(result)
            self.judge_probes(result, retry_after)
        else:
            self.results.append(result)
            self.judge_calls(result, retry_after)

    def judge_probes(self, result: Result, retry_after: int | None) -> None:
        if self.limits.quota is None:
            failed = result.failed
            self.spell.succeeded += not failed
            passed = self.spell.succeeded >= self.limits.successes
        else:
            complete = len(self.spell.results) == self.limits.quota
            failed = complete and self.too_much(self.spell.results)
            passed = complete and not failed
        if failed:
            self.failed_probes += 1
            self.open(result.at, retry_after if result.failed else None)
        elif passed:
            self.close(result.at)

    def judge_calls(self, result: Result, retry_after: int | None) -> None:
        if self.limits.windowed:
            enough = len(self.window) >= self.limits.least_calls
            over = enough and self.too_much(self.window)
        else:
            over = self.in_a_row >= self.limits.threshold
        if over and self.spell.state == "closed":
            self.open(result.at, retry_after if result.failed else None)

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

    def close(self, when: float, by_hand: bool = False) -> None:
        if self.outage_since is not None and not by_hand:
            self.outages.append(when - self.outage_since)
        self.outage_since = None
        self.in_a_row = self.failed_probes = 0
        self.results.clear()
        self.move("closed")
