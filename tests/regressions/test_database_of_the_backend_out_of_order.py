from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import responses
from flask.testing import FlaskClient

from backend.app import create_app
from backend.index import DocumentIndex
from backend.replays import ReplayStore

DOCUMENTS = [{"id": "a", "text": "apples"}, {"id": "b", "text": "bananas"}]
KEY = {"Idempotency-Key": "k1"}


def out_of_order(*_args: object) -> NoReturn:
    raise sqlite3.OperationalError("database or disk is full")


@pytest.fixture
def services() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def client(tmp_path: Path, services: responses.RequestsMock) -> Iterator[FlaskClient]:
    names = ("CHROMA", "FILESYSTEM", "BILLING", "GIT")
    urls = {f"{name}_SERVER_URL": f"http://{name.lower()}.internal" for name in names}
    app = create_app({**urls, "API_RETRY_MAX": "1", "VAR_DIR": str(tmp_path)})
    yield app.test_client()
    app.extensions["backend"].clients.registry.close()


def test_documents_when_the_index_of_last_resort_fails(
    client: FlaskClient, services: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents that Chroma has taken are indexed, even if our own copy of them cannot be written."""
    services.post("http://filesystem.internal/save_file", json={})
    services.post("http://chroma.internal/add", json={})
    services.post("http://git.internal/snapshot/p", json={"sha": "1"})
    monkeypatch.setattr(DocumentIndex, "put", out_of_order)

    response = client.post("/v1/api/documents", json={"project_id": "p", "documents": DOCUMENTS})

    assert (response.status_code, response.json["indexed"]) == (200, ["a", "b"])
    assert response.json["degraded"] is True


def test_refused_message_whose_key_cannot_be_freed(
    client: FlaskClient, services: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without money is told so, even if his key cannot be freed at that moment."""
    services.post("http://billing.internal/reserve", status=402, json={"needed": 5, "available": 0})
    monkeypatch.setattr(ReplayStore, "abandon", out_of_order)

    response = client.post("/v1/api/chat", json={"project_id": "p", "message": "m"}, headers=KEY)

    assert (response.status_code, response.json["needed"]) == (402, 5)


def test_message_whose_key_cannot_be_noted(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, a message with a key is refused before any money is touched, with 503."""
    monkeypatch.setattr(ReplayStore, "begin", out_of_order)

    response = client.post("/v1/api/chat", json={"project_id": "p", "message": "m"}, headers=KEY)

    assert (response.status_code, "Retry-After" in response.headers) == (503, True)
    assert "disk" not in response.text
