"""The status page of all services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, url_for

from service_utils import ResilientServiceClient
from service_utils.integrations.flask import ServiceUtils
from service_utils.registry import ServiceRegistry

PATHS = ("/v1/api/status/services", "/admin/service-status")


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    """A registry with two services."""
    registry = ServiceRegistry()
    for name, service_name in (("chroma", "Chroma Server"), ("git", "Git Server")):
        ResilientServiceClient("http://127.0.0.1:1", service_name, name=name, registry=registry)
    yield registry
    registry.close()


def make_app(registry: ServiceRegistry, **options: Any) -> Flask:
    """An app that shows them."""
    app = Flask("status")
    ServiceUtils(app, registry, **options)
    return app


@pytest.mark.parametrize("path", PATHS)
def test_every_service_is_shown_by_name(registry: ServiceRegistry, path: str) -> None:
    """Both addresses show one entry per registered client, and no cache keeps it."""
    response = make_app(registry).test_client().get(path)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    body = response.get_json()
    assert list(body) == ["chroma", "git"]
    assert body["chroma"]["service"] == "Chroma Server"
    assert body["chroma"]["state"] == "closed"


def test_clients_made_later_are_shown(registry: ServiceRegistry) -> None:
    """The page shows the clients of this moment, not those of the start."""
    client = make_app(registry).test_client()
    ResilientServiceClient("http://127.0.0.1:1", "Billing", name="billing", registry=registry)
    assert "billing" in client.get(PATHS[0]).get_json()
    registry["git"].close()
    assert "git" not in client.get(PATHS[0]).get_json()


def test_one_that_fails_leaves_the_others_alone(
    registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose status raises says so in its place; the page is not lost."""

    def fail() -> dict[str, Any]:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(registry["git"], "get_status", fail)
    response = make_app(registry).test_client().get(PATHS[0])
    body = response.get_json()
    assert response.status_code == 200
    assert body["chroma"]["state"] == "closed"
    assert body["git"]["service"] == "Git Server"
    assert "hunter2" not in response.text


@pytest.mark.parametrize("path", PATHS)
def test_production_asks_for_a_token(
    registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """In production strangers are refused; the internal and the admin token open."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "token-1")
    monkeypatch.setenv("ADMIN_TOKEN", "admin-1")
    client = make_app(registry).test_client()
    refused = client.get(path)
    assert (refused.status_code, refused.content_type) == (401, "application/problem+json")
    assert refused.headers["Cache-Control"] == "no-store"
    assert "chroma" not in refused.text
    assert client.get(path, headers={"X-INTERNAL-TOKEN": "token-1"}).status_code == 200
    assert client.get(path, headers={"Authorization": "Bearer admin-1"}).status_code == 200


def test_it_can_be_mounted_elsewhere(registry: ServiceRegistry) -> None:
    """``status_paths`` moves the page, and ``url_for`` finds it."""
    app = make_app(registry, status_paths=["/ops/services"])
    client = app.test_client()
    assert client.get("/ops/services").status_code == 200
    assert [client.get(path).status_code for path in PATHS] == [404, 404]
    with app.test_request_context():
        assert url_for("service_utils.status") == "/ops/services"


def test_it_only_answers_get(registry: ServiceRegistry) -> None:
    """Nothing can be changed through the page."""
    assert make_app(registry).test_client().post(PATHS[0]).status_code == 405
