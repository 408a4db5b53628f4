"""The routes of the admin API."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import Forbidden, HTTPException

from service_utils.clock import SYSTEM, Clock
from service_utils.dead_letters import LetterTooOld, UnknownLetter
from service_utils.integrations.flask.admin.asked import Asked, BadField
from service_utils.integrations.flask.operators import (
    Attempts,
    check_admin,
    check_reader,
    operator_of_request,
    shows_admin_token,
)
from service_utils.integrations.flask.problems import problem
from service_utils.operating import NotOffered, OperatorDesk, UnknownService

__all__ = ["admin_blueprint", "mount_admin"]

_logger = logging.getLogger("service_utils")

_AN_HOUR = 3600.0
_NEVER = "never"
_MOST_ENTRIES = 500


def mount_admin(
    app: Flask, desk: OperatorDesk, *, prefix: str = "/admin/reliability", clock: Clock = SYSTEM
) -> None:
    """Put the admin API into an app; see :func:`admin_blueprint`.

    Raises:
        ValueError: ``prefix`` is no path below the root.
    """
    app.register_blueprint(admin_blueprint(desk, prefix=prefix, clock=clock))


def admin_blueprint(
    desk: OperatorDesk, *, prefix: str = "/admin/reliability", clock: Clock = SYSTEM
) -> Blueprint:
    """The admin API below a prefix, for ``Authorization: Bearer`` with the token of ``ADMIN_TOKEN``.

    The internal token is good for looking, but not for acting and not for the bodies of letters.
    Without that variable all of it answers 404. Fields are taken from a JSON body or from the query string;
    every act needs a ``reason`` unless it only asks for another try. Who acts may say so in ``X-Operator``.

    Args:
        desk: What is shown and done.
        prefix: Where.
        clock: Of the limit to wrong tokens.

    Raises:
        ValueError: ``prefix`` is no path below the root.
    """
    if not isinstance(prefix, str) or not prefix.startswith("/") or not prefix.strip("/"):
        raise ValueError(f"prefix={prefix!r}: must be a path such as /admin/reliability")
    api = _Api(desk)
    attempts = Attempts(clock)
    blueprint = Blueprint("service_utils_admin", __name__, url_prefix=prefix.rstrip("/"))
    for rule, method, view in api.routes():
        check = check_reader if method == "GET" else check_admin
        blueprint.add_url_rule(
            rule, view.__name__, _guarded(view, partial(check, attempts)), methods=[method]
        )
    return blueprint


def _guarded(view: Callable[..., Any], check: Callable[[], Response | None]) -> Callable[..., Response]:
    """Only for operators; never cached; errors of the desk as problem JSON."""

    @functools.wraps(view)
    def guarded(**places: str) -> Response:
        response = check() or _answered(view, places)
        response.headers["Cache-Control"] = "no-store"
        return response

    return guarded


def _answered(view: Callable[..., Any], places: dict[str, str]) -> Response:
    try:
        return jsonify(view(**places))
    except BadField as error:
        return problem(400, detail=error.description, field=error.field)
    except (UnknownService, UnknownLetter, NotOffered) as error:
        return problem(404, detail=str(error))
    except LetterTooOld as error:
        return problem(409, detail=str(error))
    except (ValueError, TypeError) as error:
        return problem(400, detail=str(error), **_field_of(error))
    except HTTPException as error:
        return problem(error.code or 400, detail=error.description)
    except (sqlite3.Error, OSError):  # a store's file; its words can name paths
        _logger.exception("%s %s could not be answered", request.method, request.path)
        return problem(503, detail="What is kept cannot be read or written now; the log says why.")


def _field_of(error: Exception) -> dict[str, Any]:
    """Our own messages begin with the argument's name."""
    name = str(error).partition("=")[0]
    return {"field": name} if name.isidentifier() else {}


