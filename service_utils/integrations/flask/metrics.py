"""The page that Prometheus reads."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flask import Blueprint, Flask, Response, request

from service_utils.integrations.flask.tokens import check_operator

__all__ = ["MetricsSource", "mount_metrics"]


@runtime_checkable
class MetricsSource(Protocol):
    """Whose metrics are shown: a :class:`service_utils.integrations.prometheus.Metrics`."""

    def listen(self) -> None:
        """Count from now on."""
        ...

    def exposition(self, accept_header: str | None = None) -> tuple[bytes, str]:
        """All metrics and their content type, as the request's ``Accept`` wants them."""
        ...


def mount_metrics(app: Flask, path: str, metrics: MetricsSource) -> None:
    """Answer ``GET`` with the metrics, which count from now on; ``production`` asks for a token first.

    Args:
        app: The app.
        path: Absolute path, such as ``/metrics``.
        metrics: Whose.

    Raises:
        ValueError: ``path`` is no path below the root.
    """
    if not isinstance(path, str) or not path.startswith("/") or not path.strip("/"):
        raise ValueError(f"path={path!r}: must be a path such as /metrics")
    pages = Blueprint("service_utils_metrics", __name__)

    def show() -> Response:
        response = check_operator() or _page(metrics)
        response.headers["Cache-Control"] = "no-store"
        return response

    pages.add_url_rule(path, "metrics", show)
    app.register_blueprint(pages)
    metrics.listen()


def _page(metrics: MetricsSource) -> Response:
    body, content_type = metrics.exposition(request.headers.get("Accept"))
    return Response(body, content_type=content_type)
