"""The backend with its four services: each test has its own, with data of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.services import billing, chroma, filesystem, git
from tests.backend.running import RunningService, Services

TOKEN = "the-internal-token-of-the-tests"


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Fresh services with empty stores."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", TOKEN)
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    projects = tmp_path / "projects"
    with ExitStack() as stack:
        ledger = billing.create_app(tmp_path / "billing", starting_balance=1_000_000)
        stack.callback(ledger.extensions["billing"].close)
        apps = {
            "chroma": chroma.create_app(tmp_path / "chroma"),
            "filesystem": filesystem.create_app(tmp_path / "filesystem", projects=projects),
            "billing": ledger,
            "git": git.create_app(tmp_path / "git", projects),
        }
        yield Services(**{name: stack.enter_context(RunningService(app)) for name, app in apps.items()})


@pytest.fixture
def settings(services: Services, tmp_path: Path) -> dict[str, Any]:
    """The backend's settings: quick retries, short time-outs, no deadlock when a service is silent."""
    return {
        **services.settings(),
        "VAR_DIR": str(tmp_path / "var"),
        "API_RETRY_BASE_DELAY": "0.001",
        "API_TIMEOUT": "5",
        "BACKGROUND_WORK": "false",
    }


@pytest.fixture
def app(settings: dict[str, Any]) -> Iterator[Flask]:
    """The backend."""
    made = create_app(settings)
    yield made
    made.extensions["backend"].clients.registry.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A user of the backend."""
    return app.test_client()


@pytest.fixture(scope="module")
def lonely_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A user of a backend that has no services: what is answered with 400 never got as far as them."""
    names = ("CHROMA", "FILESYSTEM", "BILLING", "GIT")
    nowhere = {f"{name}_SERVER_URL": "http://127.0.0.1:9" for name in names}
    made = create_app({**nowhere, "VAR_DIR": str(tmp_path_factory.mktemp("lonely")), "API_RETRY_MAX": "1"})
    yield made.test_client()
    made.extensions["backend"].clients.registry.close()
