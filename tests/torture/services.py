"""The services of the storm, and by which limits its circuits go."""

from __future__ import annotations

from service_utils.policies.breaker_config import BreakerConfig

__all__ = ["NOTE", "OVERRULED", "SERVICES"]

SERVICES = {
    # Nobody overrules this one, so that a lease of it ends by its report or its time alone.
    "alpha": BreakerConfig(failure_threshold=2, recovery_timeout=0.03, half_open_timeout=0.06),
    "beta": BreakerConfig(
        failure_threshold=3, recovery_timeout=0.02, half_open_timeout=0.05, success_threshold=2
    ),
    "gamma": BreakerConfig(
        failure_threshold=2,
        recovery_timeout=0.02,
        max_recovery_timeout=0.08,
        half_open_max_calls=3,
        half_open_quota=4,
        half_open_timeout=0.05,
    ),
}
OVERRULED = ("beta", "gamma")
NOTE = "weather"
