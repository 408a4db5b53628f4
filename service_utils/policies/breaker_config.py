"""BreakerConfig: the limits of a circuit breaker, checked at birth."""

from __future__ import annotations

import os
from dataclasses import dataclass

from service_utils.policies.checks import require_count, require_fraction, require_seconds

__all__ = ["BreakerConfig", "breakers_enabled"]

_PROBE_SECONDS = 60.0  # where no other time says how long a probe may take
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
_MAX_DOUBLINGS = 60  # beyond it any sensible limit has long been reached; keeps the power of two finite
_LARGEST_WINDOW = 1_000_000  # calls; each takes a byte
_SHORTEST_WINDOW = 0.001  # seconds


class _Unless(int):
    """A number that stands unless another one is given: a default that gives way to smaller limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """The limits of one circuit breaker. Times are seconds.

    A closed circuit is judged by one of two rules: by failures in a row, or, when ``window_size`` or
    ``window_seconds`` is given, by the shares of failures and slow calls in a window. A half-open one is
    judged by single probes, or, when ``half_open_quota`` is given, by those shares among so many of them;
    :class:`~service_utils.policies.breaker.CircuitBreaker` says what becomes of each kind of probe. A share
    that equals its threshold has reached it. The thresholds of the shares are resilience4j's defaults;
    ``minimum_requests`` is lower than its 100, because most processes see few calls to one service.

    Attributes:
        failure_threshold: Consecutive failures that open the circuit; not used with a window.
        recovery_timeout: How long it stays open before a probe may pass.
        success_threshold: Successful probes that close it; one failed probe opens it.
        half_open_max_calls: Probes that may be under way at once.
        half_open_timeout: When a probe that has not reported counts as failed; default: ``recovery_timeout``,
            or 60 where that is 0.
        window_size: When given, the last so many results make the window; at most 1,000,000.
        window_seconds: When given, the results of the last so many seconds make the window; at least 0.001.
            It moves on in 64 steps, so that up to 1/64 of the time may be left out at its old end.
        minimum_requests: Calls a window must hold before its shares count. The default gives way to a smaller
            ``window_size``.
        failure_rate_threshold: Share of failures that opens the circuit, in (0, 1]: of those in the window,
            or of the ``half_open_quota``.
        slow_call_seconds: When given, a call that takes so long or longer is a slow one, whether it fails or
            not. What counts is the ``duration`` given to ``record``: for a client's call that of its longest
            attempt, body included.
        slow_call_rate_threshold: Share of slow calls that opens the circuit, in (0, 1], as above.
        half_open_quota: When given, so many results of probes are waited for, and their shares then close or
            open the circuit; in place of ``success_threshold``. At most 1,000,000.
        max_recovery_timeout: When given, the open time doubles with each failed probe, or each failed quota
            of them, up to this.
        recovery_jitter: j in [0, 1]: an open time d becomes d * (1 - j * U(0, 1)), so that many processes do
            not probe at the same moment.
        max_retry_after: The most that a Retry-After of the service may lengthen an open time to.

    Raises:
        ValueError: A value is out of its range, or two of them exclude each other; the message names them.
        TypeError: A value is no number.
    """

    failure_threshold: int = 5
    recovery_timeout: float = 60.0
    success_threshold: int = 1
    half_open_max_calls: int = 1
    half_open_timeout: float | None = None
    window_size: int | None = None
    window_seconds: float | None = None
    minimum_requests: int = _Unless(10)
    failure_rate_threshold: float = 0.5
    slow_call_seconds: float | None = None
    slow_call_rate_threshold: float = 1.0
    half_open_quota: int | None = None
    max_recovery_timeout: float | None = None
    recovery_jitter: float = 0.0
    max_retry_after: float = 60.0

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold", "half_open_max_calls", "minimum_requests"):
            require_count(name, getattr(self, name))
        require_seconds("recovery_timeout", self.recovery_timeout)
        require_seconds("max_retry_after", self.max_retry_after)
        if self.half_open_timeout is not None:
            require_seconds("half_open_timeout", self.half_open_timeout, zero=False)
        if self.max_recovery_timeout is not None:
            require_seconds("max_recovery_timeout", self.max_recovery_timeout)
            if self.max_recovery_timeout < self.recovery_timeout:
                raise ValueError(
                    f"max_recovery_timeout={self.max_recovery_timeout!r}: must not be below "
                    f"recovery_timeout={self.recovery_timeout!r}"
                )
        require_fraction("recovery_jitter", self.recovery_jitter)
        require_fraction("failure_rate_threshold", self.failure_rate_threshold, zero=False)
        require_fraction("slow_call_rate_threshold", self.slow_call_rate_threshold, zero=False)
        self._check_window()
        self._check_quota()
        self._check_slow_calls()

    def _check_window(self) -> None:
        if self.window_size is not None:
            require_count("window_size", self.window_size)
            if self.window_size > _LARGEST_WINDOW:
                raise ValueError(f"window_size={self.window_size!r}: must be at most {_LARGEST_WINDOW}")
            if self.window_seconds is not None:
                raise ValueError(
                    f"window_size={self.window_size!r}, window_seconds={self.window_seconds!r}: "
                    "a window counts either calls or seconds"
                )
            if self.least_calls > self.window_size:
                raise ValueError(
                    f"minimum_requests={self.minimum_requests!r}: must not be above "
                    f"window_size={self.window_size!r}, or the circuit would never open"
                )
        if self.window_seconds is not None:
            require_seconds("window_seconds", self.window_seconds, zero=False)
            if self.window_seconds < _SHORTEST_WINDOW:
                raise ValueError(
                    f"window_seconds={self.window_seconds!r}: must be at least {_SHORTEST_WINDOW}"
                )

    def _check_quota(self) -> None:
        if self.half_open_quota is None:
            return
        require_count("half_open_quota", self.half_open_quota)
        if self.half_open_quota > _LARGEST_WINDOW:
            raise ValueError(f"half_open_quota={self.half_open_quota!r}: must be at most {_LARGEST_WINDOW}")
        if self.success_threshold != 1:
            raise ValueError(
                f"half_open_quota={self.half_open_quota!r}, success_threshold={self.success_threshold!r}: "
                "probes are judged by their rates or by their number, not by both"
            )

    def _check_slow_calls(self) -> None:
        if self.slow_call_seconds is None:
            return
        require_seconds("slow_call_seconds", self.slow_call_seconds, zero=False)
        if self.window_size is None and self.window_seconds is None and self.half_open_quota is None:
            raise ValueError(
                f"slow_call_seconds={self.slow_call_seconds!r}: slow calls are counted in a window or quota: "
                "window_size, window_seconds or half_open_quota must be given too"
            )

    @property
    def least_calls(self) -> int:
        """How many calls the window must hold before its shares count."""
        least = self.minimum_requests
        if self.window_size is not None and isinstance(least, _Unless):
            return min(least, self.window_size)
        return least

    def open_seconds(self, failed_probes: int, chance: float, retry_after: float | None) -> float:
        """How long a circuit stays open.

        Args:
            failed_probes: Probes, or quotas of them, that have failed since it was closed.
            chance: What the jitter is drawn by, in [0, 1).
            retry_after: Seconds the service asked to be left alone, when it did.
        """
        seconds = self.recovery_timeout
        if self.max_recovery_timeout is not None:
            doubled = seconds * 2.0 ** min(failed_probes, _MAX_DOUBLINGS)
            seconds = min(doubled, self.max_recovery_timeout)
        seconds *= 1.0 - self.recovery_jitter * chance
        if retry_after is not None:
            seconds = max(seconds, min(retry_after, self.max_retry_after))
        return seconds

    @property
    def probe_seconds(self) -> float:
        """How long a probe may take before it counts as failed."""
        return self.half_open_timeout or self.recovery_timeout or _PROBE_SECONDS


def breakers_enabled() -> bool:
    """What ``CIRCUIT_BREAKER_ENABLED`` says; true when it is unset or empty.

    Raises:
        ValueError: It is neither true nor false.
    """
    text = os.environ.get("CIRCUIT_BREAKER_ENABLED", "").strip().lower()
    if text in _FALSE:
        return False
    if text and text not in _TRUE:
        raise ValueError(f"CIRCUIT_BREAKER_ENABLED={text!r}: must be true or false")
    return True
