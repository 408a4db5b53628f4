"""Whatever comes in, no route answers 500 or shows a traceback: the backend and its services, fuzzed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from backend.app import create_app
from backend.openapi import PATH
from backend.services import billing, chroma, filesystem, git
from tests.backend.running import RunningService, Services

TOKEN = "the-internal-token-of-the-tests"

CREDENTIALS = {"X-INTERNAL-TOKEN": TOKEN, "Authorization": f"Bearer {TOKEN}"}

quickly = settings(
    max_examples=12,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # a smaller failure takes longer than a build has
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Flask]]:
    """The backend before real services, all with one set of data for the whole storm."""
    folder = tmp_path_factory.mktemp("fuzz")
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        environment.setenv("INTERNAL_SERVICE_TOKEN", TOKEN)
        environment.setenv("ADMIN_TOKEN", TOKEN)
        ledger = billing.create_app(folder / "billing", starting_balance=1_000_000)
        stack.callback(ledger.extensions["billing"].close)
        apps = {
            "chroma": chroma.create_app(folder / "chroma"),
            "filesystem": filesystem.create_app(folder / "filesystem", projects=folder / "projects"),
            "billing": ledger,
            "git": git.create_app(folder / "git", folder / "projects"),
        }
        running = Services(**{name: stack.enter_context(RunningService(app)) for name, app in apps.items()})
        quick = {"VAR_DIR": str(folder / "var"), "API_RETRY_MAX": "1", "API_TIMEOUT": "5"}
        backend = create_app({**running.settings(), **quick})
        stack.callback(backend.extensions["backend"].clients.registry.close)
        yield {**apps, "backend": backend}


@pytest.fixture(scope="module")
def operations(apps: dict[str, Flask]) -> dict[str, Any]:
    """All that the documents of the apps describe, by app, method and path."""
    found = {}
    for name, app in apps.items():
        path = PATH if name == "backend" else "/openapi.json"
        schema = schemathesis.openapi.from_wsgi(path, app, headers=CREDENTIALS)
        for result in schema.get_all_operations():
            operation = result.ok()
            found[f"{name}: {operation.method.upper()} {operation.path}"] = operation
    return found


OPERATIONS = [
    "backend: GET /admin/reliability/audit",
    "backend: GET /admin/reliability/circuit-breakers",
    "backend: GET /admin/reliability/circuit-breakers/{name}",
    "backend: POST /admin/reliability/circuit-breakers/{name}/disable",
    "backend: POST /admin/reliability/circuit-breakers/{name}/force-open",
    "backend: POST /admin/reliability/circuit-breakers/{name}/probe",
    "backend: POST /admin/reliability/circuit-breakers/{name}/reset",
    "backend: GET /admin/reliability/config",
    "backend: GET /admin/reliability/degradation",
    "backend: POST /admin/reliability/degradation/clear",
    "backend: POST /admin/reliability/degradation/set-level",
    "backend: GET /admin/reliability/dlq",
    "backend: POST /admin/reliability/dlq/purge",
    "backend: POST /admin/reliability/dlq/retry",
    "backend: GET /admin/reliability/dlq/{letter_id}",
    "backend: POST /admin/reliability/dlq/{letter_id}/retry",
    "backend: GET /admin/reliability/overview",
    "backend: GET /admin/reliability/reports/reliability",
    "backend: GET /admin/service-status",
    "backend: GET /health",
    "backend: GET /health/circuit-breakers",
    "backend: GET /health/degradation",
    "backend: GET /health/detailed",
    "backend: GET /health/dlq",
    "backend: GET /health/live",
    "backend: GET /health/ready",
    "backend: GET /metrics",
    "backend: GET /v1/api/billing/balance",
    "backend: POST /v1/api/billing/deduct",
    "backend: POST /v1/api/chat",
    "backend: POST /v1/api/documents",
    "backend: GET /v1/api/projects/{project_id}/files/{file_path}",
    "backend: GET /v1/api/projects/{project_id}/history",
    "backend: POST /v1/api/search",
    "backend: GET /v1/api/status/services",
    "billing: GET /balance/{user}",
    "billing: GET /ledger/{user}",
    "billing: POST /capture",
    "billing: POST /deduct_cost",
    "billing: POST /release",
    "billing: POST /reserve",
    "chroma: GET /collections",
    "chroma: POST /add",
    "chroma: POST /add_chunks",
    "chroma: POST /delete",
    "chroma: POST /query",
    "filesystem: GET /projects/{project_id}/files",
    "filesystem: GET /projects/{project_id}/search",
    "filesystem: GET /read_file",
    "filesystem: POST /read_file",
    "filesystem: POST /save_file",
    "git: GET /diff/{project_id}/{sha}",
    "git: GET /history/{project_id}",
    "git: POST /snapshot/{project_id}",
]


def test_all_that_is_described_is_fuzzed(operations: dict[str, Any]) -> None:
    """The list above names every operation of every document."""
    assert sorted(operations) == sorted(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_there_is_an_answer_to_everything(name: str, operations: dict[str, Any]) -> None:
    """No body, query, path or header makes an app fail instead of refusing."""
    operation = operations[name]

    @quickly
    @given(case=st.one_of(operation.as_strategy(mode) for mode in GenerationMode))
    def fuzz(case: Any) -> None:
        response = case.call(headers=CREDENTIALS)
        assert response.status_code != 500, response.text
        assert "Traceback" not in response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"], response.text

    fuzz()


HEADERS = [
    "Authorization",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Expect",
    "Host",
    "Idempotency-Key",
    "Range",
    "X-INTERNAL-TOKEN",
    "X-Request-ID",
    "X-Request-Timeout-Ms",
    "traceparent",
    "tracestate",
]
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=300)


@pytest.mark.parametrize("name", OPERATIONS)
def test_strange_headers(name: str, operations: dict[str, Any], apps: dict[str, Flask]) -> None:
    """Whatever the headers hold, and whatever the body is said to be, the answer is no failure."""
    operation, app = operations[name], apps[name.partition(":")[0]]
    path = operation.path.replace("{user}", "u").replace("{sha}", "0" * 40)
    path = path.replace("{project_id}", "p").replace("{file_path}", "a.txt")
    path = path.replace("{name}", "chroma").replace("{letter_id}", "0" * 26)

    @quickly
    @given(
        headers=st.dictionaries(st.sampled_from(HEADERS), VALUES, max_size=6),
        body=st.binary(max_size=64),
        method=st.sampled_from([operation.method, operation.method, "DELETE", "TRACE", "PROPFIND"]),
    )
    def fuzz(headers: dict[str, str], body: bytes, method: str) -> None:
        response = app.test_client().open(
            path, method=method, data=body, headers={"X-INTERNAL-TOKEN": TOKEN, **headers}
        )
        assert response.status_code != 500, response.text
        assert "Traceback" not in response.text

    fuzz()
