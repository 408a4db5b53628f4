"""What health checks find."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from service_utils.wording import describe_error

__all__ = ["CheckResult", "Finding", "HealthReport", "HealthStatus", "Readiness", "failed", "finding_of"]


class HealthStatus(StrEnum):
    """How something is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It works, but not as it should."""
    UNHEALTHY = "unhealthy"


_WORST_FIRST = (HealthStatus.UNHEALTHY, HealthStatus.DEGRADED, HealthStatus.HEALTHY)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check returns when True or False does not say enough.

    Attributes:
        status: How it is, or the word for it.
        detail: Why, in words that operators read. What looks like a credential is taken out.

    Raises:
        TypeError: ``detail`` is no text.
        ValueError: There is no such status.
    """

    status: HealthStatus
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", HealthStatus(self.status))
        if not isinstance(self.detail, str):
            raise TypeError(f"detail: must be words, not {type(self.detail).__name__}")
        object.__setattr__(self, "detail", describe_error(self.detail))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one check has found.

    Attributes:
        name: The check.
        status: How it is.
        response_time_ms: Milliseconds the check took.
        detail: Why, in words.
        checked_at: When it ended, in UTC.
        required_for_ready: Whether this process is unready while it is unhealthy.
    """

    name: str
    status: HealthStatus
    response_time_ms: float
    detail: str
    checked_at: datetime
    required_for_ready: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "status": self.status.value,
            "response_time_ms": round(self.response_time_ms, 3),
            "detail": self.detail,
            "checked_at": self.checked_at.isoformat(),
            "required_for_ready": self.required_for_ready,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The results of all checks.

    Attributes:
        checks: By name.
    """

    checks: Mapping[str, CheckResult]

    @property
    def overall_status(self) -> HealthStatus:
        """Unhealthy if a check that is required for readiness is; degraded if any other is not healthy."""
        return _overall(self.checks.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: ``overall_status`` and ``checks``."""
        return {
            "overall_status": self.overall_status.value,
            "checks": {name: result.as_dict() for name, result in self.checks.items()},
        }


def _overall(results: Iterable[CheckResult]) -> HealthStatus:
    worst = HealthStatus.HEALTHY
    for result in results:
        counts = result.status
        if counts is HealthStatus.UNHEALTHY and not result.required_for_ready:
            counts = HealthStatus.DEGRADED
        worst = min(worst, counts, key=_WORST_FIRST.index)
    return worst


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this process can take requests.

    Attributes:
        ready: Whether it can.
        reasons: Why not, in words.
    """

    ready: bool
    reasons: tuple[str, ...] = ()


def finding_of(returned: object) -> Finding:
    """What a check's return value means.

    None and True are healthy, False is unhealthy, a :class:`HealthStatus` or its word is what it says, and so
    is a :class:`Finding`.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(returned, Finding):
        return returned
    if returned is None or returned is True:
        return Finding(HealthStatus.HEALTHY)
    if returned is False:
        return Finding(HealthStatus.UNHEALTHY)
    if isinstance(returned, str):
        try:
            return Finding(HealthStatus(returned))
        except ValueError:
            pass  # said below
    # Its type only: what it is may be anything, a connection's password too.
    kind = type(returned).__name__
    raise TypeError(f"a check must return True, False, None, a HealthStatus or a Finding, not this {kind}")


def failed(error: BaseException) -> Finding:
    """What a check's exception means."""
    return Finding(HealthStatus.UNHEALTHY, describe_error(error) or type(error).__name__)
