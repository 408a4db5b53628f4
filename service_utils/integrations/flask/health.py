"""The health endpoints: for load balancers and Kubernetes, and in more detail for operators."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from flask import Blueprint, Flask, Response, jsonify

from service_utils.health import HealthChecker, HealthStatus
from service_utils.integrations.flask.problems import problem
from service_utils.integrations.flask.tokens import check_operator
from service_utils.profiles import current_profile
from service_utils.registry import ServiceRegistry

__all__ = ["Letters", "Levels", "health_blueprint", "mount_health"]

_logger = logging.getLogger("service_utils")


class Levels(Protocol):
    """What ``/health/degradation`` shows: a :class:`~service_utils.degradation.DegradationMonitor`."""

    def get_status(self) -> dict[str, Any]:
        """JSON-ready."""
        ...


class Letters(Protocol):
    """What ``/health/dlq`` shows: a :class:`~service_utils.dead_letters.DeadLetterQueue`."""

    def stats(self) -> dict[str, Any]:
        """JSON-ready."""
        ...


def mount_health(
    app: Flask,
    checker: HealthChecker,
    *,
    registry: Callable[[], ServiceRegistry],
    degradation: Levels | None = None,
    dead_letters: Letters | None = None,
    prefix: str = "/health",
) -> None:
    """Put the endpoints into an app; see :func:`health_blueprint`.

    Raises:
        ValueError: ``prefix`` is no path below the root.
    """
    pages = health_blueprint(
        checker, registry=registry, degradation=degradation, dead_letters=dead_letters, prefix=prefix
    )
    app.register_blueprint(pages)


def health_blueprint(
    checker: HealthChecker,
    *,
    registry: Callable[[], ServiceRegistry],
    degradation: Levels | None = None,
    dead_letters: Letters | None = None,
    prefix: str = "/health",
) -> Blueprint:
    """The endpoints below a prefix.

    ===================== ====================================== ====================================
    below the prefix      200                                    another status
    ===================== ====================================== ====================================
    nothing, ``/``        works, perhaps degraded                503: something of our own is unhealthy
    ``/live``             the process answers; nothing is asked  none
    ``/ready``            can take requests                      503: starting, draining, or our own
    ``/detailed``         all checks with times and details      401
    ``/circuit-breakers`` all circuits                           401
    ``/degradation``      level, reasons, history                401; 404: no monitor; 503: no answer
    ``/dlq``              numbers of the dead letters            401; 404: no queue; 503: no answer
    ===================== ====================================== ====================================

    401: in profile ``production``, without the internal or the admin token.
    In profile ``production`` the first three say status words only.

    Args:
        checker: Whose checks.
        registry: Whose circuits; asked at each request.
        degradation: The monitor, or None.
        dead_letters: The queue, or None.
        prefix: Where.

    Raises:
        ValueError: ``prefix`` is no path below the root.
    """
    if not isinstance(prefix, str) or not prefix.startswith("/") or not prefix.strip("/"):
        raise ValueError(f"prefix={prefix!r}: must be a path such as /health")
    pages = _Pages(checker, registry, degradation, dead_letters)
    blueprint = Blueprint("service_utils_health", __name__)
    root = prefix.rstrip("/")
    basic = _never_cached(pages.basic)
    for path in (root, f"{root}/"):
        blueprint.add_url_rule(path, "basic", basic)
    blueprint.add_url_rule(f"{root}/live", "live", _never_cached(pages.live))
    blueprint.add_url_rule(f"{root}/ready", "ready", _never_cached(pages.ready))
    for name, page in (
        ("detailed", pages.detailed),
        ("circuit-breakers", pages.circuits),
        ("degradation", pages.levels),
        ("dlq", pages.letters),
    ):
        view = _never_cached(_for_operators(page))
        blueprint.add_url_rule(f"{root}/{name}", name.replace("-", "_"), view)
    return blueprint


@dataclass(frozen=True, slots=True)
class _Pages:
    checker: HealthChecker
    registry: Callable[[], ServiceRegistry]
    degradation: Levels | None
    dead_letters: Letters | None

    def basic(self) -> Response:
        status = self.checker.check_all().overall_status
        return _answer(status is not HealthStatus.UNHEALTHY, status.value)

    def live(self) -> Response:
        return _answer(True, "alive")

    def ready(self) -> Response:
        found = self.checker.ready()
        if found.ready:
            return _answer(True, "ready")
        return _answer(False, "unready", {"reasons": list(found.reasons)})

    def detailed(self) -> Response:
        report = self.checker.check_all().as_dict()
        histories = self.checker.histories()
        for name, check in report["checks"].items():
            check["history"] = [each.as_dict() for each in histories.get(name, ())]
        return jsonify(**report, ready=self.checker.ready().ready)

    def circuits(self) -> Response:
        return jsonify(self.registry().get_circuit_stats())

    def levels(self) -> Response:
        if self.degradation is None:
            return problem(404, detail="This app has no degradation monitor.")
        return _told("The level of degradation", self.degradation.get_status)

    def letters(self) -> Response:
        if self.dead_letters is None:
            return problem(404, detail="This app has no queue of dead letters.")
        return _told("The number of dead letters", self.dead_letters.stats)


def _for_operators(view: Callable[[], Response]) -> Callable[[], Response]:
    return lambda: check_operator() or view()


def _told(what: str, ask: Callable[[], dict[str, Any]]) -> Response:
    try:
        return jsonify(ask())
    except Exception:  # a store's file or server; its words can name paths and hosts
        _logger.exception("%s cannot be told", what)
        return problem(503, detail=f"{what} cannot be told at the moment; the log says why.")


def _answer(good: bool, word: str, more: dict[str, Any] | None = None) -> Response:
    hidden = current_profile().secrets_required  # in production, where strangers may read it
    response = jsonify(status=word, **({} if hidden else more or {}))
    response.status_code = 200 if good else 503
    return response


def _never_cached(view: Callable[[], Response]) -> Callable[[], Response]:
    # Not by the blueprint: an app may show a view at another address, too.
    def uncached() -> Response:
        response = view()
        response.headers["Cache-Control"] = "no-store"
        return response

    return uncached
