"""What a signed-in operator does on the page, by forms that are of ours and give a reason."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from service_utils.clock import Clock
from service_utils.dead_letters import LetterTooOld, UnknownLetter
from service_utils.integrations.flask.pages.session import Session, session_of_request
from service_utils.operating import NotOffered, OperatorDesk, UnknownService

__all__ = ["Acts"]

_logger = logging.getLogger("service_utils")

_NAME = "service_utils_page"
_PAGE = 50
_EXPIRIES = {"15m": 900.0, "1h": 3600.0, "4h": 14400.0, "never": None}
_AGES = {"": None, "1d": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}

View = Callable[..., AnyResponse]


class Acts:
    """The forms and the pages of dead letters.

    Args:
        desk: What is done.
        clock: Of sessions.
    """

    def __init__(self, desk: OperatorDesk, clock: Clock) -> None:
        self._desk = desk
        self._clock = clock

    def mount(self, blueprint: Blueprint) -> None:
        """Put them below the page."""
        for rule, view, method in (
            ("/services/<path:name>", self.circuit, "POST"),
            ("/degradation", self.level, "POST"),
            ("/letters", self.letters, "GET"),
            ("/letters", self.letters_act, "POST"),
            ("/letters/<letter_id>", self.letter, "GET"),
            ("/letters/<letter_id>", self.letter_act, "POST"),
        ):
            blueprint.add_url_rule(rule, view.__name__, self._signed_in(view), methods=[method])

    def _signed_in(self, view: View) -> View:
        @functools.wraps(view)
        def guarded(**places: str) -> AnyResponse:
            session = session_of_request(self._clock.now())
            if session is None:
                return self._trouble("You are not signed in, or no longer.", 403)
            if request.method == "POST" and not session.sent_this_form():
                return self._trouble("This form is not from this page, or from an earlier session.", 403)
            try:
                return view(session, **places)
            except (UnknownService, UnknownLetter, NotOffered) as error:
                return self._trouble(str(error), 404)
            except LetterTooOld as error:
                return self._trouble(str(error), 409)
            except ValueError as error:
                return self._trouble(str(error), 400)
            except (sqlite3.Error, OSError):
                _logger.exception("%s %s could not be done", request.method, request.path)
                return self._trouble("What is kept cannot be read or written now; the log says why.", 503)

        return guarded

    def _trouble(self, words: str, status: int) -> Response:
        return Response(render_template("service_utils/trouble.html", words=words), status)

    # -- services and level ---------------------------------------------------------------------------

    def circuit(self, session: Session, name: str) -> AnyResponse:
        """Reset, force open, disable or probe."""
        act, reason, by = request.form.get("act", ""), request.form.get("reason", ""), session.operator
        if act == "reset":
            self._desk.reset(name, reason=reason, by=by)
        elif act == "force-open":
            self._desk.force_open(name, reason=reason, by=by)
        elif act == "disable":
            self._desk.disable(name, reason=reason, by=by)
        elif act == "probe":
            found = self._desk.probe(name, by=by)
            well = (
                f"answered in {found['seconds']:.2f} s" if found["healthy"] else f"failed: {found['error']}"
            )
            return _back(f"Probe of {name}: {well}")
        else:
            raise ValueError(f"act={act!r}: must be reset, force-open, disable or probe")
        return _back(f"{act} of {name}: done")

    def level(self, session: Session) -> AnyResponse:
        """Set the level, or let the rules decide."""
        reason = request.form.get("reason", "")
        if request.form.get("act") == "clear":
            self._desk.clear_level(by=session.operator, reason=reason)
            return _back("The rules decide again")
        expiry = request.form.get("expires", "1h")
        if expiry not in _EXPIRIES:
            raise ValueError(f"expires={expiry!r}: must be one of {', '.join(_EXPIRIES)}")
        level = request.form.get("level", "")
        self._desk.set_level(level, reason=reason, by=session.operator, expires_in=_EXPIRIES[expiry])
        return _back(f"Level {level}: set")

    # -- dead letters ---------------------------------------------------------------------------------

    def letters(self, session: Session) -> AnyResponse:
        """A page of them."""
        asked = {name: request.args.get(name) or None for name in ("service", "status", "after")}
        found = self._desk.letters.list(**asked, limit=_PAGE)
        return self._shown("letters.html", session, **found, asked=asked)

    def letters_act(self, session: Session) -> AnyResponse:
        """Retry or purge many."""
        service, status = (request.form.get(name) or None for name in ("service", "status"))
        act, reason, by = request.form.get("act", ""), request.form.get("reason", ""), session.operator
        if act == "retry-all":
            done = self._desk.letters.retry_all(by=by, reason=reason, service=service, status=status)
            return _back(f"{done['letters']} letters will be tried again", "letters")
        if act != "purge":
            raise ValueError(f"act={act!r}: must be retry-all or purge")
        age = request.form.get("older_than", "")
        if age not in _AGES:
            raise ValueError(f"older_than={age!r}: must be one of {', '.join(filter(None, _AGES))}")
        done = self._desk.letters.purge(
            by=by, reason=reason, service=service, status=status, older_than=_AGES[age]
        )
        return _back(f"{done['letters']} letters removed for good", "letters")

    def letter(self, session: Session, letter_id: str) -> AnyResponse:
        """One of them; with its body, which is users' data, only when that is asked for."""
        by = session.operator if request.args.get("body") == "shown" else None
        return self._shown("letter.html", session, letter=self._desk.letters.show(letter_id, by=by))

    def letter_act(self, session: Session, letter_id: str) -> AnyResponse:
        """Have it tried again."""
        force = request.form.get("force") == "yes"
        reason = request.form.get("reason", "")
        done = self._desk.letters.retry(letter_id, by=session.operator, reason=reason, force=force)
        words = "will be tried again" if done["queued"] else "is being tried just now"
        return _back(f"Letter {letter_id} {words}", "letters")

    def _shown(self, template: str, session: Session, **more: Any) -> Response:
        said = request.args.get("said", "")[:200]
        return Response(render_template(f"service_utils/{template}", session=session, said=said, **more))


def _back(said: str, page: str = "page") -> AnyResponse:
    return redirect(url_for(f"{_NAME}.{page}", said=said[:200]), 303)
