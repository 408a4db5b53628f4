"""A signal at any moment of asking for health leaves no check stuck."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from service_utils.health import HealthChecker, HealthStatus
from service_utils.testing import FakeClock
from tests.side_by_side import PATIENCE

FILES = ("health/checker.py", "health/running.py")


class Interrupter:
    """Raises KeyboardInterrupt at the n-th step of health's code in this thread."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        if _at_a_lock(frame):
            return self
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self


def _at_a_lock(frame: FrameType) -> bool:
    """Whether a lock is just being taken or released: CPython lets no signal in between there."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")


def interrupted(work: Callable[[], Any], number: int) -> bool:
    """Do the work, interrupted at a step. Returns False when it had fewer steps."""
    tracer, interrupter = sys.gettrace(), Interrupter(number)
    sys.settrace(interrupter)
    try:
        work()
    except KeyboardInterrupt:
        assert interrupter.left <= 0
    finally:
        sys.settrace(tracer)
    return interrupter.left <= 0


class Counting:
    """A check that knows how many of its runs are under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        with self._lock:
            self.now -= 1


def test_a_signal_at_any_step_leaves_no_check_stuck() -> None:
    """Wherever Ctrl-C strikes somebody who asks, the next one gets a result, from one run at a time."""
    number = 1
    while True:
        clock, check = FakeClock(), Counting()
        checker = HealthChecker(clock=clock, timeout=PATIENCE)
        checker.register("it", check)
        more = interrupted(checker.check_all, number)
        clock.advance(31.0)
        found = checker.check_all().checks["it"]
        assert (found.status, found.detail) == (HealthStatus.HEALTHY, ""), f"at step {number}"
        assert check.most == 1, f"at step {number}"
        if not more:
            break
        number += 1
    assert number > 20
