"""The health endpoints: what they answer, to whom, and what they never touch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.dead_letters import DeadLetterQueue, MemoryDeadLetters
from service_utils.health import Finding, HealthChecker, HealthStatus
from service_utils.integrations.flask.health import mount_health
from service_utils.storage import StorageError
from tests.side_by_side import PATIENCE

TOKEN = "a-token-that-is-long-enough"
PAGES = ["/health", "/health/", "/health/live", "/health/ready"]
OPERATORS = ["/health/detailed", "/health/circuit-breakers", "/health/degradation", "/health/dlq"]


class Levels:
    def get_status(self) -> dict[str, Any]:
        return {"level": "minor"}


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    registry = ServiceRegistry()
    ResilientServiceClient("http://127.0.0.1:9", name="chroma", registry=registry)
    yield registry
    registry.close()


@pytest.fixture
def checker() -> HealthChecker:
    return HealthChecker(cache_seconds=0)


@pytest.fixture
def client(registry: ServiceRegistry, checker: HealthChecker) -> FlaskClient:
    app = Flask(__name__)
    queue = DeadLetterQueue(MemoryDeadLetters())
    mount_health(app, checker, registry=lambda: registry, degradation=Levels(), dead_letters=queue)
    return app.test_client()


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_UTILS_PROFILE", "production")
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", TOKEN)


@pytest.mark.parametrize("method", ["get", "head"])
@pytest.mark.parametrize("path", PAGES + OPERATORS)
def test_all_seven_answer(client: FlaskClient, path: str, method: str) -> None:
    """Each path answers at once, without a redirect, and is never kept by a cache on the way."""
    response = getattr(client, method)(path)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.is_json


def test_words(client: FlaskClient) -> None:
    """What probes look at is one word."""
    assert [client.get(path).get_json() for path in PAGES] == [
        {"status": "healthy"},
        {"status": "healthy"},
        {"status": "alive"},
        {"status": "ready"},
    ]


def test_another_service_is_away(client: FlaskClient, checker: HealthChecker) -> None:
    """That makes this one degraded, and takes no pod out of the load balancer."""
    checker.register("chroma", lambda: False)
    assert client.get("/health").get_json() == {"status": "degraded"}
    assert [client.get(path).status_code for path in PAGES] == [200] * 4


def test_our_own_database_is_away(client: FlaskClient, checker: HealthChecker) -> None:
    """That makes this one unready, and says why; it is alive all the same."""
    checker.register("database", lambda: Finding(HealthStatus.UNHEALTHY, "locked"), required_for_ready=True)
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.get_json()) == (
        503,
        {"status": "unready", "reasons": ["database: locked"]},
    )
    assert client.get("/health").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_draining(client: FlaskClient, checker: HealthChecker) -> None:
    """A process about to end gets no new requests."""
    checker.drain()
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_liveness_depends_on_nothing(client: FlaskClient, checker: HealthChecker) -> None:
    """No check is run for it: a hanging dependency must not have the process killed."""
    checker.register("it", lambda: pytest.fail("it was run"), required_for_ready=True)
    assert client.get("/health/live").status_code == 200
    assert checker.last().checks == {}


def test_probes_while_another_service_hangs(client: FlaskClient, checker: HealthChecker) -> None:
    """Liveness and readiness answer at once, while the page that asks everything waits for it."""
    asked, go = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        go.wait(PATIENCE)

    checker.register("chroma", hang, timeout=PATIENCE)
    waiting = threading.Thread(target=client.application.test_client().get, args=("/health",))
    waiting.start()
    try:
        assert asked.wait(PATIENCE)
        assert [client.get(path).status_code for path in ("/health/live", "/health/ready")] == [200, 200]
        assert waiting.is_alive()
    finally:
        go.set()
        waiting.join(PATIENCE)


def test_starting(registry: ServiceRegistry) -> None:
    """A process that warms up is alive, and gets its first request when it says that it has started."""
    app, checker = Flask(__name__), HealthChecker(starting=True)
    mount_health(app, checker, registry=lambda: registry)
    client = app.test_client()
    assert client.get("/health/ready").get_json() == {"status": "unready", "reasons": ["starting"]}
    assert client.get("/health/live").status_code == 200
    checker.started()
    assert client.get("/health/ready").status_code == 200


def test_nothing_can_be_changed(client: FlaskClient) -> None:
    """The pages are for reading only."""
    assert {client.post(path).status_code for path in PAGES + OPERATORS} == {405}


def test_detailed(client: FlaskClient, checker: HealthChecker) -> None:
    """Operators see every check with its time, its detail and its last results."""
    checker.register("it", lambda: Finding(HealthStatus.DEGRADED, "slow"))
    client.get("/health")
    found = client.get("/health/detailed").get_json()
    assert (found["overall_status"], found["ready"]) == ("degraded", True)
    assert found["checks"]["it"]["detail"] == "slow"
    assert [each["status"] for each in found["checks"]["it"]["history"]] == ["degraded", "degraded"]


def test_circuits_levels_and_letters(client: FlaskClient) -> None:
    """The circuits, the level and the numbers of the dead letters."""
    assert client.get("/health/circuit-breakers").get_json()["chroma"]["state"] == "closed"
    assert client.get("/health/degradation").get_json() == {"level": "minor"}
    assert client.get("/health/dlq").get_json()["letters"] == 0


def test_what_an_app_does_not_have(registry: ServiceRegistry, checker: HealthChecker) -> None:
    """Without a monitor or a queue the page says so."""
    app = Flask(__name__)
    mount_health(app, checker, registry=lambda: registry)
    for path in ("/health/degradation", "/health/dlq"):
        response = app.test_client().get(path)
        assert (response.status_code, response.mimetype) == (404, "application/problem+json")


class Damaged:
    """A queue or a monitor whose file or server is away."""

    def stats(self) -> dict[str, Any]:
        raise StorageError("/var/lib/letters.db: file is not a database")

    def get_status(self) -> dict[str, Any]:
        raise ConnectionError("redis://:hunter2@10.0.0.7 refused")


@pytest.mark.parametrize("path", ["/health/dlq", "/health/degradation"])
def test_what_cannot_be_told(registry: ServiceRegistry, checker: HealthChecker, path: str) -> None:
    """A damaged file, a server that is away: 503, and neither path nor address is shown."""
    app = Flask(__name__)
    mount_health(app, checker, registry=lambda: registry, dead_letters=Damaged(), degradation=Damaged())
    response = app.test_client().get(path)
    assert (response.status_code, response.mimetype) == (503, "application/problem+json")
    assert response.headers["Cache-Control"] == "no-store"
    assert "/var/lib" not in response.text
    assert "10.0.0.7" not in response.text


def test_a_view_at_another_address(registry: ServiceRegistry, checker: HealthChecker) -> None:
    """An app may show readiness at an old address, too; no cache keeps it there either."""
    app = Flask(__name__)
    mount_health(app, checker, registry=lambda: registry)
    app.add_url_rule("/ready", "ready", app.view_functions["service_utils_health.ready"])
    response = app.test_client().get("/ready")
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")


def test_strangers_in_production(production: None, client: FlaskClient, checker: HealthChecker) -> None:
    """In production strangers read words only, and nothing at all of what is for operators."""
    checker.register("database", lambda: Finding(HealthStatus.UNHEALTHY, "10.0.0.7"), required_for_ready=True)
    assert client.get("/health/ready").get_json() == {"status": "unready"}
    assert [client.get(path).status_code for path in OPERATORS] == [401] * 4
    for path in PAGES + OPERATORS:
        assert "10.0.0.7" not in client.get(path).text


@pytest.mark.parametrize("headers", [{"X-INTERNAL-TOKEN": TOKEN}, {"Authorization": "Bearer admin-token"}])
def test_operators_in_production(
    production: None, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """The internal or the admin token opens what is for operators, a wrong one does not."""
    monkeypatch.setenv("ADMIN_TOKEN", "admin-token")
    wrong = {name: f"{value}x" for name, value in headers.items()}
    assert [client.get(path, headers=wrong).status_code for path in OPERATORS] == [401] * 4
    assert [client.get(path, headers=headers).status_code for path in OPERATORS] == [200] * 4


def test_another_place(registry: ServiceRegistry, checker: HealthChecker) -> None:
    """The pages can be mounted elsewhere, in several apps of one process."""
    for prefix in ("/internal/health", "/status/"):
        app = Flask(__name__)
        mount_health(app, checker, registry=lambda: registry, prefix=prefix)
        assert app.test_client().get(f"{prefix.rstrip('/')}/live").status_code == 200


@pytest.mark.parametrize("prefix", ["", "/", "health", 7])
def test_bad_prefix(registry: ServiceRegistry, checker: HealthChecker, prefix: Any) -> None:
    """A prefix that would take the whole app is refused."""
    with pytest.raises(ValueError, match="prefix="):
        mount_health(Flask(__name__), checker, registry=lambda: registry, prefix=prefix)
