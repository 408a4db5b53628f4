"""How the results of checks become known: an event for each, a log line for each change."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from service_utils.clock import Clock
from service_utils.events import HealthChecked, Listener, notify
from service_utils.health.result import CheckResult, HealthStatus

__all__ = ["Teller"]

_logger = logging.getLogger("service_utils")


@dataclass(frozen=True, slots=True)
class Teller:
    """Called with each result and the one before it, outside all locks.

    Attributes:
        name: The ``name`` and ``service`` of events.
        listeners: Told before those of the process.
        clock: Tells the time of events.
    """

    name: str
    listeners: Sequence[Listener]
    clock: Clock

    def __call__(self, result: CheckResult, before: CheckResult | None) -> None:
        """Tell it."""
        _log_change(result, HealthStatus.HEALTHY if before is None else before.status)
        event = HealthChecked(
            service=self.name,
            name=self.name,
            at=self.clock.monotonic(),
            check=result.name,
            status=result.status.value,
            duration=result.response_time_ms / 1000,
            detail=result.detail,
        )
        notify(self.listeners, event)


def _log_change(result: CheckResult, before: HealthStatus) -> None:
    if result.status is before:
        return
    level = logging.INFO if result.status is HealthStatus.HEALTHY else logging.WARNING
    why = f" ({result.detail})" if result.detail else ""
    _logger.log(level, "Health check %s %s -> %s%s", result.name, before.value, result.status.value, why)
