"""Circuits that tests open and close, and a monitor over them."""

from __future__ import annotations

from typing import Any

from service_utils.degradation import DegradationMonitor, DegradationRules, Rule
from service_utils.events import DegradationChanged
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock

NAMES = ("chroma", "filesystem", "billing", "git")


class Circuits:
    """Stands for a registry."""

    def __init__(self, *names: str, clock: FakeClock | None) -> None:
        self.breakers = {
            name: CircuitBreaker(name, clock=clock, failure_threshold=1, recovery_timeout=30.0)
            for name in names or NAMES
        }

    def circuit_breakers(self) -> dict[str, CircuitBreaker]:
        return self.breakers

    def open(self, *names: str) -> None:
        for name in names:
            self.breakers[name].force_open("test")

    def close(self, *names: str) -> None:
        for name in names:
            self.breakers[name].reset()


RULES = DegradationRules(minor=["chroma"], moderate=["filesystem"], severe=["billing"], critical=["git"])


class Told(list[DegradationChanged]):
    """A listener that keeps what it is told."""

    def __call__(self, event: DegradationChanged) -> None:
        self.append(event)

    def steps(self) -> list[tuple[str, str]]:
        return [(each.from_level, each.to_level) for each in self]


def make_monitor(circuits: Circuits, clock: FakeClock, *rules: Rule, **options: Any) -> DegradationMonitor:
    return DegradationMonitor(circuits, list(rules) or RULES, clock=clock, **options)
