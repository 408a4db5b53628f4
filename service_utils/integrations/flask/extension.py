"""The Flask extension: what every app that calls services needs, in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from flask import Flask

from service_utils.clock import SYSTEM, Clock
from service_utils.degradation import DegradationMonitor
from service_utils.health import HealthChecker
from service_utils.integrations.flask.degradation import mount_degradation
from service_utils.integrations.flask.health import Letters, mount_health
from service_utils.integrations.flask.inbound import Inbound
from service_utils.integrations.flask.problems import register_problem_handlers
from service_utils.integrations.flask.status import mount_status
from service_utils.integrations.flask.tokens import Verifier, set_token_verifiers
from service_utils.profiles import current_profile
from service_utils.registry import ServiceRegistry, default_registry

__all__ = ["Options", "ServiceUtils"]

_EXTENSION = "service_utils"


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
        dead_letters: The queue whose numbers ``/health/dlq`` shows.
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
    clock: Clock = SYSTEM

    def __post_init__(self) -> None:
        for name in ("error_handlers", "context", "degraded_header", "trust_deadline"):
            _check_switch(name, getattr(self, name))
        _check_paths(self.status_paths)
        _check_seconds("request_deadline", self.request_deadline)
        if self.health is not None and not isinstance(self.health, HealthChecker):
            raise TypeError(f"health={self.health!r}: must be a HealthChecker")
        if self.dead_letters is not None and not callable(getattr(self.dead_letters, "stats", None)):
            raise TypeError(f"dead_letters={self.dead_letters!r}: must have a method stats()")
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


def _check_seconds(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: must be a number of seconds or None")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value!r}: must be a finite number > 0")


class ServiceUtils:
    """The extension. One may serve several apps, and an app may be made long after it (``init_app``).

    A streamed body (a generator) is made after Flask has ended the request. It sees the request's id,
    deadline and trace all the same; only ``X-Degraded`` cannot tell of a fallback then: the head has left.

    Args:
        app: The app, or None.
        registry: The services whose status is shown; None for the process's own registry.
        **options: The fields of :class:`Options`.

    Raises:
        TypeError: There is no such option, or it is of the wrong type.
        ValueError: An option has an impossible value, or the app has this extension already.
    """

    def __init__(
        self, app: Flask | None = None, registry: ServiceRegistry | None = None, **options: Any
    ) -> None:
        known = {each.name for each in fields(Options)}
        for name in options:
            if name not in known:
                raise TypeError(f"ServiceUtils has no option {name!r}; it has {', '.join(sorted(known))}")
        self.options = Options(**options)
        self._registry = registry
        if app is not None:
            self.init_app(app)

    @property
    def registry(self) -> ServiceRegistry:
        """The registry whose services are shown."""
        return self._registry if self._registry is not None else default_registry()

    def init_app(self, app: Flask) -> None:
        """Put the chosen parts into an app, before its first request.

        Raises:
            ValueError: The app has this extension already, or ``SERVICE_UTILS_PROFILE`` names no profile.
        """
        if _EXTENSION in app.extensions:
            raise ValueError(f"app={app!r}: has the extension service_utils already")
        current_profile()
        options = self.options
        if options.token_verifiers is not None:
            set_token_verifiers(app, options.token_verifiers)
        if options.error_handlers:
            register_problem_handlers(app, clock=options.clock)
        if options.context or options.degraded_header:
            self._inbound().mount(app)
        if options.status_paths:
            mount_status(app, options.status_paths, lambda: self.registry)
        if options.degradation is not None:
            mount_degradation(app, options.degradation)
        if options.health is not None:
            mount_health(
                app,
                options.health,
                registry=lambda: self.registry,
                degradation=options.degradation,
                dead_letters=options.dead_letters,
                prefix=options.health_prefix,
            )
        app.extensions[_EXTENSION] = self

    def _inbound(self) -> Inbound:
        options = self.options
        return Inbound(
            context=options.context,
            degraded_header=options.degraded_header,
            request_deadline=options.request_deadline,
            trust_deadline=options.trust_deadline,
            clock=options.clock,
        )
