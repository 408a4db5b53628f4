"""The Flask application: ``create_app`` makes one, ``backend.app:app`` is the one for WSGI servers."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask

from backend.auth import authenticator
from backend.background import Background
from backend.chat import Chat
from backend.clients import Clients
from backend.config import Settings
from backend.context import EXTENSION, Backend, know_user
from backend.degradation import backend_rules
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
from service_utils import ServiceRegistry
from service_utils.dead_letters import DeadLetterQueue, DeadLetterWorker, SQLiteDeadLetters
from service_utils.degradation import DegradationMonitor
from service_utils.health import HealthChecker, disk_space, memory
from service_utils.integrations.flask import (
    Limits,
    Priority,
    ServiceUtils,
    ensure_token_configured,
    protect,
)
from service_utils.integrations.prometheus import Metrics
from service_utils.operating import AuditLog, SQLiteHistory
from service_utils.profiles import current_profile
from service_utils.sharing import leader_of, notes_of, shared_store

__all__ = ["create_app"]

_API = "/v1/api"
_CALM = 15.0  # seconds for which all must be well before a level is left
_LEAST_FREE = 64 * 2**20  # bytes on the disk of our own files
_QUEUE = 1.0  # seconds that a request waits for its turn
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
    extension = ServiceUtils(
        app,
        registry=parts.clients.registry,
        request_deadline=settings.request_deadline,
        health=parts.health,
        degradation=parts.background.monitor,
        dead_letters=parts.dead_letters,
        metrics=Metrics(
            parts.clients.registry,
            degradation=parts.background.monitor,
            dead_letters=parts.dead_letters,
            health=parts.health,
        ),
        history=SQLiteHistory(_folder(settings) / "history.sqlite3"),
        audit=AuditLog(_folder(settings) / "audit.jsonl"),
        record=settings.background,
    )
    parts.background.recorder = extension.recorder
    protect(app, _limits(settings))
    app.register_error_handler(Refusal, Refusal.answer)
    app.register_error_handler(sqlite3.OperationalError, storage_unavailable)
    app.register_blueprint(_api())
    app.add_url_rule("/ready", "ready", app.view_functions["service_utils_health.ready"])
    describe(app)
    if settings.background:
        parts.background.begin_with_requests(app)
    return app


def _assemble(settings: Settings, config: Mapping[str, Any] | None) -> Backend:
    profile = current_profile()
    ensure_token_configured()
    authenticate = authenticator(settings, profile)
    folder = _folder(settings)
    registry = ServiceRegistry()
    dead_letters = DeadLetterQueue(SQLiteDeadLetters(folder / "dead_letters.sqlite3"), registry=registry)
    clients = Clients.build(settings, config, registry=registry, dead_letters=dead_letters)
    index = DocumentIndex(folder / "index.sqlite3")
    lease = settings.request_deadline + _LEASE_MARGIN
    chat_history = ChatHistory(clients.filesystem, PendingEntries())
    found = Search(clients.chroma, clients.filesystem, index)
    snapshots = Snapshots(clients.git, dead_letters)
    money = Billing(clients.billing, dead_letters)
    health = _checks(clients, index, dead_letters, folder)
    store = shared_store()
    return Backend(
        settings=settings,
        clients=clients,
        authenticate=authenticate,
        background=Background(
            DeadLetterWorker(dead_letters, registry),
            DegradationMonitor(
                registry, backend_rules(), health=health, calm_seconds=_CALM, share=notes_of(store)
            ),
            leader_of(store),
        ),
        billing=money,
        chat=Chat(money, found, Answerer(clients.llms), chat_history, snapshots, settings),
        dead_letters=dead_letters,
        health=health,
        history=chat_history,
        index=index,
        ingestion=Ingestion(clients.chroma, clients.filesystem, index, snapshots),
        replays=ReplayStore(folder / "replays.sqlite3", lease=lease),
        search=found,
    )


def _folder(settings: Settings) -> Path:
    return settings.var_dir / "backend"


def _api() -> Blueprint:
    """All routes that need a user, below one prefix. Made anew for each app, which may be one of several."""
    api = Blueprint("api", __name__, url_prefix=_API)
    api.before_request(know_user)
    for each in (search, documents, chat, billing, projects):
        api.register_blueprint(each.routes)
    return api


def _checks(
    clients: Clients, index: DocumentIndex, dead_letters: DeadLetterQueue, folder: Path
) -> HealthChecker:
    """What is our own decides whether we are ready; other services that are away make us degraded."""
    checker = HealthChecker()
    checker.register("index", index.check, required_for_ready=True)
    checker.register("dead letters", lambda: bool(dead_letters.stats()), required_for_ready=True)
    checker.register("disk", disk_space(folder, _LEAST_FREE, 0.0), required_for_ready=True)
    checker.register("memory", memory())
    checker.register_clients(clients.registry)
    return checker


def _limits(settings: Settings) -> dict[str, Limits]:
    """Money goes first and uploads last; each route that keeps failing by itself is given a rest."""
    return {
        f"{_API}/billing": Limits(priority=Priority.HIGH),
        f"{_API}/chat": Limits(max_concurrent=settings.chat_max_requests, max_queue_seconds=_QUEUE),
        f"{_API}/documents": Limits(
            max_concurrent=settings.documents_max_requests, max_queue_seconds=_QUEUE, priority=Priority.LOW
        ),
        f"{_API}/projects": Limits(),
        f"{_API}/search": Limits(),
    }


def __getattr__(name: str) -> Any:
    """Make ``app`` when a WSGI server asks for it, so that importing ``create_app`` builds nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()["app"] = create_app()
    return app
