"""What all local services share: the guarded Flask app, request models, refusals, and ``serving``."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, Response, g, jsonify, request
from pydantic import BaseModel, ConfigDict, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from backend.services.serving import Server, data_dir, open_server, projects_dir, serve, service_parser
from service_utils.http.context import bind_context, new_request_id, unbind_context, valid_request_id
from service_utils.integrations.flask.problems import problem, register_problem_handlers
from service_utils.integrations.flask.tokens import check_internal_token, ensure_token_configured
from service_utils.storage import Database, Durability

__all__ = [
    "BUSY_SECONDS",
    "DEFAULT_MAX_BODY",
    "Refusal",
    "RequestModel",
    "Server",
    "data_dir",
    "make_service_app",
    "open_database",
    "open_server",
    "parse",
    "parse_query",
    "projects_dir",
    "serve",
    "service_parser",
    "storage_unavailable",
]

logger = logging.getLogger(__name__)

DEFAULT_MAX_BODY = 16 * 2**20
"""Largest request body in bytes, unless a service says otherwise."""

BUSY_SECONDS = 4.0
"""How long a statement waits for another writer; shorter than the callers' own time-outs."""

_OPEN_ENDPOINTS = frozenset({"health", "ready"})
_MOST_ERRORS_LISTED = 20
_OWN_WORDS = "Value error, "  # what pydantic puts before the message of a validator of ours
_RETRY_STORAGE_AFTER = "1"

Model = TypeVar("Model", bound=BaseModel)


class RequestModel(BaseModel):
    """Base of every request body: no silent conversions, no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Refusal(Exception):
    """A request the service turns down; raised anywhere in a view, it becomes the problem JSON answer.

    Attributes:
        status: The HTTP status.
        field: The field of the request that is at fault, or None.
        headers: Headers of the answer, for example ``Retry-After``.
        members: Further members of the problem object.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.field = field
        self.headers = headers
        self.members = members if field is None else {"field": field, **members}

    def answer(self) -> Response:
        """The problem JSON response."""
        return problem(self.status, detail=str(self), headers=self.headers, **self.members)


def make_service_app(name: str, *, ready: Callable[[], None], max_body: int = DEFAULT_MAX_BODY) -> Flask:
    """A Flask app with ``/health`` and ``/ready``, the internal token before all else, problem JSON errors.

    The caller's ``X-Request-ID`` (a new one, if that is missing or malformed) is bound during the request and
    sent back.

    Args:
        name: The service's short name, as in its address setting: ``chroma``, ``filesystem``…
        ready: Called by ``GET /ready``; whatever it raises is logged and answered with 503.
        max_body: Largest request body in bytes; a larger one is answered with 413.

    Raises:
        ValueError: ``max_body`` is not positive, or profile ``production`` has no internal token.
        TokenError: The internal token cannot be read.
    """
    if max_body <= 0:
        raise ValueError(f"max_body={max_body!r}: must be positive")
    ensure_token_configured()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body
    app.url_map.strict_slashes = False
    _carry_request_id(app)
    app.before_request(_require_token)
    register_problem_handlers(app)
    app.register_error_handler(Refusal, Refusal.answer)
    app.register_error_handler(sqlite3.OperationalError, storage_unavailable)
    app.add_url_rule("/health", "health", lambda: jsonify(status="ok", service=name))
    app.add_url_rule("/ready", "ready", lambda: _readiness(name, ready))
    return app


def open_database(
    path: Path, component: str, schema: str, *, durability: Durability = Durability.FULL
) -> Database:
    """A service's SQLite file with its tables.

    Args:
        path: The file; its folder is made when missing.
        component: Whose tables they are.
        schema: Statements that leave tables of an earlier release as they are.
        durability: What a commit survives.

    Raises:
        sqlite3.OperationalError: The file is no database, or cannot be opened.
    """
    database = Database(path, durability=durability, busy_timeout=BUSY_SECONDS)
    database.migrate(component, [schema])
    return database


def _carry_request_id(app: Flask) -> None:
    def bind() -> None:
        given = request.headers.get("X-Request-ID")
        g.request_id = given if given is not None and valid_request_id(given) else new_request_id()
        g.context_token = bind_context(request_id=g.request_id)

    def answer(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        return response

    def unbind(_error: BaseException | None) -> None:
        token = g.pop("context_token", None)
        if token is not None:
            unbind_context(token)

    app.before_request(bind)
    app.after_request(answer)
    app.teardown_request(unbind)


def _require_token() -> Response | None:
    return None if request.endpoint in _OPEN_ENDPOINTS else check_internal_token()


def storage_unavailable(error: sqlite3.OperationalError) -> Response:
    """The answer when a database is locked for too long, read-only or full: 503, to be tried again."""
    logger.error("%s %s failed in the database: %s", request.method, request.path, error)
    return problem(
        503, detail="the storage is busy or out of order", headers={"Retry-After": _RETRY_STORAGE_AFTER}
    )


def _readiness(name: str, ready: Callable[[], None]) -> Response:
    try:
        ready()
    except Exception:
        # The cause can name paths and hosts: it belongs in the log, this route is open to everybody.
        logger.exception("%s is not ready", name)
        return problem(503, detail=f"{name} is not ready; its log says why")
    return jsonify(status="ready", service=name)


def parse(model: type[Model]) -> Model:
    """The request's JSON body as ``model``.

    Raises:
        Refusal: 400 for a body that is no JSON, not declared as JSON, or does not fit; it names the field.
        werkzeug.exceptions.RequestEntityTooLarge: The body is over the app's limit (413).
    """
    body = request.get_data(cache=False)
    limit = request.max_content_length
    if limit is not None and request.content_length is None and len(body) >= limit:
        # A body that did not announce its length (chunked) ends for Werkzeug where the limit is.
        raise RequestEntityTooLarge
    if not request.is_json:
        raise Refusal(400, "the body must be JSON, with Content-Type application/json", field="body")
    return _validated(lambda: model.model_validate_json(body))


def parse_query(model: type[Model]) -> Model:
    """The query string as ``model``; its texts are converted, since a query string has no numbers.

    Raises:
        Refusal: 400 naming the field that is missing, repeated, unknown or wrong.
    """
    for key, values in request.args.lists():
        if len(values) > 1:
            raise Refusal(400, f"{key}: given {len(values)} times", field=key)
    given = request.args.to_dict()
    return _validated(lambda: model.model_validate_strings(given, strict=False))


def _validated(validate: Callable[[], Model]) -> Model:
    try:
        return validate()
    except ValidationError as error:
        # The offending values stay out: they can be large, and they are the user's own text.
        found = error.errors(include_url=False, include_input=False, include_context=False)
    errors = [
        {"field": ".".join(map(str, one["loc"])) or "body", "message": one["msg"].removeprefix(_OWN_WORDS)}
        for one in found[:_MOST_ERRORS_LISTED]
    ]
    first = errors[0]
    raise Refusal(400, f"{first['field']}: {first['message']}", field=first["field"], errors=errors)
