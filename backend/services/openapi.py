"""What an app can be asked, as an OpenAPI 3.1 document that it serves itself.

Paths and methods come out of the app's own routes and the bodies out of the models that check them, so that
the document cannot promise what the code does not do. What only people know (what a route is for, what its
answers mean) is said in a table of :class:`Operation` beside the routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, jsonify
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

__all__ = ["INTERNAL", "PROJECT_ID", "Key", "Operation", "Security", "document", "mount_openapi"]

_REF = "#/components/schemas/{model}"
_PLACE = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")
_SHOWN_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

Schema = dict[str, Any]

PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457. Further members say more, such as `field` or `errors`.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "required": ["title", "status"],
}

PROJECT_ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}


@dataclass(frozen=True, slots=True)
class Key:
    """The ``Idempotency-Key`` of a route.

    Attributes:
        required: Whether a request without one is refused.
    """

    required: bool


@dataclass(frozen=True, slots=True)
class Security:
    """What a request must show.

    Attributes:
        name: What the document calls it.
        scheme: The security scheme as OpenAPI has it.
    """

    name: str
    scheme: Mapping[str, str]


INTERNAL = Security("internal", {"type": "apiKey", "in": "header", "name": "X-INTERNAL-TOKEN"})
"""The internal token, of a service of ours or of an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What people know of one route.

    Attributes:
        summary: What it does, in a few words.
        answer: What its 200 holds.
        body: The model of its JSON body, or None.
        query: The model of its query string, or None. A route that takes both has the body in a POST and the
            query string in a GET.
        path: Schemas of the places in its path.
        key: Its idempotency key, or None where it has none.
        problems: Statuses of its errors and when they come, besides those of every route.
        security: What a request must show; None for nothing.
        answer_schema: Schema of the 200; an object by default.
        answer_type: Media type of the 200.
    """

    summary: str
    answer: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    path: Mapping[str, Schema] = field(default_factory=dict)
    key: Key | None = None
    problems: Mapping[int, str] = field(default_factory=dict)
    security: Security | None = None
    answer_schema: Schema = field(default_factory=lambda: {"type": "object"})
    answer_type: str = "application/json"


def mount_openapi(
    app: Flask, path: str, *, title: str, version: str, operations: Mapping[str, Operation]
) -> None:
    """Serve the document of an app's routes at a path; to be called when all routes are there.

    Args:
        app: The app.
        path: Where.
        title: Of the document.
        version: Of the API.
        operations: By endpoint. Routes under no endpoint of these are left out; see :func:`document`.
    """
    made = document(app, title=title, version=version, operations=operations)

    def openapi() -> Response:
        return jsonify(made)

    app.add_url_rule(path, "openapi", openapi)


def document(app: Flask, *, title: str, version: str, operations: Mapping[str, Operation]) -> dict[str, Any]:
    """The OpenAPI document of an app.

    Raises:
        ValueError: An operation belongs to no route.
    """
    models = sorted(
        {each.body for each in operations.values() if each.body}, key=lambda model: model.__name__
    )
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    seen = set()
    for rule in app.url_map.iter_rules():
        operation = operations.get(rule.endpoint)
        if operation is None or rule.rule.endswith("/"):  # /health/ is /health
            continue
        seen.add(rule.endpoint)
        item = paths.setdefault(_PLACE.sub(r"{\1}", rule.rule), {})
        for method in _methods(rule):
            item[method.lower()] = _described(operation, method, rule)
    unknown = sorted(set(operations) - seen)
    if unknown:
        raise ValueError(f"operations={unknown!r}: the app has no such endpoints")
    schemes = {
        each.security.name: dict(each.security.scheme) for each in operations.values() if each.security
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {"Problem": PROBLEM, **definitions.get("$defs", {})},
            "securitySchemes": schemes,
        },
    }


def _methods(rule: Rule) -> list[str]:
    return [method for method in _SHOWN_METHODS if method in (rule.methods or ())]


def _operation_id(rule: Rule, method: str) -> str:
    """Unlike any other: one endpoint may have several paths."""
    return f"{method.lower()}_" + re.sub(r"[^A-Za-z0-9]+", "_", rule.rule).strip("_")


def _described(operation: Operation, method: str, rule: Rule) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _operation_id(rule, method),
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation, rule), *_other_parameters(operation, method)],
        "responses": _responses(operation),
        "security": [] if operation.security is None else [{operation.security.name: []}],
    }
    if operation.body is not None and method != "GET":
        schema = {"$ref": _REF.format(model=operation.body.__name__)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _path_parameters(operation: Operation, rule: Rule) -> Iterator[dict[str, Any]]:
    for name in _PLACE.findall(rule.rule):
        schema = operation.path.get(name, {"type": "string", "minLength": 1})
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _other_parameters(operation: Operation, method: str) -> Iterator[dict[str, Any]]:
    if operation.query is not None and method == "GET":
        schema = operation.query.model_json_schema()
        for name, described in schema["properties"].items():
            required = name in schema.get("required", ())
            yield {"name": name, "in": "query", "required": required, "schema": described}
    if operation.key is not None:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": operation.key.required,
            "description": "The name of this write: a repeat gets the first answer and does nothing.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        }


def _responses(operation: Operation) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "200": {
            "description": operation.answer,
            "content": {operation.answer_type: {"schema": operation.answer_schema}},
        }
    }
    problems = dict(operation.problems)
    if operation.body is not None:
        problems.setdefault(400, "the body is not what it should be; `field` says where")
        problems.setdefault(413, "the body is too large")
    elif operation.query is not None or operation.path:
        problems.setdefault(400, "the path or the query string is not what it should be")
    if operation.security is not None:
        problems.setdefault(401, "nobody we know")
    for status, meaning in sorted(problems.items()):
        answers[str(status)] = _problem(meaning)
    answers["default"] = _problem("something else is wrong; `detail` says what")
    return answers


def _problem(meaning: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model="Problem")}
    return {"description": meaning, "content": {"application/problem+json": {"schema": schema}}}
