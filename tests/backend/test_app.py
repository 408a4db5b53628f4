"""The app as a whole: errors, limits, status, readiness, several apps in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import request
from flask.testing import FlaskClient

from backend.app import create_app
from backend.config import SERVICES
from tests.backend.running import Services

ROOT = Path(__file__).parents[2]
POSTS = ("/v1/api/search", "/v1/api/chat", "/v1/api/documents", "/v1/api/billing/deduct")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"nonsense", b'{"amount": NaN}', b'{"a": "\\ud800"}', b"\xff\xfe", b"[" * 5000]
)
def test_bad_json_is_400(lonely_client: FlaskClient, path: str, body: bytes) -> None:
    """A body that is no JSON is answered with problem JSON that names the body."""
    response = lonely_client.post(path, data=body, content_type="application/json")

    assert (response.status_code, response.mimetype) == (400, "application/problem+json")
    assert set(response.json) >= {"title", "status", "detail", "request_id", "field"}
    assert "Traceback" not in response.text


@pytest.mark.parametrize("path", POSTS)
def test_body_must_be_declared_as_json(lonely_client: FlaskClient, path: str) -> None:
    """A form, which any web page could send, is refused."""
    response = lonely_client.post(path, data='{"amount": 5}', content_type="text/plain")

    assert (response.status_code, response.json["field"]) == (400, "body")


@pytest.mark.parametrize("path", POSTS)
def test_body_over_the_limit_is_413(lonely_client: FlaskClient, path: str) -> None:
    """1 MiB is the limit unless somebody sets another."""
    body = b'{"query": "' + b"x" * 2**20 + b'"}'
    response = lonely_client.post(path, data=body, content_type="application/json")

    assert (response.status_code, response.mimetype) == (413, "application/problem+json")
    assert response.json["request_id"] == response.headers["X-Request-ID"]


def test_limit_can_be_set(settings: dict[str, Any]) -> None:
    """MAX_BODY_BYTES is counted exactly."""
    client = create_app({**settings, "MAX_BODY_BYTES": 100}).test_client()

    def post(size: int) -> int:
        body = b'{"query": "x", "project_id": "p"}'.ljust(size)
        return client.post("/v1/api/search", data=body, content_type="application/json").status_code

    assert (post(100), post(101)) == (200, 413)


@pytest.mark.parametrize("path", ["/", "/v1/api", "/v1/api/nothing", "/v1/api/projects/p1", "/static/x"])
def test_unknown_route_is_404(lonely_client: FlaskClient, path: str) -> None:
    """What is not there is said in problem JSON."""
    response = lonely_client.get(path)

    assert (response.status_code, response.mimetype) == (404, "application/problem+json")


def test_wrong_method_is_405(lonely_client: FlaskClient) -> None:
    """A route that is there for another method says for which."""
    response = lonely_client.get("/v1/api/search")

    assert (response.status_code, response.mimetype) == (405, "application/problem+json")
    assert "POST" in response.headers["Allow"]


def test_bug_is_a_500_without_a_stack_trace(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody thought of says nothing about itself to the outside, not even under test."""
    app = create_app({**settings, "TESTING": True})
    monkeypatch.setattr(app.extensions["backend"].index, "search", lambda *_: 1 / 0)
    monkeypatch.setattr(app.extensions["backend"].search, "run", lambda *_: 1 / 0)

    response = app.test_client().post("/v1/api/search", json={"query": "x", "project_id": "p1"})

    assert (response.status_code, response.mimetype) == (500, "application/problem+json")
    assert "division" not in response.text


def test_request_id_travels_to_the_services(client: FlaskClient, services: Services) -> None:
    """One id names a request here and at the services, and comes back in problems."""
    seen: list[str] = []

    def note() -> None:
        seen.append(request.headers["X-Request-ID"])

    services.chroma.app.before_request_funcs[None].append(note)

    body = {"query": "x", "project_id": "p1"}
    response = client.post("/v1/api/search", json=body, headers={"X-Request-ID": "my-id"})

    assert response.headers["X-Request-ID"] == "my-id"
    assert seen == ["my-id"]


@pytest.mark.parametrize("path", ["/v1/api/status/services", "/admin/service-status"])
def test_status_has_a_key_for_each_service(client: FlaskClient, path: str) -> None:
    """The recommended settings of the declared table are in force, and shown."""
    status = client.get(path).json

    assert list(status) == ["billing", "chroma", "filesystem", "git"]
    shown = {name: (each["failure_threshold"], each["recovery_timeout"]) for name, each in status.items()}
    assert shown == {"chroma": (5, 60), "filesystem": (5, 60), "billing": (10, 30), "git": (5, 90)}


