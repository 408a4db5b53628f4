"""One run of a chain: who is due, how long he may take, and what became of him."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service_utils.clock import Clock
from service_utils.errors import BulkheadFullError, DeadlineExceeded, ServiceUnavailable
from service_utils.policies.deadline import Deadline
from service_utils.policies.fallback.degraded import mark_degraded
from service_utils.policies.fallback.failures import Failures, sentence_of, tell
from service_utils.policies.fallback.report import ChainCounts, ChainReport, Step, StepOutcome
from service_utils.policies.fallback.side_calls import Late, NoThread, SideCalls
from service_utils.policies.fallback.strategy import Strategy

__all__ = ["ChainPlan", "ChainRun"]


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """What all runs of a chain have in common.

    Attributes:
        name: The chain's display name.
        strategies: In the order in which they are tried.
        failures: Which exceptions lead on, where a strategy does not say so itself.
        deadline: Seconds for all of them, or None.
        max_hung: How many calls of one strategy may hang before it is skipped.
        clock: Where the time comes from.
        counts: Told of each step.
        side_calls: By strategy, where calls with a limit run.
    """

    name: str
    strategies: tuple[Strategy, ...]
    failures: Failures
    deadline: float | None
    max_hung: int
    clock: Clock
    counts: ChainCounts
    side_calls: dict[str, SideCalls]


class ChainRun:
    """One run, used by one caller.

    Args:
        plan: The chain's.

    Attributes:
        limit: Until when the strategy that is due may take; None for any time.
    """

    __slots__ = ("_began", "_ends", "_plan", "_steps", "_strategy", "_tried", "limit")

    def __init__(self, plan: ChainPlan) -> None:
        self._plan = plan
        self._ends = None if plan.deadline is None else Deadline.after(plan.deadline, plan.clock)
        self._strategy = plan.strategies[0]
        self._began = 0.0
        self._steps: list[Step] = []
        self._tried: list[tuple[str, Exception]] = []
        self.limit: Deadline | None = None

    def due(self) -> Iterator[Strategy]:
        """The strategies to call, one after the other; those to be skipped are noted and left out."""
        for strategy in self._plan.strategies:
            self._strategy = strategy
            self._began = self._plan.clock.monotonic()
            obstacle = self._obstacle_to(strategy)
            if obstacle is None:
                self.limit = self._limit_of(strategy)
                yield strategy
            else:
                self._note(StepOutcome.SKIPPED, obstacle)

    def note_failure(self, error: Exception, *, answered: bool) -> None:
        """Take note that the strategy that was due has failed.

        Args:
            error: What it raised.
            answered: Whether that was made of an answer, and so is a failure whatever is caught.

        Raises:
            Exception: The error itself, if it is no failure but a mistake.
        """
        if isinstance(error, Late):
            self._note(StepOutcome.TIMEOUT, self._too_late())
        elif isinstance(error, NoThread):
            self._note(StepOutcome.SKIPPED, self._too_many(str(error)))
        elif answered or self._covers(error):
            out_of_time = (
                isinstance(error, DeadlineExceeded) and self.limit is not None and self.limit.expired
            )
            self._note(StepOutcome.TIMEOUT if out_of_time else StepOutcome.FAILURE, error)
        else:
            raise error

    def succeeded(self, answer: Any) -> ChainReport:
        """Take note that the strategy that was due has answered; this ends the run."""
        strategy = self._strategy.name
        self._add(Step(strategy, StepOutcome.SUCCESS, self._plan.clock.monotonic() - self._began))
        if self._tried:
            mark_degraded(strategy)
            self._tell("success", None)
        return ChainReport(self._plan.name, strategy, answer, tuple(self._steps))

    def last_error(self) -> Exception:
        """What to raise when all have failed: the last one's error, which knows what was tried."""
        last: Any = self._tried[-1][1]
        last.tried = tuple(self._tried)
        last.report = ChainReport(self._plan.name, None, None, tuple(self._steps))
        error: Exception = last
        return error

    def _obstacle_to(self, strategy: Strategy) -> Exception | None:
        """Why a strategy is not called, or None."""
        if self._ends is not None and self._ends.expired and not strategy.last_resort:
            return DeadlineExceeded(
                f"{self._plan.name}: no time left for {strategy.name}", service=self._plan.name
            )
        hung = self._plan.side_calls[strategy.name].late()
        if hung >= self._plan.max_hung:
            return self._too_many(f"{hung} earlier calls of it still hang")
        if strategy.circuit is not None:
            try:
                strategy.circuit.check()
            except ServiceUnavailable as error:
                return error
        return None

    def _limit_of(self, strategy: Strategy) -> Deadline | None:
        """The earlier of the strategy's own end and the chain's."""
        clock = self._plan.clock
        ends = None if strategy.last_resort else self._ends
        if strategy.timeout is None:
            return ends
        own = Deadline(self._began + strategy.timeout, clock)
        return own if ends is None or own.at <= ends.at else ends

    def _covers(self, error: Exception) -> bool:
        own = self._strategy.catch
        return (self._plan.failures if own is None else Failures(own)).cover(error)

    def _too_late(self) -> DeadlineExceeded:
        plan, strategy = self._plan, self._strategy
        seconds = plan.clock.monotonic() - self._began
        text = f"{plan.name}: {strategy.name} has not answered within {seconds:.2f} s"
        return DeadlineExceeded(text, service=plan.name, sent=True)

    def _too_many(self, why: str) -> BulkheadFullError:
        plan = self._plan
        return BulkheadFullError(f"{plan.name}: {self._strategy.name} is left out: {why}", service=plan.name)

    def _note(self, outcome: StepOutcome, error: Exception) -> None:
        skipped = outcome is StepOutcome.SKIPPED
        duration = 0.0 if skipped else self._plan.clock.monotonic() - self._began
        sentence = sentence_of(error)
        self._tried.append((self._strategy.name, error))
        self._add(Step(self._strategy.name, outcome, duration, sentence))
        if len(self._tried) > 1:  # the first choice is no fallback
            self._tell("skipped" if skipped else "failure", sentence)

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        self._plan.counts.note(step)

    def _tell(self, status: str, detail: str | None) -> None:
        tell(
            pattern="chain",
            strategy=self._strategy.name,
            status=status,
            first=self._tried[0][1],
            clock=self._plan.clock,
            label=self._plan.name,
            detail=detail,
        )
