"""What the routes work with: made once per app, found through the app, and the user of the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import Response, current_app, g, request
from pydantic import TypeAdapter, ValidationError

from backend.auth import Authenticate
from backend.background import Background
from backend.chat import Chat
from backend.clients import Clients
from backend.config import Settings
from backend.history import ChatHistory
from backend.index import DocumentIndex
from backend.ingest import Ingestion
from backend.models import ProjectId
from backend.money import Billing
from backend.replays import ReplayStore
from backend.search import Search
from backend.services.common import Refusal
from service_utils.dead_letters import DeadLetterQueue
from service_utils.health import HealthChecker

__all__ = ["EXTENSION", "Backend", "backend", "checked_project", "current_user", "know_user"]

EXTENSION = "backend"

_PROJECT: TypeAdapter[str] = TypeAdapter(ProjectId)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The working parts of one app."""

    settings: Settings
    clients: Clients
    authenticate: Authenticate
    background: Background
    billing: Billing
    chat: Chat
    dead_letters: DeadLetterQueue
    health: HealthChecker
    history: ChatHistory
    index: DocumentIndex
    ingestion: Ingestion
    replays: ReplayStore
    search: Search


def backend() -> Backend:
    """The working parts of the app of this request."""
    return cast(Backend, current_app.extensions[EXTENSION])


def know_user() -> Response | None:
    """Find out who asks; for ``before_request``.

    Raises:
        Refusal: 401: nobody we know.
    """
    g.user = backend().authenticate(request.headers.get("Authorization"))
    return None


def current_user() -> str:
    """Who asks."""
    return cast(str, g.user)


def checked_project(project_id: str) -> str:
    """A project id out of a path.

    Raises:
        Refusal: 400: it is none.
    """
    try:
        return _PROJECT.validate_python(project_id)
    except ValidationError as error:
        message = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise Refusal(400, f"project_id: {message}", field="project_id") from None
