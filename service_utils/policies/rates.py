"""Rates: how large a share of the calls may fail or be slow, and the window in which they are counted."""

from __future__ import annotations

from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.window import CountWindow, TimeWindow, Window

__all__ = ["Rates", "window_for"]


class Rates:
    """The limits of a circuit that is judged by shares.

    Args:
        config: Where they come from.

    Attributes:
        least_calls: How many calls a window must hold before its shares count.
        minds_time: Whether it matters how long calls take.
    """

    __slots__ = ("_failed", "_slow", "_slow_from", "least_calls", "minds_time")

    def __init__(self, config: BreakerConfig) -> None:
        self._failed = config.failure_rate_threshold
        self._slow = config.slow_call_rate_threshold
        self._slow_from = config.slow_call_seconds
        self.least_calls = config.least_calls
        self.minds_time = config.slow_call_seconds is not None

    def is_slow(self, duration: float) -> bool:
        """Whether a call that took so many seconds counts as slow."""
        return self._slow_from is not None and duration >= self._slow_from

    def reached(self, calls: int, failures: int, slow: int) -> str | None:
        """What is too much, in words for a log line; None when nothing is. ``calls`` is at least 1."""
        if failures / calls >= self._failed:
            return f"failure rate {_percent(failures / calls)} >= {_percent(self._failed)}"
        if self.minds_time and slow / calls >= self._slow:
            return f"slow-call rate {_percent(slow / calls)} >= {_percent(self._slow)}"
        return None


def window_for(config: BreakerConfig) -> Window | None:
    """An empty window, if the circuit is to be judged by one."""
    if config.window_size is not None:
        return CountWindow(config.window_size)
    return None if config.window_seconds is None else TimeWindow(config.window_seconds)


def _percent(share: float) -> str:
    return f"{float(share) * 100:.3g}%"
