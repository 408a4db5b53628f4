"""The page of the Flask extension."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, url_for

from service_utils import ServiceRegistry
from service_utils.integrations.flask import ServiceUtils
from service_utils.integrations.flask.metrics import mount_metrics
from service_utils.integrations.prometheus import Metrics


def make_app(**options: Any) -> Flask:
    app = Flask("shop")
    registry = ServiceRegistry()
    ServiceUtils(app, registry=registry, metrics=Metrics(registry), record=False, **options)
    return app


def test_the_page() -> None:
    """It has the type that Prometheus wants, nobody keeps it, and it begins to count by being there."""
    app = make_app()
    response = app.test_client().get("/metrics")
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain; version=")
    assert response.headers["Cache-Control"] == "no-store"
    assert app.extensions["service_utils"].options.metrics.listening
    wanted = app.test_client().get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert wanted.content_type.startswith("application/openmetrics-text")
    assert app.test_client().post("/metrics").status_code == 405


def test_production_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """In production strangers are refused; the internal and the admin token open."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "token-1")
    monkeypatch.setenv("ADMIN_TOKEN", "admin-1")
    client = make_app().test_client()
    refused = client.get("/metrics")
    assert (refused.status_code, refused.content_type) == (401, "application/problem+json")
    assert refused.headers["Cache-Control"] == "no-store"
    assert "circuit_breaker" not in refused.text
    assert client.get("/metrics", headers={"X-INTERNAL-TOKEN": "token-1"}).status_code == 200
    assert client.get("/metrics", headers={"Authorization": "Bearer admin-1"}).status_code == 200


def test_elsewhere_or_nowhere() -> None:
    """``metrics_path`` moves the page; without metrics there is none."""
    app = make_app(metrics_path="/ops/metrics")
    assert app.test_client().get("/ops/metrics").status_code == 200
    assert app.test_client().get("/metrics").status_code == 404
    with app.test_request_context():
        assert url_for("service_utils_metrics.metrics") == "/ops/metrics"
    bare = Flask("bare")
    ServiceUtils(bare, registry=ServiceRegistry(), record=False)
    assert bare.test_client().get("/metrics").status_code == 404


@pytest.mark.parametrize("path", ["metrics", "/", ""])
def test_a_path_that_is_none(path: str) -> None:
    """The error names the argument and the value."""
    with pytest.raises(ValueError, match=f"metrics_path='{path}'"):
        make_app(metrics_path=path)
    with pytest.raises(ValueError, match=f"path='{path}'"):
        mount_metrics(Flask("shop"), path, Metrics(ServiceRegistry()))


def test_metrics_that_are_none() -> None:
    """What cannot show a page is refused when the app is made."""
    with pytest.raises(TypeError, match="metrics=3"):
        ServiceUtils(Flask("shop"), metrics=3)
    with pytest.raises(TypeError, match="metrics_path=3"):
        ServiceUtils(Flask("shop"), metrics_path=3)
