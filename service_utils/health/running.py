"""One registered check: its runs, its last results, and a run that does not come to an end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from service_utils.clock import SYSTEM, Clock
from service_utils.forks import guard
from service_utils.health.checks import Check
from service_utils.health.result import CheckResult, Finding, HealthStatus, failed, finding_of
from service_utils.policies.fallback.single_flight import Done

__all__ = ["Registered", "Run", "Told"]


Told: TypeAlias = Callable[[CheckResult, CheckResult | None], object]
"""Takes a result and the one before it, if there was one."""


@dataclass(slots=True, eq=False)
class Run:
    """One run of a check, in a thread of its own.

    Attributes:
        began: Seconds on the checker's clock.
        ends: Real seconds on the system's clock after which nobody waits for it any more.
        done: Set when it has ended, or was called off.
        working: Whether its thread has come to the check.
        result: What it came to, or what was said in its place because it took too long; None for one that
            was called off.
    """

    began: float
    ends: float
    done: Done = field(default_factory=Done)
    working: bool = False
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
        follows: The client it is about, if it comes and goes with it.
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
        told: Told,
        follows: object | None = None,
    ) -> None:
        self.name = name
        self.timeout = timeout
        self.required_for_ready = required_for_ready
        self._check = check
        self._clock = clock
        self._told = told
        self.follows = follows
        self._history: deque[CheckResult] = deque(maxlen=history_size)
        self._fresh_at: float | None = None  # when the last result came, on the monotonic clock
        self._run: Run | None = None
        self._lock = threading.RLock()
        guard(self)

    def _renew_in_child(self) -> None:
        run, self._run = self._run, None
        if run is not None:  # its thread is the parent's; who waited for it here begins a run of his own
            run.done.set()

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
        mine = Run(now, SYSTEM.monotonic() + self.timeout)
        kept = None
        try:
            with self._lock:
                if self._fresh_at is not None and 0.0 <= now - self._fresh_at < cache_seconds:
                    return self._history[-1]
                run = self._run
                if run is None:
                    run = self._run = mine
                elif run.result is not None:  # somebody has lost patience with it, and it goes on
                    kept = self._give_up_locked(run, f"a run has not ended for {now - run.began:.0f} s")
            if run is mine:
                self._start(run)
        except BaseException:  # a signal, at any step: nobody need wait for a run that has no thread
            self._call_off(mine)
            raise
        if kept is None:
            return run
        self._told(*kept)
        return kept[0]

    def _start(self, run: Run) -> None:
        name = f"health-{self.name}"
        try:
            threading.Thread(target=self._work, args=(run,), name=name, daemon=True).start()
        except Exception as error:  # there is no thread to be had
            self._end(run, failed(error))

    def _call_off(self, run: Run) -> None:
        """Take a run back, unless its thread has come to the check: then it ends by itself."""
        with self._lock:
            if run.working or run.result is not None:
                return
            if self._run is run:
                self._run = None
        run.done.set()

    def wait(self, run: Run) -> CheckResult:
        """The result of a run, or that it takes too long."""
        run.done.wait(max(run.ends - SYSTEM.monotonic(), 0.0))
        kept = None
        with self._lock:
            if run.result is None and not run.done.is_set():
                kept = self._give_up_locked(run, f"no result within {self.timeout:g} s")
            result = run.result
        if kept is not None:
            self._told(*kept)
        if result is not None:
            return result
        found = self.look(0.0)  # it was called off: whoever began it was interrupted
        return found if isinstance(found, CheckResult) else self.wait(found)

    def _give_up_locked(self, run: Run, detail: str) -> tuple[CheckResult, CheckResult | None]:
        if not run.working:
            self._run = None  # its thread never came; should it still come, it finds that it is too late
        return self._keep_locked(run, self._result(run, Finding(HealthStatus.UNHEALTHY, detail)))

    def _work(self, run: Run) -> None:
        with self._lock:
            if self._run is not run:
                return  # called off
            run.working = True
        finding = Finding(HealthStatus.UNHEALTHY, "the check was broken off")
        try:
            finding = finding_of(self._check())
        except BaseException as error:  # SystemExit, too: it is the check that ends
            finding = failed(error)
        finally:
            self._end(run, finding)

    def _end(self, run: Run, finding: Finding) -> None:
        result, kept = self._result(run, finding), None
        with self._lock:
            if self._run is run:
                self._run = None
            if run.result is None:  # nobody has lost patience with it
                kept = self._keep_locked(run, result)
        try:
            if kept is not None:
                self._told(*kept)
        finally:  # who gets the result may rely on its having been told
            run.done.set()

    def _keep_locked(self, run: Run, result: CheckResult) -> tuple[CheckResult, CheckResult | None]:
        before = self._history[-1] if self._history else None
        run.result = result
        self._history.append(result)
        self._fresh_at = self._clock.monotonic()
        return result, before

    def _result(self, run: Run, finding: Finding) -> CheckResult:
        return CheckResult(
            name=self.name,
            status=finding.status,
            response_time_ms=(self._clock.monotonic() - run.began) * 1000,
            detail=finding.detail,
            checked_at=self._clock.now(),
            required_for_ready=self.required_for_ready,
        )
