"""Who is signed in: a cookie that nobody can make without the admin token, and the word that forms carry."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import datetime

from flask import Response, request

from service_utils.integrations.flask.operators import address_of_request, admin_token
from service_utils.integrations.flask.tokens import same_secret
from service_utils.operating import Operator

__all__ = ["COOKIE", "LASTS", "Session", "begin_session", "end_session", "session_of_request"]

COOKIE = "service_utils_operator"
LASTS = 8 * 3600
"""Seconds: a shift. The page asks again after it."""

_PURPOSE = b"service_utils operator session"
_OWN_SITE = frozenset({"same-origin", "none", ""})


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who has shown the admin token.

    Attributes:
        operator: Who, as they say themselves.
        form_token: What each form of theirs carries, so that no other site can send one for them.
    """

    operator: Operator
    form_token: str

    def sent_this_form(self) -> bool:
        """Whether the form of this request is one that we have given to them."""
        if request.headers.get("Sec-Fetch-Site", "") not in _OWN_SITE:
            return False
        return same_secret(request.form.get("form_token", ""), self.form_token)


def begin_session(response: Response, name: str, now: datetime, path: str) -> None:
    """Sign somebody in, who has shown the token of this moment.

    Args:
        response: Gets the cookie. Scripts cannot read it, other sites cannot have it sent.
        name: Who, already checked.
        now: Of the wall clock.
        path: Below which the cookie is sent.
    """
    content = {"name": name, "ends": now.timestamp() + LASTS, "nonce": secrets.token_urlsafe(16)}
    text = base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
    response.set_cookie(
        COOKIE,
        f"{text}.{_sign(text)}",
        max_age=LASTS,
        path=path,
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )


def end_session(response: Response, path: str) -> None:
    """Sign them out."""
    response.delete_cookie(COOKIE, path=path, secure=request.is_secure, httponly=True, samesite="Strict")


def session_of_request(now: datetime) -> Session | None:
    """Who is signed in, or None. A new admin token ends all sessions."""
    text, _, signature = request.cookies.get(COOKIE, "").partition(".")
    if not signature or admin_token() is None or not same_secret(signature, _sign(text)):
        return None
    try:
        content = json.loads(base64.urlsafe_b64decode(text))
        operator = Operator(name=content["name"], address=address_of_request())
        if not now.timestamp() < content["ends"]:
            return None
        return Session(operator, _sign(f"form {content['nonce']}"))
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None  # signed by us, but by another version


def _sign(text: str) -> str:
    token = admin_token()
    assert token is not None
    key = hmac.new(token.encode("utf-8", "surrogatepass"), _PURPOSE, hashlib.sha256).digest()
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
