"""What the tests of the circuit breaker share: breakers in each state, and how they got there."""

from __future__ import annotations

from typing import Any

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitChanged, CircuitRejected, CircuitState, Event
from service_utils.policies.breaker import CircuitBreaker, Permit
from service_utils.testing import FakeClock

THRESHOLD = 3
RECOVERY = 10.0


def make_breaker(clock: FakeClock, **options: Any) -> CircuitBreaker:
    """Three failures open it for ten seconds, unless the options say otherwise."""
    options = {"failure_threshold": THRESHOLD, "recovery_timeout": RECOVERY, **options}
    return CircuitBreaker("chroma", clock=clock, **options)


def succeed(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.record(breaker.acquire(), Outcome.SUCCESS)


def fail(breaker: CircuitBreaker, times: int = 1, **told: Any) -> None:
    for _ in range(times):
        breaker.record(breaker.acquire(), Outcome.FAILURE, **told)


def ignore(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.record(breaker.acquire(), Outcome.IGNORED)


def open_breaker(clock: FakeClock, **options: Any) -> CircuitBreaker:
    """Just opened by failures."""
    breaker = make_breaker(clock, **options)
    fail(breaker, breaker.config.failure_threshold)
    return breaker


def half_open_breaker(clock: FakeClock, **options: Any) -> tuple[CircuitBreaker, Permit]:
    """Half open, with its first probe under way."""
    breaker = open_breaker(clock, **options)
    clock.advance(breaker.get_stats()["cooldown_remaining"])
    return breaker, breaker.acquire()


def try_acquire(breaker: CircuitBreaker) -> Permit | None:
    try:
        return breaker.acquire()
    except CircuitOpenError:
        return None


def totals(breaker: CircuitBreaker) -> tuple[int, int, int, int]:
    """Succeeded, failed, ignored, rejected."""
    total = breaker.get_stats()["total"]
    return total["succeeded"], total["failed"], total["ignored"], total["rejected"]


def cooldown(breaker: CircuitBreaker) -> float:
    remaining: float = breaker.get_stats()["cooldown_remaining"]
    return remaining


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def changes(self) -> list[tuple[CircuitState, CircuitState, str]]:
        return [
            (event.from_state, event.to_state, event.reason)
            for event in self.events
            if isinstance(event, CircuitChanged)
        ]

    @property
    def rejections(self) -> list[CircuitRejected]:
        return [event for event in self.events if isinstance(event, CircuitRejected)]
