"""The status of every service this app calls, as one JSON object for people and dashboards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flask import Blueprint, Flask, Response, jsonify

from service_utils.integrations.flask.tokens import check_operator
from service_utils.registry import ServiceRegistry

__all__ = ["mount_status"]


def mount_status(app: Flask, paths: Sequence[str], registry: Callable[[], ServiceRegistry]) -> None:
    """Answer ``GET`` on each path with the registry's status; ``production`` asks for a token first.

    Args:
        app: The app.
        paths: Absolute paths. ``url_for("service_utils.status")`` gives the first.
        registry: Asked at each request, so that clients made later are seen.
    """
    pages = Blueprint("service_utils", __name__)

    def status() -> Response:
        response = check_operator() or jsonify(registry().status())
        response.headers["Cache-Control"] = "no-store"
        return response

    for path in paths:
        pages.add_url_rule(path, "status", status)
    app.register_blueprint(pages)
