"""What a chain tried: step by step for one run, and in numbers for all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service_utils.forks import guard

__all__ = ["ChainCounts", "ChainReport", "Step", "StepOutcome"]


class StepOutcome(StrEnum):
    """What became of one strategy in one run."""

    SUCCESS = "success"
    FAILURE = "failure"
    SKIPPED = "skipped"
    """It was not called: its circuit is open, too many calls of it hang, or the chain's time is up."""
    TIMEOUT = "timeout"
    """It was called, and left behind when its time was up."""


@dataclass(frozen=True, slots=True)
class Step:
    """One strategy in one run.

    Attributes:
        name: The strategy.
        outcome: What became of it.
        duration: Seconds it took; 0.0 where it was skipped.
        error: What went wrong, in a sentence without secrets; None for a success.
    """

    name: str
    outcome: StepOutcome
    duration: float
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same, JSON-ready."""
        return {
            "name": self.name,
            "outcome": self.outcome.value,
            "duration": round(self.duration, 6),
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class ChainReport:
    """One run of a chain. The answer is user data, and so neither in its ``repr`` nor in :meth:`as_dict`.

    Attributes:
        chain: The chain's name.
        strategy: Who answered; None when nobody did.
        answer: The answer.
        steps: What was tried, in order.
    """

    chain: str
    strategy: str | None
    answer: Any
    steps: tuple[Step, ...]

    def as_dict(self) -> dict[str, Any]:
        """All but the answer, JSON-ready."""
        return {
            "chain": self.chain,
            "strategy": self.strategy,
            "steps": [step.as_dict() for step in self.steps],
        }

    def __repr__(self) -> str:
        return f"ChainReport({self.chain!r}, strategy={self.strategy!r}, steps={self.steps!r})"


class _Count:
    __slots__ = ("last_error", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(StepOutcome, 0)
        self.seconds = 0.0
        self.last_error: str | None = None


class ChainCounts:
    """How often each strategy came to what end. For any number of threads; a forked child begins at zero.

    Args:
        names: The strategies.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._lock = threading.RLock()
        self._counts = {name: _Count() for name in names}
        guard(self)

    def _renew_in_child(self) -> None:
        self._counts = {name: _Count() for name in self._counts}

    def note(self, step: Step) -> None:
        """Count one."""
        with self._lock:
            count = self._counts[step.name]
            count.outcomes[step.outcome] += 1
            count.seconds += step.duration
            if step.error is not None:
                count.last_error = step.error

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """By strategy: its outcomes, the mean seconds of a call, and the last error in words."""
        with self._lock:
            return {name: _picture(count) for name, count in self._counts.items()}


def _picture(count: _Count) -> dict[str, Any]:
    numbers = {outcome.value: number for outcome, number in count.outcomes.items()}
    called = sum(numbers.values()) - count.outcomes[StepOutcome.SKIPPED]
    mean = count.seconds / called if called else None
    return {**numbers, "mean_seconds": mean, "last_error": count.last_error}
