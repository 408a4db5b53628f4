"""What storm.py simulates: who is compared, in what, for how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.storm_cases import POLICIES, Crowd, Storm

__all__ = ["FEW", "LONG", "MANY", "MINUTE", "OURS", "QUICKER", "SHORT", "THIN", "Plan", "Scenario", "planned"]

FEW, MANY, THIN = Crowd(20, 50), Crowd(1000, 50), Crowd(1000, 1)
MINUTE = 60
SHORT, LONG = 80, 110  # seconds of a simulation with a brown-out
OURS, WINDOW = "ours, 60 s", "ours, window of 100, 60 s"
QUICKER = "ours, 10 s"
USUAL = "pybreaker + tenacity, 60 s"
STEADY = ("no retries", "3 attempts", USUAL, OURS, WINDOW)  # those compared where the service stays as it is
HALF = (USUAL, OURS, WINDOW)
LUCKY = ("pybreaker + tenacity, refusals final, 10 s", QUICKER, "ours, window of 100, 10 s")


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

    def all_storms(self, seeds: int) -> Iterator[Storm]:
        """Those of all cells."""
        for policy in self.policies:
            for crowd in self.seconds:
                yield from self.storms(policy, crowd, seeds)


@dataclass(frozen=True)
class Plan:
    """All that is simulated.

    Attributes:
        outage: All attempts fail.
        errors: 30 % of them do.
        half: Half of them do.
        brown_out: The service is slow for a while.
        lengths: Brown-outs of other lengths by policy: they end in other moments of a circuit's open time.
    """

    outage: Scenario
    errors: Scenario
    half: Scenario
    brown_out: Scenario
    lengths: dict[str, list[Storm]]

    def storms(self, seeds: int) -> Iterator[Storm]:
        """Each simulation."""
        for scenario in (self.outage, self.errors, self.half, self.brown_out):
            yield from scenario.all_storms(seeds)
        for storms in self.lengths.values():
            yield from storms


def planned(*, quick: bool) -> Plan:
    """Everything, or what gives rough figures within seconds."""
    crowds = (FEW,) if quick else (FEW, MANY, THIN)
    seconds = {crowd: SHORT if quick or crowd == MANY else LONG for crowd in crowds}
    lengths = range(10, 20, 4 if quick else 1)
    return Plan(
        Scenario(1.0, STEADY, dict.fromkeys(crowds, MINUTE)),
        Scenario(0.3, STEADY, {crowd: 20 if crowd == MANY else 2 * MINUTE for crowd in crowds}),
        Scenario(0.5, HALF, {FEW: (2 if quick else 5) * MINUTE}),
        Scenario(None, tuple(POLICIES), seconds),
        {policy: [Storm(policy, FEW, None, SHORT, 0, length) for length in lengths] for policy in LUCKY},
    )
