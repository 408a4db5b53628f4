"""Retry storms: what many processes do to a service that fails, simulated with the library's own policies.

Time is simulated, so the figures do not depend on the machine: the same seeds give the same ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median_low

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Bar, Cell, Chart, Options, Report, Table, Target, options
from benchmarks.machine import versions
from benchmarks.storm_cases import (
    BROWN_OUT_BEGINS,
    BROWN_OUT_ENDS,
    Crowd,
    Storm,
    recovered_after,
    simulate_all,
)
from benchmarks.storm_engine import Counts
from benchmarks.storm_notes import notes
from benchmarks.storm_plan import (
    FEW,
    LONG,
    MINUTE,
    OURS,
    QUICKER,
    SHORT,
    THIN,
    Plan,
    Scenario,
    planned,
)

AFTER = slice(BROWN_OUT_ENDS, BROWN_OUT_ENDS + MINUTE)  # the minute after the brown-out

Measure = Callable[[Counts], float]
Found = dict[Storm, Counts]


@dataclass(frozen=True)
class Results:
    """What the simulations came to."""

    found: Found
    seeds: int

    def each(self, scenario: Scenario, policy: str, crowd: Crowd, measure: Measure) -> list[float]:
        """A measure of every seed."""
        return [measure(self.found[storm]) for storm in scenario.storms(policy, crowd, self.seeds)]

    def cell(self, scenario: Scenario, policy: str, crowd: Crowd, measure: Measure) -> float:
        """The mean of all seeds."""
        return fmean(self.each(scenario, policy, crowd, measure))

    def rows(self, scenario: Scenario, *measures: Measure) -> list[list[Cell]]:
        """A row for each policy: every measure for every crowd."""
        return [
            [
                policy,
                *(self.cell(scenario, policy, crowd, of) for crowd in scenario.seconds for of in measures),
            ]
            for policy in scenario.policies
        ]


def first_second(counts: Counts) -> float:
    """Attempts per call of the calls that begin in the first second, whenever these attempts are made."""
    return counts.per_call(counts.attempts, 0, 1)


def minute(counts: Counts) -> float:
    """Attempts per call of the calls that begin in the first minute."""
    return counts.per_call(counts.attempts, 0, MINUTE)


def attempts(counts: Counts) -> float:
    return counts.per_call(counts.attempts)


def success(counts: Counts) -> float:
    return counts.per_call(counts.good)


def refused(counts: Counts) -> float:
    return counts.per_call(counts.refused)


def attempts_since_brown_out(counts: Counts) -> float:
    return counts.per_call(counts.attempts, BROWN_OUT_BEGINS, AFTER.stop)


def success_after_brown_out(counts: Counts) -> float:
    return counts.per_call(counts.good, AFTER.start, AFTER.stop)


def run(chosen: Options) -> Report:
    """Simulate everything."""
    report = Report("storm", "Retry storms")
    plan, seeds = planned(quick=chosen.quick), chosen.rounds_or(1, 3)
    results = Results(simulate_all(plan.storms(seeds)), seeds)
    report.settings |= {"seeds": seeds, "simulated calls": f"{_calls(results):,}"}
    report.versions |= versions("service-utils")
    report.tables += [
        _outage(results, plan.outage),
        _errors(results, plan.errors),
        _half(results, plan.half),
        _brown_out(results, plan.brown_out),
        _luck(results, plan.lengths),
        _load(results, plan.brown_out),
    ]
    report.charts += _charts(results, plan)
    for crowd in plan.outage.seconds:
        if crowd != THIN:
            report.targets += _targets(results, crowd, plan)
    report.notes += notes(LONG, SHORT)
    return report


def _calls(results: Results) -> int:
    return sum(sum(counts.calls) for counts in results.found.values())


def _outage(results: Results, scenario: Scenario) -> Table:
    columns = [f"{crowd}: {when}" for crowd in scenario.seconds for when in ("first second", "first minute")]
    rows = results.rows(scenario, first_second, minute)
    return Table("Full outage: attempts per call", ("policy", *columns), rows)


def _errors(results: Results, scenario: Scenario) -> Table:
    columns = [f"{crowd}: {what}" for crowd in scenario.seconds for what in ("attempts", "success")]
    rows = results.rows(scenario, attempts, success)
    return Table("30 % errors: attempts per call, share of good calls", ("policy", *columns), rows)


def _half(results: Results, scenario: Scenario) -> Table:
    columns = ("policy", "attempts per call", "good calls", "refused calls")
    rows = results.rows(scenario, attempts, success, refused)
    return Table(
        f"50 % errors, {FEW}: what five failures in a row make of it, and what a window", columns, rows
    )


def _brown_out(results: Results, scenario: Scenario) -> Table:
    rows: list[list[Cell]] = [
        [
            policy,
            *(
                _in_words(results.each(scenario, policy, crowd, recovered_after))
                for crowd in scenario.seconds
            ),
        ]
        for policy in scenario.policies
    ]
    title = "Brown-out: seconds from its end until at least 99 % of the calls of every second are good"
    return Table(title, ("policy", *map(str, scenario.seconds)), rows)


def _in_words(seconds: list[float]) -> str:
    """The median of all seeds, and the worst where that is another."""
    usual, worst = median_low(seconds), max(seconds)
    return _second(usual) if usual == worst else f"{_second(usual)}, worst {_second(worst)}"


def _second(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < math.inf else "never"


def _load(results: Results, scenario: Scenario) -> Table:
    what = ("attempts", "good")
    columns = [f"{crowd}: {which}" for crowd in scenario.seconds for which in what]
    rows = results.rows(scenario, attempts_since_brown_out, success_after_brown_out)
    return Table(
        "Brown-out: attempts per call from its beginning to a minute after it, good calls in that minute",
        ("policy", *columns),
        rows,
    )


def _luck(results: Results, lucky: Mapping[str, Sequence[Storm]]) -> Table:
    rows: list[list[Cell]] = []
    for policy, storms in lucky.items():
        found = [recovered_after(results.found[storm]) for storm in storms]
        rows.append([policy, *map(_second, (min(found), median_low(found), max(found)))])
    lengths = [storm.slow_for for storms in lucky.values() for storm in storms]
    title = f"The same after brown-outs of {min(lengths)} to {max(lengths)} s, {FEW}"
    return Table(title, ("policy", "quickest", "median", "slowest"), rows)


def _charts(results: Results, plan: Plan) -> list[Chart]:
    def bars(scenario: Scenario, measure: Measure) -> list[Bar]:
        return [
            Bar(policy, results.cell(scenario, policy, FEW, measure), ours=policy.startswith("ours"))
            for policy in scenario.policies
        ]

    return [
        Chart(
            "storm-outage",
            f"Attempts per call in the first second of an outage, {FEW}",
            "attempts per call",
            bars(plan.outage, first_second),
            line=1.0,
        ),
        Chart(
            "storm-brown-out",
            f"Good calls in the minute after a brown-out, {FEW}",
            "share of all calls",
            bars(plan.brown_out, success_after_brown_out),
        ),
    ]


def _targets(results: Results, crowd: Crowd, plan: Plan) -> list[Target]:
    """What was promised of our defaults; the worst seed counts."""

    def worst(scenario: Scenario, policy: str, measure: Measure, of: Callable[..., float] = max) -> float:
        return of(results.each(scenario, policy, crowd, measure))

    return [
        Target(
            f"outage, {crowd}: attempts per call, first second",
            worst(plan.outage, OURS, first_second),
            1.1,
            1.1,
        ),
        Target(
            f"outage, {crowd}: attempts per call, first minute", worst(plan.outage, OURS, minute), 0.05, 0.05
        ),
        Target(f"30 % errors, {crowd}: attempts per call", worst(plan.errors, OURS, attempts), 1.4, 1.4),
        Target(
            f"30 % errors, {crowd}: good calls",
            worst(plan.errors, OURS, success, min),
            0.97,
            0.97,
            at_least=True,
        ),
        Target(
            f"brown-out, {crowd}: seconds until 99 % are good again, recovery_timeout=10",
            worst(plan.brown_out, QUICKER, recovered_after),
            15,
            15,
        ),
    ]


if __name__ == "__main__":
    chosen = options(__doc__)
    run(chosen).publish(chosen)
