"""``/v1/api/openapi.json``: the API for people and for tools that make clients, tests and pages of it."""

from __future__ import annotations

from flask import Flask

from backend.admin_openapi import ADMIN_OPERATIONS
from backend.models import (
    BalanceQuery,
    ChatRequest,
    DeductRequest,
    DocumentsRequest,
    HistoryQuery,
    SearchRequest,
)
from backend.services.openapi import INTERNAL, PROJECT_ID, Key, Operation, Security, mount_openapi
from service_utils import __version__

__all__ = ["OPERATIONS", "PATH", "describe"]

PATH = "/v1/api/openapi.json"

_USER = Security("user", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
_PROJECT = {"project_id": PROJECT_ID}
_AWAY = {
    502: "a service refused what we asked of it",
    503: "a service is away, or too busy; Retry-After says when to come back",
    504: "a service took too long",
}
_MONEY = {
    402: "the balance does not cover it",
    409: "the same key is being worked on, or was used long ago",
    422: "the key was used with another body",
}

OPERATIONS = {
    **ADMIN_OPERATIONS,
    "api.search.search": Operation(
        summary="Search a project's documents",
        answer="The best matches, who found them, and whether that was the second choice",
        body=SearchRequest,
        security=_USER,
        problems=_AWAY,
    ),
    "api.chat.chat": Operation(
        summary="Ask a question about a project's documents",
        answer="The answer, its sources, its price, and what was degraded",
        body=ChatRequest,
        key=Key(required=False),
        security=_USER,
        problems={**_MONEY, **_AWAY},
    ),
    "api.documents.documents": Operation(
        summary="Take documents into a project",
        answer="What was indexed, what was saved, and the snapshot",
        body=DocumentsRequest,
        security=_USER,
        problems=_AWAY,
    ),
    "api.billing.deduct": Operation(
        summary="Charge the user once for this key",
        answer="The entry in the ledger and the new balance",
        body=DeductRequest,
        key=Key(required=False),
        security=_USER,
        problems={**_MONEY, **_AWAY},
    ),
    "api.billing.balance": Operation(
        summary="What the user has",
        answer="Balance, what of it is held, and what is available, in micro-units",
        query=BalanceQuery,
        security=_USER,
        problems=_AWAY,
    ),
    "api.projects.history": Operation(
        summary="The last questions and answers of a project",
        answer="The entries, oldest first",
        query=HistoryQuery,
        path=_PROJECT,
        security=_USER,
        problems=_AWAY,
    ),
    "api.projects.file": Operation(
        summary="One file of a project",
        answer="Its content, as text or in base64",
        path={**_PROJECT, "file_path": {"type": "string", "minLength": 1, "maxLength": 400}},
        security=_USER,
        problems={404: "there is no such file", **_AWAY},
    ),
    "service_utils_health.basic": Operation(
        summary="Whether the backend works",
        answer="healthy, or degraded",
        problems={503: "something of its own is unhealthy"},
    ),
    "service_utils_health.live": Operation(summary="Whether the process answers", answer="alive"),
    "service_utils_health.ready": Operation(
        summary="Whether it can take requests",
        answer="ready",
        problems={503: "starting, draining, or something of its own is unhealthy"},
    ),
    "service_utils_health.detailed": Operation(
        summary="All health checks", answer="Status, time and detail of each", security=INTERNAL
    ),
    "service_utils_health.circuit_breakers": Operation(
        summary="All circuits", answer="State and counts of each", security=INTERNAL
    ),
    "service_utils_health.degradation": Operation(
        summary="The level of degradation", answer="Level, reasons and history", security=INTERNAL
    ),
    "service_utils_health.dlq": Operation(
        summary="The dead letters", answer="How many there are", security=INTERNAL
    ),
    "service_utils_metrics.metrics": Operation(
        summary="What Prometheus reads",
        answer="All metrics, in the text format or, where that is accepted, as OpenMetrics",
        answer_type="text/plain",
        answer_schema={"type": "string"},
        security=INTERNAL,
    ),
    "service_utils.status": Operation(
        summary="The status of every service the backend calls",
        answer="One object per service, by its short name",
        security=INTERNAL,
    ),
}


def describe(app: Flask) -> None:
    """Serve the document."""
    mount_openapi(app, PATH, title="service_utils backend", version=__version__, operations=OPERATIONS)
