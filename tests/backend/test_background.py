"""What the backend does besides answering: letters delivered later, levels, health, and routes protected."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.context import EXTENSION, Backend
from service_utils.degradation import DegradationLevel
from tests.backend.running import Fault, Services

CHAT = {"message": "What is a bulkhead?", "project_id": "p1"}
DOCUMENTS = {"project_id": "p1", "documents": [{"id": "a", "text": "A bulkhead keeps a ship afloat."}]}


@pytest.fixture
def parts(app: Flask) -> Backend:
    found: Backend = app.extensions[EXTENSION]
    return found


def close_circuits(parts: Backend) -> None:
    """As after the recovery time."""
    parts.clients.registry.reset_all_circuits()


def test_a_snapshot_is_made_up_for(client: FlaskClient, parts: Backend, services: Services) -> None:
    """While Git is away the answer says so; when it is back the snapshot is made, once."""
    services.git.stop()
    answer = client.post("/v1/api/documents", json=DOCUMENTS).get_json()
    assert (answer["snapshot"], answer["degraded"]) == (None, True)
    (letter,) = parts.dead_letters.list("git")
    assert (letter.method, letter.path) == ("POST", "/snapshot/p1")

    services.git.start()
    close_circuits(parts)
    assert parts.background.worker.run_once()["delivered"] == 1
    assert parts.dead_letters.stats()["letters"] == 0
    assert services.git.paths() == ["/snapshot/p1"]


def test_a_capture_in_doubt_is_settled(client: FlaskClient, parts: Backend, services: Services) -> None:
    """An answer whose price nobody confirmed is paid for once, when Billing is heard again."""
    services.billing.fail("/capture", Fault.LOST)
    answer = client.post("/v1/api/chat", json=CHAT).get_json()
    assert answer["billing"]["status"] == "pending"
    (letter,) = parts.dead_letters.list("billing")

    services.billing.heal()
    close_circuits(parts)
    assert parts.background.worker.run_once()["delivered"] == 1
    ledger = parts.clients.billing.get("/ledger/dev").json()["entries"]
    assert [entry["amount"] for entry in ledger if entry["amount"] < 0] == [-answer["billing"]["amount"]]
    assert letter.idempotency_key


def test_a_capture_whose_reservation_is_over(client: FlaskClient, parts: Backend, services: Services) -> None:
    """What Billing will not take any more rests among the dead letters for all to see."""
    services.billing.fail("/capture", Fault.ERROR)
    client.post("/v1/api/chat", json=CHAT)
    services.billing.heal()
    close_circuits(parts)
    reservation = parts.dead_letters.list("billing")[0].payload()["reservation_id"]
    released = parts.clients.billing.post(
        "/release", json={"reservation_id": reservation}, idempotency_key="by-hand"
    )
    assert released.ok
    assert parts.background.worker.run_once()["dead"] == 1
    (letter,) = parts.dead_letters.list(status="dead")
    assert letter.last_status == 409
    assert client.get("/health/dlq").get_json()["dead"] == 1


def test_a_full_queue_costs_no_answer(client: FlaskClient, parts: Backend, services: Services) -> None:
    """Who has paid gets his answer, and who uploads is told that there is no snapshot."""
    parts.dead_letters.limits = type(parts.dead_letters.limits)(max_letters=0, max_bytes=1)
    services.git.stop()
    services.billing.fail("/capture", Fault.LOST)
    assert client.post("/v1/api/documents", json=DOCUMENTS).get_json()["snapshot"] is None
    assert client.post("/v1/api/chat", json=CHAT).get_json()["billing"]["status"] == "pending"


@pytest.mark.parametrize(
    ("away", "level"),
    [
        ((), "normal"),
        (("chroma",), "minor"),
        (("filesystem",), "moderate"),
        (("chroma", "billing"), "severe"),
        (("chroma", "filesystem", "billing", "git"), "critical"),
    ],
)
def test_levels(client: FlaskClient, parts: Backend, away: tuple[str, ...], level: str) -> None:
    """The level follows from the circuits, and operators can read it."""
    for name in away:
        parts.clients.registry[name].breaker.force_open("test")
    parts.background.monitor.evaluate()
    assert client.get("/health/degradation").get_json()["level"] == level


def test_uploads_are_off_when_all_is_away(client: FlaskClient, parts: Backend) -> None:
    """At the last level uploads are refused before any work; searching in our own index goes on."""
    parts.background.monitor.override("severe", reason="test", author="test")
    assert client.post("/v1/api/documents", json=DOCUMENTS).status_code == 200
    parts.background.monitor.override(DegradationLevel.CRITICAL, reason="test", author="test")
    refused = client.post("/v1/api/documents", json=DOCUMENTS)
    assert (refused.status_code, refused.headers["X-Degraded"]) == (503, "true")
    assert client.post("/v1/api/search", json={"query": "ship", "project_id": "p1"}).status_code == 200


def test_health(client: FlaskClient, services: Services) -> None:
    """With its services the backend is healthy, without one of them degraded, and ready in both cases."""
    checks = client.get("/health/detailed").get_json()["checks"]
    assert {name: check["status"] for name, check in checks.items() if name not in ("memory", "disk")} == {
        "index": "healthy",
        "dead letters": "healthy",
        "chroma": "healthy",
        "filesystem": "healthy",
        "billing": "healthy",
        "git": "healthy",
    }


def test_health_without_a_service(settings: dict[str, Any], services: Services) -> None:
    """A service that is away makes the backend degraded, and not unready."""
    services.git.stop()
    app = create_app(settings)
    client = app.test_client()
    assert client.get("/health").get_json() == {"status": "degraded"}
    assert client.get("/health/ready").status_code == 200
    app.extensions[EXTENSION].clients.registry.close()


def test_limits_of_routes(settings: dict[str, Any], services: Services) -> None:
    """The settings say how many requests of a route are let in at once."""
    app = create_app({**settings, "CHAT_MAX_REQUESTS": "1"})
    protection = app.extensions["service_utils.protection"]
    status = protection.get_status()
    assert status["routes"]["/v1/api/chat"]["max_concurrent"] == 1
    app.extensions[EXTENSION].clients.registry.close()


def test_the_first_request_begins_the_background(settings: dict[str, Any], services: Services) -> None:
    """A worker process begins its threads itself, so that one which was forked has its own."""
    app = create_app({**settings, "BACKGROUND_WORK": "true"})
    background = app.extensions[EXTENSION].background
    assert not background.worker.running
    app.test_client().get("/health/live")
    try:
        assert background.worker.running
        assert background.monitor.running
    finally:
        background.stop()
        app.extensions[EXTENSION].clients.registry.close()
    assert not background.worker.running
