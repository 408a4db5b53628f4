"""The Flask extension: what every app that calls services needs, in one line."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from flask import Flask

from service_utils.dead_letters import DeadLetterQueue
from service_utils.integrations.flask.admin import mount_admin
from service_utils.integrations.flask.commands import mount_commands
from service_utils.integrations.flask.degradation import mount_degradation
from service_utils.integrations.flask.health import mount_health
from service_utils.integrations.flask.inbound import Inbound
from service_utils.integrations.flask.metrics import mount_metrics
from service_utils.integrations.flask.options import Options
from service_utils.integrations.flask.pages import mount_status_page
from service_utils.integrations.flask.problems import register_problem_handlers
from service_utils.integrations.flask.status import mount_status
from service_utils.integrations.flask.tokens import set_token_verifiers
from service_utils.operating import AuditLog, MemoryHistory, OperatorDesk, Recorder
from service_utils.profiles import current_profile
from service_utils.registry import ServiceRegistry, default_registry
from service_utils.sharing import leader_of, shared_store

__all__ = ["Options", "ServiceUtils"]

_EXTENSION = "service_utils"


class ServiceUtils:
    """The extension. One may serve several apps, and an app may be made long after it (``init_app``).

    A streamed body (a generator) is made after Flask has ended the request. It sees the request's id,
    deadline and trace all the same; only ``X-Degraded`` cannot tell of a fallback then: the head has left.

    Args:
        app: The app, or None.
        registry: The services whose status is shown; None for the process's own registry.
        **options: The fields of :class:`Options`.

    Attributes:
        options: The options.
        desk: What operators see and do; the admin API and the status page show it.
        recorder: Keeps the history for it.

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
        self.desk = self._make_desk()
        leader = leader_of(shared_store())
        self.recorder = Recorder(
            self.desk.registry,
            self.desk.history,
            leads=_always if leader is None else leader.leads,
        )
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
        if options.degradation is not None:
            mount_degradation(app, options.degradation)
        self._mount_pages(app)
        if options.record:
            app.before_request(self._record)
        app.extensions[_EXTENSION] = self

    def _mount_pages(self, app: Flask) -> None:
        """What operators and their tools look at."""
        options = self.options
        if options.status_paths:
            mount_status(app, options.status_paths, lambda: self.registry)
        if options.health is not None:
            mount_health(
                app,
                options.health,
                registry=lambda: self.registry,
                degradation=options.degradation,
                dead_letters=options.dead_letters,
                prefix=options.health_prefix,
            )
        if options.admin:
            mount_admin(app, self.desk, prefix=options.admin_prefix, clock=options.clock)
        if options.status_page is not None:
            mount_status_page(app, self.desk, path=options.status_page, clock=options.clock)
        if options.cli:
            mount_commands(app, self.desk, self.recorder)
        if options.metrics is not None:
            mount_metrics(app, options.metrics_path, options.metrics)

    def _make_desk(self) -> OperatorDesk:
        options = self.options
        letters = options.dead_letters
        return OperatorDesk(
            registry=lambda: self.registry,
            degradation=options.degradation,
            dead_letters=letters if isinstance(letters, DeadLetterQueue) else None,
            health=options.health,
            history=MemoryHistory() if options.history is None else options.history,
            audit=AuditLog(clock=options.clock) if options.audit is None else options.audit,
            clock=options.clock,
        )

    def _record(self) -> None:
        if not self.recorder.running:
            self.recorder.start()

    def _inbound(self) -> Inbound:
        options = self.options
        return Inbound(
            context=options.context,
            degraded_header=options.degraded_header,
            request_deadline=options.request_deadline,
            trust_deadline=options.trust_deadline,
            clock=options.clock,
        )


def _always() -> bool:
    return True
