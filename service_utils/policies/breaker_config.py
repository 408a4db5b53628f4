"""BreakerConfig: the limits of a circuit breaker, checked at birth."""

from __future__ import annotations

import os
from dataclasses import dataclass

from service_utils.policies.checks import require_count, require_fraction, require_seconds

__all__ = ["BreakerConfig", "breakers_enabled"]

_PROBE_SECONDS = 60.0  # where no other time says how long a probe may take
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
_LATER = ("window_size", "window_seconds", "slow_call_seconds", "half_open_quota")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """The limits of one circuit breaker. Times are seconds.

    Attributes:
        failure_threshold: Consecutive failures that open the circuit.
        recovery_timeout: How long it stays open before a probe may pass.
        success_threshold: Successful probes that close it.
        half_open_max_calls: Probes that may be under way at once.
        half_open_timeout: When a probe that has not reported counts as failed; default: ``recovery_timeout``,
            or 60 where that is 0.
        window_size: Not in this version, like ``window_seconds``, ``slow_call_seconds`` and
            ``half_open_quota``.
        window_seconds: See ``window_size``.
        minimum_requests: Calls a window must hold before its rates count.
        failure_rate_threshold: Share of failures in the window that opens the circuit, in (0, 1].
        slow_call_seconds: See ``window_size``.
        slow_call_rate_threshold: Share of slow calls that opens the circuit, in (0, 1].
        half_open_quota: See ``window_size``.
        max_recovery_timeout: When given, the open time doubles with each failed probe, up to this.
        recovery_jitter: j in [0, 1]: an open time d becomes d * (1 - j * U(0, 1)), so that many processes do
            not probe at the same moment.
        max_retry_after: The most that a Retry-After of the service may lengthen an open time to.

    Raises:
        ValueError: A value is out of its range; the message names it.
        TypeError: A value is no number.
    """

    failure_threshold: int = 5
    recovery_timeout: float = 60.0
    success_threshold: int = 1
    half_open_max_calls: int = 1
    half_open_timeout: float | None = None
    window_size: int | None = None
    window_seconds: float | None = None
    minimum_requests: int = 10
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
        for name in _LATER:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: windows and slow calls are not in this version"
                )

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
