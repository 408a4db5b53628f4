"""One registered check: its runs, its last results, and a run that does not come to an end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from service_utils.clock import SYSTEM, Clock
from service_utils.forks import guard
from service_utils.health.checks import Check
from service_utils.health.result import CheckResult, Finding, HealthStatus, failed, finding_of
from service_utils.policies.fallback.single_flight import Done

__all__ = ["Registered", "Run"]


@dataclass(slots=True, eq=False)
class Run:
    """One run of a check, in a thread of its own.

    Attributes:
        began: Seconds on the checker's clock.
        ends: Real seconds on the system's clock after which nobody waits for it any more.
        done: Set when it has ended.
        result: What it came to, or what was said in its place because it took too long.
    """

    began: float
    ends: float
    done: Done = field(default_factory=Done)
    result: CheckResult | None = None


class Registered:
    """A check by its name. Any thread may ask it.

    A run that takes longer than the time-out leaves its thread behind, since nobody can end a thread from
    outside. As long as that one is there no other is begun: the check is unhealthy, and says since when.

    Args:
        name: Its name.
        check: What is called.
        timeout: Real seconds a run may take.
        required_for_ready: See :class:`CheckResult`.
        clock: Tells the time of results, and how long a run took.
        history_size: How many results are remembered.
        told: Called with each result, outside all locks.
    """

    def __init__(
        self,
        name: str,
        check: Check,
        timeout: float,
        *,
        required_for_ready: bool,
        clock: Clock,
        history_size: int,
        told: Callable[[CheckResult], object],
    ) -> None:
        self.name = name
        self.timeout = timeout
        self.required_for_ready = required_for_ready
        self._check = check
        self._clock = clock
        self._told = told
        self._history: deque[CheckResult] = deque(maxlen=history_size)
        self._fresh_at: float | None = None  # when the last result came, on the monotonic clock
        self._run: Run | None = None
        self._lock = threading.RLock()
        guard(self)

    def _renew_in_child(self) -> None:
        self._run = None  # its thread is the parent's

    @property
    def last(self) -> CheckResult | None:
        """The last result."""
        with self._lock:
            return self._history[-1] if self._history else None

    def history(self) -> list[CheckResult]:
        """The last results, oldest first."""
        with self._lock:
            return list(self._history)

    def look(self, cache_seconds: float) -> CheckResult | Run:
        """The last result, if it is fresh enough; else a run that is under way now, to be waited for."""
        now = self._clock.monotonic()
        with self._lock:
            if self._fresh_at is not None and 0.0 <= now - self._fresh_at < cache_seconds:
                return self._history[-1]
            run = self._run
            if run is not None and run.result is None:
                return run
            if run is None:
                started = self._run = Run(now, SYSTEM.monotonic() + self.timeout)
            else:
                result = self._give_up_locked(run, f"a run has not ended for {now - run.began:.0f} s")
        if run is not None:
            self._told(result)
            return result
        return self._start(started)

    def _start(self, run: Run) -> Run:
        try:
            name = f"health-{self.name}"
            threading.Thread(target=self._work, args=(run,), name=name, daemon=True).start()
        except BaseException as error:  # there is no thread to be had, or we are interrupted
            self._end(run, failed(error))
            if not isinstance(error, Exception):
                raise
        return run

    def wait(self, run: Run) -> CheckResult:
        """The result of a run, or that it takes too long."""
        run.done.wait(max(run.ends - SYSTEM.monotonic(), 0.0))
        with self._lock:
            first = run.result is None  # else it has ended, or somebody before us has lost his patience
            if first:
                self._give_up_locked(run, f"no result within {self.timeout:g} s")
            result = run.result
        assert result is not None  # for type checkers: it was given a line above
        if first:
            self._told(result)
        return result

    def _give_up_locked(self, run: Run, detail: str) -> CheckResult:
        run.result = self._result(run, Finding(HealthStatus.UNHEALTHY, detail))
        self._keep_locked(run.result)
        return run.result

    def _work(self, run: Run) -> None:
        finding = Finding(HealthStatus.UNHEALTHY, "the check was broken off")
        try:
            finding = finding_of(self._check())
        except BaseException as error:  # SystemExit, too: it is the check that ends
            finding = failed(error)
        finally:
            self._end(run, finding)

    def _end(self, run: Run, finding: Finding) -> None:
        result = self._result(run, finding)
        with self._lock:
            if self._run is run:
                self._run = None
            first = run.result is None  # nobody has lost patience with it
            if first:
                run.result = result
                self._keep_locked(result)
        run.done.set()
        if first:
            self._told(result)

    def _keep_locked(self, result: CheckResult) -> None:
        self._history.append(result)
        self._fresh_at = self._clock.monotonic()

    def _result(self, run: Run, finding: Finding) -> CheckResult:
        return CheckResult(
            name=self.name,
            status=finding.status,
            response_time_ms=(self._clock.monotonic() - run.began) * 1000,
            detail=finding.detail,
            checked_at=self._clock.now(),
            required_for_ready=self.required_for_ready,
        )
