"""The options of the Flask extension, checked at birth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service_utils.clock import SYSTEM, Clock
from service_utils.degradation import DegradationMonitor
from service_utils.health import HealthChecker
from service_utils.integrations.flask.health import Letters
from service_utils.integrations.flask.metrics import MetricsSource
from service_utils.integrations.flask.tokens import Verifier
from service_utils.operating import AuditLog, History

__all__ = ["Options"]

_SWITCHES = ("error_handlers", "context", "degraded_header", "trust_deadline", "admin", "cli", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of :class:`ServiceUtils`.

    Attributes:
        error_handlers: Errors become problem JSON, as
            :func:`~service_utils.integrations.flask.problems.register_problem_handlers` says.
        context: Each request's id, time left and trace are bound for the calls made on its behalf;
            the id goes back as ``X-Request-ID``.
        degraded_header: An answer made with the help of a fallback carries ``X-Degraded: true``.
        status_paths: Where the status of all services is shown; empty for nowhere.
        request_deadline: Seconds a request has unless a caller who is believed gives others; None: no limit.
        trust_deadline: ``X-Request-Timeout-Ms`` is believed without an internal token, too.
        token_verifiers: What judges internal tokens; None for the plain token alone.
        health: The checks behind the health endpoints; None: there are none of these.
        health_prefix: Where they are.
        degradation: The monitor that ``@requires_level`` and ``/health/degradation`` ask. It is not started.
        dead_letters: The queue whose numbers ``/health/dlq`` shows. A ``DeadLetterQueue`` operators can also
            look through, retry and purge.
        admin: The admin API is there; it answers 404 while ``ADMIN_TOKEN`` is not set.
        admin_prefix: Where it is.
        status_page: Where the status page is; None for nowhere.
        cli: ``flask services``, ``dlq``, ``degradation`` and ``reliability`` are there.
        history: Where changes of state and counts are kept for the status page and the report; None keeps
            them in the memory of each process.
        record: They are kept: by a thread, which the first request of each process begins.
        audit: Where acts of operators are kept; None keeps the last ones in the memory of each process.
        metrics: What Prometheus reads, a ``service_utils.integrations.prometheus.Metrics``, which counts from
            then on; None: there is no such page.
        metrics_path: Where it is.
        clock: The clock of deadlines.

    Raises:
        TypeError: An option is of the wrong type; the message names it.
        ValueError: An option has an impossible value; the message names it.
    """

    error_handlers: bool = True
    context: bool = True
    degraded_header: bool = True
    status_paths: Sequence[str] = ("/v1/api/status/services", "/admin/service-status")
    request_deadline: float | None = 25.0
    trust_deadline: bool = False
    token_verifiers: Sequence[Verifier] | None = None
    health: HealthChecker | None = None
    health_prefix: str = "/health"
    degradation: DegradationMonitor | None = None
    dead_letters: Letters | None = None
    admin: bool = True
    admin_prefix: str = "/admin/reliability"
    status_page: str | None = "/status"
    cli: bool = True
    history: History | None = None
    record: bool = True
    audit: AuditLog | None = None
    metrics: MetricsSource | None = None
    metrics_path: str = "/metrics"
    clock: Clock = SYSTEM

    def __post_init__(self) -> None:
        for name in (
            "error_handlers",
            "context",
            "degraded_header",
            "trust_deadline",
            "admin",
            "cli",
            "record",
        ):
            _check_switch(name, getattr(self, name))
        _check_paths(self.status_paths)
        _check_seconds("request_deadline", self.request_deadline)
        if self.health is not None and not isinstance(self.health, HealthChecker):
            raise TypeError(f"health={self.health!r}: must be a HealthChecker")
        if self.dead_letters is not None and not callable(getattr(self.dead_letters, "stats", None)):
            raise TypeError(f"dead_letters={self.dead_letters!r}: must have a method stats()")
        if self.history is not None and not callable(getattr(self.history, "add", None)):
            raise TypeError(f"history={self.history!r}: must be a History, with a method add()")
        if self.audit is not None and not isinstance(self.audit, AuditLog):
            raise TypeError(f"audit={self.audit!r}: must be an AuditLog")
        if self.metrics is not None and not isinstance(self.metrics, MetricsSource):
            raise TypeError(f"metrics={self.metrics!r}: must be a Metrics, with listen() and exposition()")
        _check_page("metrics_path", self.metrics_path)
        if not isinstance(self.clock, Clock):
            raise TypeError(f"clock={self.clock!r}: must have monotonic(), now(), sleep() and async_sleep()")


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: must be True or False")


def _check_paths(paths: object) -> None:
    if isinstance(paths, str) or not isinstance(paths, Sequence):
        raise TypeError(f"status_paths={paths!r}: must be a sequence of paths")
    for path in paths:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(f"status_paths={paths!r}: {path!r} must be a path that starts with a slash")
    if len(set(paths)) < len(paths):
        raise ValueError(f"status_paths={paths!r}: names a path twice")


def _check_page(name: str, path: object) -> None:
    if not isinstance(path, str):
        raise TypeError(f"{name}={path!r}: must be a path")
    if not path.startswith("/") or not path.strip("/"):
        raise ValueError(f"{name}={path!r}: must be a path below the root, such as /metrics")


def _check_seconds(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: must be a number of seconds or None")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}: must be a finite number > 0")
