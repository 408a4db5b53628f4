"""What a client has done so far, as numbers for people and dashboards."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from service_utils.calls import Outcome
from service_utils.forks import guard

__all__ = ["CallCounters", "percentile"]

_SUCCESS, _FAILURE = Outcome.SUCCESS, Outcome.FAILURE
_WINDOW = 512  # attempts whose durations are kept; 4 KiB of floats


class CallCounters:
    """Counts the calls of one client. May be used from any thread; a forked child begins at zero.

    It needs no lock: CPython does not let another thread go first between assignments with no call among
    them (see :mod:`service_utils.policies.breaker`), so that each method counts all it has to at one stroke.
    """

    __slots__ = (
        "__weakref__",
        "_durations",
        "_failed",
        "_last_error",
        "_rejected",
        "_retried",
        "_succeeded",
        "_total",
    )

    def __init__(self) -> None:
        self._renew_in_child()
        guard(self)

    def _renew_in_child(self) -> None:
        self._total = 0
        self._succeeded = 0
        self._failed = 0
        self._rejected = 0
        self._retried = 0
        self._last_error: str | None = None
        self._durations: deque[float] = deque(maxlen=_WINDOW)

    def succeeded(self, duration: float) -> None:
        """Count a call whose first attempt was a success, as most are.

        Args:
            duration: Seconds of the attempt.
        """
        self._durations.append(duration)
        self._total += 1
        self._succeeded += 1

    def finished(self, outcome: Outcome, durations: Sequence[float], error: str | None) -> None:
        """Count a call that made attempts.

        Args:
            outcome: What the breaker saw of it.
            durations: Seconds of each attempt.
            error: The sentence it failed with, or None.
        """
        retries = len(durations) - 1
        self._durations.extend(durations)
        self._total += 1
        self._retried += retries
        if outcome is _SUCCESS:
            self._succeeded += 1
        elif outcome is _FAILURE:
            self._failed += 1
        if error is not None:
            self._last_error = error

    def rejected(self) -> None:
        """Count a call that was refused on our side before its first attempt."""
        self._total += 1
        self._rejected += 1

    def snapshot(self) -> dict[str, Any]:
        """``requests``, ``latency_ms`` and ``last_error`` of the status."""
        counts = {
            "total": self._total,
            "succeeded": self._succeeded,
            "failed": self._failed,
            "rejected": self._rejected,
            "retried": self._retried,
        }
        durations = sorted(self._durations.copy())
        latency = {f"p{share}": percentile(durations, share) for share in (50, 95, 99)}
        return {"requests": counts, "latency_ms": latency, "last_error": self._last_error}


def percentile(ordered: Sequence[float], share: int) -> float | None:
    """The nearest-rank percentile of sorted seconds, in milliseconds; None when there are none."""
    if not ordered:
        return None
    rank = max(math.ceil(len(ordered) * share / 100), 1)
    return round(ordered[rank - 1] * 1000, 3)
