"""Health checks: how this process is, and what it depends on, found out together and remembered a while."""

from service_utils.health.checker import HealthChecker
from service_utils.health.checks import Check, database, disk_space, memory, service
from service_utils.health.result import CheckResult, Finding, HealthReport, HealthStatus, Readiness

__all__ = [
    "Check",
    "CheckResult",
    "Finding",
    "HealthChecker",
    "HealthReport",
    "HealthStatus",
    "Readiness",
    "database",
    "disk_space",
    "memory",
    "service",
]
