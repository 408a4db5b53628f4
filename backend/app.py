"""The Flask application: ``create_app`` makes one, ``backend.app:app`` is the one for WSGI servers."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Flask, Response, jsonify

from backend.auth import authenticator
from backend.chat import Chat
from backend.clients import Clients
from backend.config import Settings
from backend.context import EXTENSION, Backend, backend, know_user
from backend.history import ChatHistory, PendingEntries
from backend.index import DocumentIndex
from backend.ingest import Ingestion
from backend.llm import Answerer
from backend.money import Billing
from backend.openapi import describe
from backend.replays import ReplayStore
from backend.routes import billing, chat, documents, projects, search
from backend.search import Search
from backend.services.common import Refusal, storage_unavailable
from backend.snapshots import Snapshots
from service_utils.integrations.flask import ServiceUtils, ensure_token_configured, problem
from service_utils.profiles import current_profile

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

_API = "/v1/api"
_LEASE_MARGIN = 15.0  # seconds that a request may overrun its deadline before its key counts as abandoned


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make an app with clients, circuits and stores of its own.

    Args:
        config: Settings by the names of their environment variables, which they override; also Flask's own.

    Raises:
        ValueError: A setting is no good, or the profile asks for a secret that is not there.
        OSError, sqlite3.Error: ``VAR_DIR`` cannot be used.
    """
    settings = Settings.load(config)
    parts = _assemble(settings, config)
    app = Flask("backend", static_folder=None)
    # Flask's own names alone: the others are settled, and secrets among them have no place in app.config.
    app.config.update({name: value for name, value in (config or {}).items() if name in app.config})
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.url_map.strict_slashes = False
    app.extensions[EXTENSION] = parts
    ServiceUtils(app, registry=parts.clients.registry, request_deadline=settings.request_deadline)
    app.register_error_handler(Refusal, Refusal.answer)
    app.register_error_handler(sqlite3.OperationalError, storage_unavailable)
    app.register_blueprint(_api())
    app.add_url_rule("/health", "health", _health)
    app.add_url_rule("/ready", "ready", _ready)
    describe(app)
    return app


def _assemble(settings: Settings, config: Mapping[str, Any] | None) -> Backend:
    profile = current_profile()
    ensure_token_configured()
    authenticate = authenticator(settings, profile)
    clients = Clients.build(settings, config)
    folder = settings.var_dir / "backend"
    index = DocumentIndex(folder / "index.sqlite3")
    lease = settings.request_deadline + _LEASE_MARGIN
    chat_history = ChatHistory(clients.filesystem, PendingEntries())
    found = Search(clients.chroma, clients.filesystem, index)
    snapshots = Snapshots(clients.git)
    money = Billing(clients.billing)
    return Backend(
        settings=settings,
        clients=clients,
        authenticate=authenticate,
        billing=money,
        chat=Chat(money, found, Answerer(clients.llms), chat_history, snapshots, settings),
        history=chat_history,
        index=index,
        ingestion=Ingestion(clients.chroma, clients.filesystem, index, snapshots),
        replays=ReplayStore(folder / "replays.sqlite3", lease=lease),
        search=found,
    )


def _api() -> Blueprint:
    """All routes that need a user, below one prefix. Made anew for each app, which may be one of several."""
    api = Blueprint("api", __name__, url_prefix=_API)
    api.before_request(know_user)
    for each in (search, documents, chat, billing, projects):
        api.register_blueprint(each.routes)
    return api


def _health() -> Response:
    return jsonify(status="ok", service="backend")


def _ready() -> Response:
    """Ready is what can do its own work; other services being away makes nobody unready."""
    try:
        backend().index.check()
    except Exception:
        # The cause can name paths: it belongs in the log, this route is open to everybody.
        logger.exception("backend is not ready")
        return problem(503, detail="backend is not ready; its log says why")
    return jsonify(status="ready", service="backend")


def __getattr__(name: str) -> Any:
    """Make ``app`` when a WSGI server asks for it, so that importing ``create_app`` builds nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()["app"] = create_app()
    return app