class _Api:
    """One method per route; what it returns is the answer's JSON."""

    def __init__(self, desk: OperatorDesk) -> None:
        self._desk = desk

    def routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        """Rule, method and view of each."""
        one = "/circuit-breakers/<path:name>"  # a stand-alone breaker may be named after a path
        return [
            ("/overview", "GET", self.overview),
            ("/circuit-breakers", "GET", self.circuits),
            (one, "GET", self.circuit),
            (f"{one}/reset", "POST", self.reset),
            (f"{one}/force-open", "POST", self.force_open),
            (f"{one}/disable", "POST", self.disable),
            (f"{one}/probe", "POST", self.probe),
            ("/degradation", "GET", self.degradation),
            ("/degradation/set-level", "POST", self.set_level),
            ("/degradation/clear", "POST", self.clear_level),
            ("/dlq", "GET", self.letters),
            ("/dlq/retry", "POST", self.retry_letters),
            ("/dlq/purge", "POST", self.purge_letters),
            ("/dlq/<letter_id>", "GET", self.letter),
            ("/dlq/<letter_id>/retry", "POST", self.retry_letter),
            ("/reports/reliability", "GET", self.report),
            ("/config", "GET", self.config),
            ("/audit", "GET", self.audit),
        ]

    def overview(self) -> dict[str, Any]:
        Asked()
        return self._desk.overview()

    def circuits(self) -> dict[str, Any]:
        Asked()
        return self._desk.circuits()

    def circuit(self, name: str) -> dict[str, Any]:
        Asked()
        return self._desk.circuit(name)

    def reset(self, name: str) -> dict[str, Any]:
        reason = Asked("reason").needed("reason")
        return self._desk.reset(name, reason=reason, by=operator_of_request())

    def force_open(self, name: str) -> dict[str, Any]:
        reason = Asked("reason").needed("reason")
        return self._desk.force_open(name, reason=reason, by=operator_of_request())

    def disable(self, name: str) -> dict[str, Any]:
        reason = Asked("reason").needed("reason")
        return self._desk.disable(name, reason=reason, by=operator_of_request())

    def probe(self, name: str) -> dict[str, Any]:
        Asked()
        return self._desk.probe(name, by=operator_of_request())

    def degradation(self) -> dict[str, Any]:
        Asked()
        return self._desk.level()

    def set_level(self) -> dict[str, Any]:
        asked = Asked("level", "reason", "expires_in")
        level, reason = asked.needed("level"), asked.needed("reason")
        return self._desk.set_level(level, reason=reason, by=operator_of_request(), expires_in=_expiry(asked))

    def clear_level(self) -> dict[str, Any]:
        reason = Asked("reason").text("reason") or "cleared"
        return self._desk.clear_level(by=operator_of_request(), reason=reason)

    def letters(self) -> dict[str, Any]:
        asked = Asked("service", "status", "limit", "after")
        return self._desk.letters.list(
            service=asked.text("service"),
            status=asked.text("status"),
            limit=asked.count("limit", 50),
            after=asked.text("after"),
        )

    def letter(self, letter_id: str) -> dict[str, Any]:
        whole = Asked("body").flag("body")
        if whole and not shows_admin_token():
            raise Forbidden("The body is users' data: the admin token is needed to see it.")
        return self._desk.letters.show(letter_id, by=operator_of_request() if whole else None)

    def retry_letter(self, letter_id: str) -> dict[str, Any]:
        asked = Asked("reason", "force")
        return self._desk.letters.retry(
            letter_id,
            by=operator_of_request(),
            reason=asked.text("reason") or "asked for",
            force=asked.flag("force"),
        )

    def retry_letters(self) -> dict[str, Any]:
        asked = Asked("service", "status", "reason", "force")
        return self._desk.letters.retry_all(
            by=operator_of_request(),
            service=asked.text("service"),
            status=asked.text("status") or "dead",
            reason=asked.text("reason") or "asked for",
            force=asked.flag("force"),
        )

    def purge_letters(self) -> dict[str, Any]:
        asked = Asked("reason", "service", "status", "older_than")
        return self._desk.letters.purge(
            by=operator_of_request(),
            reason=asked.needed("reason"),
            service=asked.text("service"),
            status=asked.text("status"),
            older_than=asked.number("older_than"),
        )

    def report(self) -> dict[str, Any]:
        Asked()
        return self._desk.report()

    def config(self) -> dict[str, Any]:
        Asked()
        return self._desk.config()

    def audit(self) -> dict[str, Any]:
        limit = Asked("limit").count("limit", 100)
        if not 1 <= limit <= _MOST_ENTRIES:
            raise BadField("limit", f"must be from 1 to {_MOST_ENTRIES}")
        return {"entries": self._desk.audit.entries(limit)}


def _expiry(asked: Asked) -> float | None:
    try:
        seconds = asked.number("expires_in")
    except BadField:
        if asked.text("expires_in") == _NEVER:
            return None
        raise BadField("expires_in", f"must be a number of seconds above 0, or {_NEVER!r}") from None
    return _AN_HOUR if seconds is None else seconds
