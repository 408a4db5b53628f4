"""What a client has done so far, as numbers for people and dashboards."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from service_utils.calls import Outcome

__all__ = ["CallCounters", "percentile"]

_WINDOW = 512  # attempts whose durations are kept; 4 KiB of floats


class CallCounters:
    """Counts the calls of one client. May be used from any thread; the lock covers arithmetic alone."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._total = 0
        self._succeeded = 0
        self._failed = 0
        self._rejected = 0
        self._retried = 0
        self._last_error: str | None = None
        self._durations: deque[float] = deque(maxlen=_WINDOW)

    def finished(self, outcome: Outcome, durations: Sequence[float], error: str | None) -> None:
        """Count a call that made attempts.

        Args:
            outcome: What the breaker saw of it.
            durations: Seconds of each attempt.
            error: The sentence it failed with, or None.
        """
        with self._lock:
            self._total += 1
            self._succeeded += outcome is Outcome.SUCCESS
            self._failed += outcome is Outcome.FAILURE
            self._retried += len(durations) - 1
            self._durations.extend(durations)
            if error is not None:
                self._last_error = error

    def rejected(self) -> None:
        """Count a call that was refused on our side before its first attempt."""
        with self._lock:
            self._total += 1
            self._rejected += 1

    def snapshot(self) -> dict[str, Any]:
        """``requests``, ``latency_ms`` and ``last_error`` of the status."""
        with self._lock:
            counts = {
                "total": self._total,
                "succeeded": self._succeeded,
                "failed": self._failed,
                "rejected": self._rejected,
                "retried": self._retried,
            }
            durations, last_error = list(self._durations), self._last_error
        durations.sort()
        latency = {f"p{share}": percentile(durations, share) for share in (50, 95, 99)}
        return {"requests": counts, "latency_ms": latency, "last_error": last_error}


def percentile(ordered: Sequence[float], share: int) -> float | None:
    """The nearest-rank percentile of sorted seconds, in milliseconds; None when there are none."""
    if not ordered:
        return None
    rank = max(math.ceil(len(ordered) * share / 100), 1)
    return round(ordered[rank - 1] * 1000, 3)
