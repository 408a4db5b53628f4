"""The routes of the status page: looking, and signing in to act."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, json, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from service_utils.clock import SYSTEM, Clock
from service_utils.integrations.flask.operators import (
    Attempts,
    address_of_request,
    admin_token,
    check_attempt,
)
from service_utils.integrations.flask.pages.acts import Acts
from service_utils.integrations.flask.pages.picture import picture_of
from service_utils.integrations.flask.pages.session import (
    Session,
    begin_session,
    end_session,
    session_of_request,
)
from service_utils.integrations.flask.tokens import check_operator, same_secret
from service_utils.operating import Operator, OperatorDesk

__all__ = ["mount_status_page", "status_page_blueprint"]

_NAME = "service_utils_page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_SHOWN_ACTIONS = 20


def mount_status_page(
    app: Flask, desk: OperatorDesk, *, path: str = "/status", clock: Clock = SYSTEM
) -> None:
    """Put the page into an app; see :func:`status_page_blueprint`.

    Raises:
        ValueError: ``path`` is no path below the root.
    """
    app.register_blueprint(status_page_blueprint(desk, path=path, clock=clock))


def status_page_blueprint(desk: OperatorDesk, *, path: str = "/status", clock: Clock = SYSTEM) -> Blueprint:
    """The page at a path, with all that belongs to it below.

    Args:
        desk: What is shown and done.
        path: Where.
        clock: Of sessions and of the limit to wrong tokens.

    Raises:
        ValueError: ``path`` is no path below the root.
    """
    if not isinstance(path, str) or not path.startswith("/") or not path.strip("/"):
        raise ValueError(f"path={path!r}: must be a path such as /status")
    blueprint = Blueprint(
        _NAME,
        __name__,
        url_prefix=path.rstrip("/"),
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    pages = _Pages(desk, clock)
    for rule, view in (
        ("", pages.page),
        ("/live", pages.live),
        ("/report", pages.report),
    ):
        blueprint.add_url_rule(rule, view.__name__, pages.for_readers(view))
    blueprint.add_url_rule("/sign-in", "sign_in", pages.sign_in, methods=["POST"])
    blueprint.add_url_rule("/sign-out", "sign_out", pages.sign_out, methods=["POST"])
    Acts(desk, clock).mount(blueprint)
    blueprint.after_request(_harden)
    return blueprint


class _Pages:
    """What is to be seen, and the way in."""

    def __init__(self, desk: OperatorDesk, clock: Clock) -> None:
        self._desk = desk
        self._clock = clock
        self._attempts = Attempts(clock)

    def for_readers(self, view: Callable[[Session | None], AnyResponse]) -> Callable[[], AnyResponse]:
        """A view that knows who is signed in. In ``production`` others need a token in a header."""

        @functools.wraps(view)
        def guarded() -> AnyResponse:
            session = session_of_request(self._clock.now())
            refusal = None if session is not None else check_operator()
            if refusal is None:
                return view(session)
            if view.__name__ == "page" and admin_token() is not None:
                return Response(self._sign_in_page(), 401)
            return refusal

        return guarded

    def page(self, session: Session | None) -> Response:
        """All of it."""
        now = self._clock.now()
        return Response(
            render_template(
                "service_utils/status.html",
                session=session,
                can_sign_in=admin_token() is not None,
                now=now.isoformat(),
                actions=[] if session is None else self._desk.audit.entries(_SHOWN_ACTIONS),
                said=request.args.get("said", "")[:200] if session is not None else "",
                **self._picture(),
            )
        )

    def live(self, session: Session | None) -> Response:
        """What changes. The same picture has the same ETag, whichever worker draws it."""
        text = render_template("service_utils/live.html", session=session, **self._picture())
        response = Response(text)
        response.set_etag(hashlib.sha256(text.encode()).hexdigest()[:32])
        response.make_conditional(request)
        response.headers["Server-Time"] = self._clock.now().isoformat()
        return response

    def report(self, session: Session | None) -> Response:
        """The reliability report, to be saved."""
        found = self._desk.report()
        response = Response(json.dumps(found, indent=2) + "\n", mimetype="application/json")
        name = f"reliability-{self._clock.now():%Y-%m-%d}.json"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    def sign_in(self) -> AnyResponse:
        """Take a name and the admin token, give a session."""
        expected = admin_token()
        if expected is None:
            return Response(self._sign_in_page("Signing in is off: ADMIN_TOKEN is not set."), 404)
        refusal = check_attempt(self._attempts)
        if refusal is not None:
            words = "Too many wrong tokens have come from here. Wait a minute."
            return Response(self._sign_in_page(words), 429, {"Retry-After": refusal.headers["Retry-After"]})
        try:
            operator = Operator(name=request.form.get("name", ""), address=address_of_request())
        except ValueError:
            return Response(self._sign_in_page("Say who you are: the log of actions names you."), 400)
        if not same_secret(request.form.get("token", "").strip(), expected):
            self._attempts.note_wrong(operator.address)
            self._desk.audit.record(operator, "sign_in", "", why="asked for", outcome="refused: wrong token")
            return Response(self._sign_in_page("That is not the admin token."), 403)
        self._desk.audit.record(operator, "sign_in", "", why="asked for")
        response = _to_page()
        begin_session(response, operator.name, self._clock.now(), _cookie_path())
        return response

    def sign_out(self) -> AnyResponse:
        """End the session."""
        session = session_of_request(self._clock.now())
        response = _to_page()
        if session is not None and session.sent_this_form():
            end_session(response, _cookie_path())
        return response

    def _picture(self) -> dict[str, Any]:
        return picture_of(self._desk.overview(), self._clock.now())

    def _sign_in_page(self, trouble: str = "") -> str:
        return render_template(
            "service_utils/sign_in.html", trouble=trouble, can_sign_in=admin_token() is not None
        )


def _to_page() -> Response:
    return redirect(url_for(f"{_NAME}.page"), 303)  # type: ignore[return-value]


def _cookie_path() -> str:
    return url_for(f"{_NAME}.page")


def _harden(response: AnyResponse) -> AnyResponse:
    """Nothing from other hosts, no frames, no guessing of types, no addresses told to others."""
    headers = response.headers
    headers["Content-Security-Policy"] = _POLICY
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    if request.endpoint != f"{_NAME}.static":
        headers["Cache-Control"] = "private, no-cache"
        headers.add("Vary", "Cookie")
    return response
