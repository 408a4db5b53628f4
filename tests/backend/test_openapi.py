"""The OpenAPI documents: complete, and true to the routes."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.openapi import OPERATIONS, PATH
from backend.services.openapi import Operation, document

UNDESCRIBED = ("ready", "openapi")
"""Another name of /health/ready, and the document itself. The status page is for people, not for programs."""


def test_every_route_is_described(app: Flask) -> None:
    """A new route cannot be forgotten."""
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
    pages = {name for name in endpoints if name.startswith("service_utils_page.")}
    assert {name for name in endpoints - pages if name not in UNDESCRIBED} == set(OPERATIONS)


def test_an_operation_without_a_route(app: Flask) -> None:
    """What is described is there."""
    with pytest.raises(ValueError, match=r"api\.nowhere"):
        document(app, title="t", version="1", operations={"api.nowhere": Operation(summary="", answer="")})


def test_bodies_are_those_that_are_checked(client: FlaskClient) -> None:
    """Tools that make clients of the document get the fields, their limits and what is required."""
    found = client.get(PATH).get_json()
    deduct = found["paths"]["/v1/api/billing/deduct"]["post"]
    assert deduct["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/DeductRequest"
    }
    body = found["components"]["schemas"]["DeductRequest"]
    assert body["required"] == ["amount"]
    assert body["properties"]["amount"]["exclusiveMinimum"] == 0
    assert [each["name"] for each in deduct["parameters"]] == ["Idempotency-Key"]
    assert {"200", "400", "401", "402", "409", "413", "422", "502", "503", "504", "default"} == set(
        deduct["responses"]
    )


def test_places_in_paths_and_queries(client: FlaskClient) -> None:
    """Path and query parameters are there with what they may hold."""
    history = client.get(PATH).get_json()["paths"]["/v1/api/projects/{project_id}/history"]["get"]
    assert {each["name"]: each["in"] for each in history["parameters"]} == {
        "project_id": "path",
        "limit": "query",
    }
    assert "requestBody" not in history


def test_names_of_operations(client: FlaskClient) -> None:
    """No two operations have one name, for tools make functions of them."""
    paths = client.get(PATH).get_json()["paths"].values()
    names = [operation["operationId"] for item in paths for operation in item.values()]
    assert len(names) == len(set(names)) > 10


def test_it_is_the_same_each_time(client: FlaskClient) -> None:
    """The document can be kept in a repository and compared."""
    assert client.get(PATH).data == client.get(PATH).data


def test_nothing_of_the_machine_is_in_it(client: FlaskClient) -> None:
    """No path, address or secret of this installation is shown."""
    text = client.get(PATH).get_data(as_text=True)
    assert str(Path.cwd()) not in text
    assert "127.0.0.1" not in text
