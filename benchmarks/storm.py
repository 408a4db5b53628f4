"""Retry storms: what many processes do to a service that fails, simulated with the library's own policies.

Time is simulated, so the figures do not depend on the machine: the same seeds give the same ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median_low

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Bar, Cell, Chart, Options, Report, Table, Target, options
from benchmarks.machine import versions
from benchmarks.storm_cases import (
    BROWN_OUT_BEGINS,
    BROWN_OUT_ENDS,
    POLICIES,
    Crowd,
    Storm,
    recovered_after,
    simulate_all,
)
from benchmarks.storm_engine import Counts

FEW, MANY, THIN = Crowd(20, 50), Crowd(1000, 50), Crowd(1000, 1)
MINUTE = 60
QUICK, FULL = 90, 110  # seconds of the simulation with the brown-out
AFTER = slice(BROWN_OUT_ENDS, BROWN_OUT_ENDS + MINUTE)  # the minute after the brown-out
OURS, WINDOW = "ours, 60 s", "ours, window of 100, 60 s"
QUICKER = "ours, 10 s"
USUAL = "pybreaker + tenacity, 60 s"
STEADY = ("no retries", "3 attempts", USUAL, OURS, WINDOW)  # those compared where the service stays as it is
HALF = (USUAL, OURS, WINDOW)

Measure = Callable[[Counts], float]
Found = dict[Storm, Counts]


@dataclass(frozen=True)
class Scenario:
    """What is done to the service.

    Attributes:
        failing: See `Storm`.
        policies: Who is compared.
        seconds: How long calls come, by who calls.
    """

    failing: float | None
    policies: Sequence[str]
    seconds: dict[Crowd, int]

    def storms(self, policy: str, crowd: Crowd, seeds: int) -> list[Storm]:
        """The storms of one cell. A thousand processes with many calls each need no second seed."""
        number = 1 if crowd == MANY else seeds
        return [Storm(policy, crowd, self.failing, self.seconds[crowd], seed) for seed in range(number)]

    def all_storms(self, seeds: int) -> Iterable[Storm]:
        """Those of all cells."""
        for policy in self.policies:
            for crowd in self.seconds:
                yield from self.storms(policy, crowd, seeds)


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
    return counts.per_call(counts.attempts, BROWN_OUT_BEGINS)


def success_after_brown_out(counts: Counts) -> float:
    return counts.per_call(counts.good, AFTER.start, AFTER.stop)


def run(chosen: Options) -> Report:
    """Simulate everything."""
    report = Report("storm", "Retry storms")
    seeds, crowds = chosen.rounds_or(1, 5), (FEW,) if chosen.quick else (FEW, MANY, THIN)
    outage = Scenario(1.0, STEADY, dict.fromkeys(crowds, MINUTE))
    errors = Scenario(0.3, STEADY, {crowd: 20 if crowd == MANY else 2 * MINUTE for crowd in crowds})
    half = Scenario(0.5, HALF, {FEW: chosen.pick(2, 10) * MINUTE})
    brown_out = Scenario(None, tuple(POLICIES), dict.fromkeys(crowds, chosen.pick(QUICK, FULL)))
    storms = [storm for each in (outage, errors, half, brown_out) for storm in each.all_storms(seeds)]
    results = Results(simulate_all(storms), seeds)

    report.settings |= {"seeds": seeds, "simulated calls": f"{_calls(results):,}"}
    report.versions |= versions("service-utils")
    report.tables += [
        _outage(results, outage),
        _errors(results, errors),
        _half(results, half),
        _brown_out(results, brown_out),
        _load(results, brown_out),
    ]
    report.charts += _charts(results, outage, brown_out)
    for crowd in crowds:
        if crowd != THIN:
            report.targets += _targets(results, crowd, outage, errors, brown_out)
    report.notes += NOTES
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
    told = [f"{each:.0f} s" if each < math.inf else "never" for each in (usual, worst)]
    return told[0] if usual == worst else f"{told[0]}, worst {told[1]}"


def _load(results: Results, scenario: Scenario) -> Table:
    what = ("attempts", "good in the minute after")
    columns = [f"{crowd}: {which}" for crowd in scenario.seconds for which in what]
    rows = results.rows(scenario, attempts_since_brown_out, success_after_brown_out)
    return Table(
        "Brown-out: attempts per call from its beginning on, share of good calls after its end",
        ("policy", *columns),
        rows,
    )


def _charts(results: Results, outage: Scenario, brown_out: Scenario) -> list[Chart]:
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
            bars(outage, first_second),
            line=1.0,
        ),
        Chart(
            "storm-brown-out",
            f"Good calls in the minute after a brown-out, {FEW}",
            "share of all calls",
            bars(brown_out, success_after_brown_out),
        ),
    ]


def _targets(
    results: Results, crowd: Crowd, outage: Scenario, errors: Scenario, brown_out: Scenario
) -> list[Target]:
    """What was promised of our defaults; the worst seed counts."""

    def worst(scenario: Scenario, policy: str, measure: Measure, of: Callable[..., float] = max) -> float:
        return of(results.each(scenario, policy, crowd, measure))

    return [
        Target(
            f"outage, {crowd}: attempts per call, first second", worst(outage, OURS, first_second), 1.1, 1.1
        ),
        Target(f"outage, {crowd}: attempts per call, first minute", worst(outage, OURS, minute), 0.05, 0.05),
        Target(f"30 % errors, {crowd}: attempts per call", worst(errors, OURS, attempts), 1.4, 1.4),
        Target(
            f"30 % errors, {crowd}: good calls", worst(errors, OURS, success, min), 0.97, 0.97, at_least=True
        ),
        Target(
            f"brown-out, {crowd}: seconds until 99 % are good again, recovery_timeout=10",
            worst(brown_out, QUICKER, recovered_after),
            15,
            15,
        ),
    ]


def _paragraphs(text: str) -> list[str]:
    return [" ".join(each.split()) for each in text.split("\n\n")]


NOTES = _paragraphs(
    f"""A crowd of `20 x 50/s` is 20 processes with 50 calls a second each, which begin at random moments and
    do not wait for each other. No process knows of the others.

    Outage and errors: an attempt takes 20 ms, and fails always, or at random. Brown-out: a service that can do
    4/3 of the calls works on one queue in the order of arrival. From second {BROWN_OUT_BEGINS} to
    {BROWN_OUT_ENDS} it does a quarter of that. Clients give an attempt up after 1 s; it stays in the queue and
    is worked on all the same.

    Attempts are those of the calls that began in the time named, whenever they were made. Good again: the
    first whole second after the end of the brown-out from which on, in every second to the end of the
    simulation, at least 99 % of the calls that begin in it succeed. Refused calls have not succeeded. `never`:
    not in the {FULL - BROWN_OUT_ENDS} s that follow the brown-out ({QUICK - BROWN_OUT_ENDS} s with `--quick`),
    less the last five, which would prove nothing.

    Figures are means of all seeds, seconds are medians; of the targets the worst seed counts. For {MANY} there
    is one seed.

    `ours` has the client's defaults: 3 attempts, a back-off of 1 s, then 2 s, each less up to half of it, a
    retry budget of half a retry per call with 10 in reserve, a circuit that opens after 5 failed calls in a
    row, for the seconds named. The window of 100 calls opens it when half of them have failed.

    `3 attempts` wait 1 s, then 2 s, each with up to 1 s on top (tenacity's `wait_exponential_jitter`).
    `pybreaker + tenacity` does so round a breaker that opens after 5 failed attempts in a row; its refusals are
    retried, as tenacity does with any exception, unless they are said to be final. pybreaker's lock is left
    out, which would let one attempt of a process through at a time. What keeps its circuits from recovering
    are their own callers: those that were refused and come back to a circuit that has just closed, in all
    processes at once.

    With little to do (`{THIN}`) the circuit of a process learns slowly: it takes five failed calls, so five
    seconds, and each of them makes all its attempts, since the reserve of the budget covers them. Nothing is
    promised of that."""
)


if __name__ == "__main__":
    chosen = options(__doc__)
    run(chosen).publish(chosen)