def test_table_of_clients_is_in_force(tmp_path: Path) -> None:
    """Attempts, time-outs, thresholds and recovery times are those that the documentation recommends."""
    nowhere = {f"{service.prefix}_SERVER_URL": "http://127.0.0.1:9" for service in SERVICES}
    app = create_app({**nowhere, "VAR_DIR": str(tmp_path)})
    clients = app.extensions["backend"].clients
    table = {
        each.name: (each.retry.max_attempts, each.timeout, each.service_name)
        for each in (clients.chroma, clients.filesystem, clients.billing, clients.git)
    }

    assert table == {
        "chroma": (3, 15, "Chroma Server"),
        "filesystem": (3, 20, "Filesystem Server"),
        "billing": (2, 5, "Billing Server"),
        "git": (3, 30, "Git Server"),
    }


def test_environment_overrides_the_table_and_config_overrides_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CHROMA_TIMEOUT and its like are obeyed; what is given to create_app goes before them."""
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setenv("CHROMA_TIMEOUT", "7")
    monkeypatch.setenv("CHROMA_MAX_RETRIES", "6")
    monkeypatch.setenv("CHROMA_SERVER_URL", "http://vectors:1234")

    chroma = create_app({"CHROMA_MAX_RETRIES": 4}).extensions["backend"].clients.chroma

    assert (chroma.timeout, chroma.retry.max_attempts, chroma.base_url) == (7, 4, "http://vectors:1234")


def test_secrets_are_not_kept_in_the_flask_config(settings: dict[str, Any]) -> None:
    """Whoever prints app.config sees Flask's own settings alone."""
    app = create_app({**settings, "AUTH_JWT_SECRET": "s" * 32, "TESTING": True})

    assert app.config["TESTING"] is True
    assert "AUTH_JWT_SECRET" not in app.config


def test_two_apps_share_nothing(settings: dict[str, Any], services: Services, tmp_path: Path) -> None:
    """Each app has circuits of its own."""
    first = create_app(settings)
    second = create_app({**settings, "VAR_DIR": str(tmp_path / "other")})
    first.extensions["backend"].clients.chroma.breaker.force_open("a test")

    body = {"query": "x", "project_id": "p1"}
    assert first.test_client().post("/v1/api/search", json=body).json["source"] == "filesystem"
    assert second.test_client().post("/v1/api/search", json=body).json["source"] == "chroma"


@pytest.mark.parametrize("path", ["/health", "/health/", "/ready"])
def test_backend_is_ready_without_its_services(lonely_client: FlaskClient, path: str) -> None:
    """Another service being away makes the backend neither dead nor unready; it asks nobody who is there."""
    assert lonely_client.get(path).status_code == 200


def test_backend_is_not_ready_without_its_own_index(settings: dict[str, Any], tmp_path: Path) -> None:
    """What is its own has to work."""
    client = create_app(settings).test_client()
    (tmp_path / "var/backend/index.sqlite3").write_bytes(b"this is no database" * 100)

    response = client.get("/ready")

    assert (response.status_code, response.get_json()["status"]) == (503, "unready")
    assert response.get_json()["reasons"][0].startswith("index: StorageError: ")
    assert client.get("/health/live").status_code == 200


def test_production_shows_status_to_operators_only(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production the status asks for the internal or the admin token."""
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
    monkeypatch.setenv("ADMIN_TOKEN", "the-admin")
    client = create_app({**settings, "AUTH_JWT_SECRET": "s" * 32}).test_client()

    status = "/v1/api/status/services"
    assert client.get(status).status_code == 401
    assert client.get(status, headers={"Authorization": "Bearer the-admin"}).status_code == 200
    assert client.get("/ready").status_code == 200


def test_importing_the_factory_builds_nothing(tmp_path: Path) -> None:
    """The WSGI app is made when a server asks for it, once; importing create_app makes nothing."""
    code = (
        "import os, backend.app as module; from backend.app import create_app;"
        "assert not os.path.exists('var');"
        "assert module.app is module.app and os.path.exists('var');"
        "from backend.app import app; assert app is module.app; print(app.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "backend\n"), done.stderr


def test_other_names_of_the_module_are_missing_as_usual() -> None:
    """A mistyped name is an AttributeError."""
    import backend.app

    with pytest.raises(AttributeError, match="application"):
        _ = backend.app.application
