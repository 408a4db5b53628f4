"""The receiving side of the internal token: who may call this app.

A verifier looks at a request's headers and gives a verdict. The plain token of ``INTERNAL_SERVICE_TOKEN`` is
one; :func:`set_token_verifiers` gives an app others, which are asked together.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import logging
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import ParamSpec, TypeAlias

from flask import Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import Headers

from service_utils.errors import TokenError
from service_utils.http.tokens import INTERNAL_TOKEN_HEADER, internal_tokens
from service_utils.integrations.flask.problems import problem
from service_utils.profiles import current_profile

__all__ = [
    "Verdict",
    "Verifier",
    "check_internal_token",
    "check_operator",
    "ensure_token_configured",
    "judge_request",
    "judge_token",
    "require_internal_token",
    "same_secret",
    "set_token_verifiers",
    "verify_plain_token",
]

P = ParamSpec("P")

_logger = logging.getLogger("service_utils")

_ADMIN_TOKEN = "ADMIN_TOKEN"
_SIGNING_KEYS = ("INTERNAL_TOKEN_KEYS", "INTERNAL_TOKEN_KEYS_FILE")  # of service_utils.integrations.jwt
_VERIFIERS = "service_utils.token_verifiers"
_JUDGED = "service_utils.verdict"
_WARNED = "service_utils.token_warning"
_CHALLENGE = {"WWW-Authenticate": 'InternalToken realm="internal"'}
_OPERATOR_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="operators"'}


class Verdict(StrEnum):
    """What a verifier makes of a request."""

    ACCEPTED = "accepted"
    WRONG = "wrong"
    ABSENT = "absent"
    """There is nothing this verifier could judge."""
    WRONG_AUDIENCE = "wrong_audience"
    """Genuine, but meant for another service."""


Verifier: TypeAlias = Callable[[Headers], Verdict]


def verify_plain_token(headers: Headers) -> Verdict:
    """Compare ``X-INTERNAL-TOKEN`` with the current and the previous token, in constant time.

    Raises:
        TokenError: Our own token cannot be read.
    """
    given = headers.get(INTERNAL_TOKEN_HEADER, "")
    known = internal_tokens()
    if not given or not known:
        return Verdict.ABSENT
    return Verdict.ACCEPTED if _is_one_of(given, known) else Verdict.WRONG


def same_secret(given: str, expected: str) -> bool:
    """Whether both are the same; how long it takes tells nothing about where they differ."""
    return _is_one_of(given, (expected,))


def _is_one_of(given: str, known: Sequence[str]) -> bool:
    found = False
    for token in known:  # all of them, always: stopping at the first would tell which one it was
        found |= hmac.compare_digest(_bytes(given), _bytes(token))
    return found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def set_token_verifiers(app: Flask, verifiers: Sequence[Verifier]) -> None:
    """Give an app its verifiers in place of the plain token alone.

    Raises:
        ValueError: There is none.
        TypeError: One of them cannot be called.
    """
    if not verifiers:
        raise ValueError(f"verifiers={verifiers!r}: at least one is needed")
    for each in verifiers:
        if not callable(each):
            raise TypeError(f"verifiers: {each!r} is no callable that takes the request's headers")
    app.extensions[_VERIFIERS] = tuple(verifiers)


def judge_token(headers: Headers) -> Verdict:
    """The verdict of all of the app's verifiers: accepted by one is accepted; the most telling refusal else.

    Raises:
        TokenError: Our own token cannot be read, and no other verifier has accepted the request.
    """
    verifiers: Sequence[Verifier] = current_app.extensions.get(_VERIFIERS, (verify_plain_token,))
    verdicts: set[Verdict] = set()
    trouble: TokenError | None = None
    for verify in verifiers:
        try:
            verdicts.add(verify(headers))
        except TokenError as error:
            trouble = error
    if trouble is not None and Verdict.ACCEPTED not in verdicts:
        raise trouble
    for verdict in (Verdict.ACCEPTED, Verdict.WRONG_AUDIENCE, Verdict.WRONG):
        if verdict in verdicts:
            return verdict
    return Verdict.ABSENT


def judge_request() -> Verdict:
    """The verdict on the request of this moment; it is judged once, however often somebody asks.

    Raises:
        TokenError: Our own token cannot be read.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    # With the app: one that hands its environ on to another one has verifiers of its own.
    known = request.environ.get(_JUDGED)
    if known is None or known[0] is not app:
        known = request.environ[_JUDGED] = (app, judge_token(request.headers))
    verdict: Verdict = known[1]
    return verdict


def ensure_token_configured() -> None:
    """To be called when an app starts: profile ``production`` does not start without a token.

    Keys for signed tokens in the environment are as good.

    Raises:
        ValueError: It has none.
        TokenError: There is one that cannot be read, whatever the profile.
    """
    tokens = internal_tokens()  # in every profile: with one that cannot be read nobody would ever be let in
    if current_profile().secrets_required and not tokens and not _has_signing_keys():
        raise ValueError(
            "INTERNAL_SERVICE_TOKEN is not set, and profile production does not start without it"
        )


def _has_signing_keys() -> bool:
    return any(os.environ.get(name) for name in _SIGNING_KEYS)


def require_internal_token(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Let only callers with a valid internal token into a view (sync or async).

    The token is the plain one, or one that a verifier of the app accepts, such as a signed one
    (:class:`service_utils.integrations.jwt.TokenVerifier`). Missing, wrong or expired: 401; valid but for
    another service: 403; both problem JSON. Without any token configured, the profiles ``development`` and
    ``testing`` admit callers on this machine and warn once.

    Raises:
        ValueError: Profile ``production`` has no token.
        TokenError: There is one that cannot be read, whatever the profile.
    """
    ensure_token_configured()

    @functools.wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        refusal = check_internal_token()
        if refusal is not None:
            return refusal
        answer: ResponseReturnValue = current_app.ensure_sync(view)(*args, **kwargs)
        return answer

    return guarded


def check_internal_token() -> Response | None:
    """The refusal for the request of this moment, or None when it may pass. Fits ``app.before_request``.

    An app that uses it calls :func:`ensure_token_configured` when it starts.
    """
    try:
        verdict = judge_request()
        if verdict is Verdict.ABSENT and _needs_no_token():
            return None
    except TokenError as error:
        return _cannot_judge(error)
    return None if verdict is Verdict.ACCEPTED else _refusal(verdict)


def check_operator() -> Response | None:
    """Like :func:`check_internal_token`, for operators' pages; outside ``production`` everybody may pass.

    There the internal token opens, or ``Authorization: Bearer`` with the token of ``ADMIN_TOKEN`` if that is
    set.
    """
    if not current_profile().secrets_required or _shows_admin_token():
        return None
    try:
        verdict = judge_request()
    except TokenError as error:
        return _cannot_judge(error)
    if verdict is Verdict.ACCEPTED:
        return None
    return problem(401, detail="The internal or the admin token is needed.", headers=_OPERATOR_CHALLENGE)


def _shows_admin_token() -> bool:
    expected = os.environ.get(_ADMIN_TOKEN, "").strip()
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if not expected or scheme.lower() != "bearer":
        return False
    return _is_one_of(given.strip(), (expected,))


def _refusal(verdict: Verdict) -> Response:
    if verdict is Verdict.WRONG_AUDIENCE:
        return problem(403, detail="The internal token is meant for another service.")
    flaw = "is missing" if verdict is Verdict.ABSENT else "is not valid"
    return problem(401, detail=f"The internal token {flaw}.", headers=_CHALLENGE)


def _cannot_judge(error: TokenError) -> Response:
    _logger.error("Nobody can be let in: %s", error)
    return problem(503, detail="The server cannot check credentials at the moment.")


def _needs_no_token() -> bool:
    if current_profile().secrets_required or _expects_tokens() or not _from_this_machine():
        return False
    first = object()
    if current_app.extensions.setdefault(_WARNED, first) is first:
        _logger.warning("INTERNAL_SERVICE_TOKEN is not set: every caller on this machine is let in, no other")
    return True


def _expects_tokens() -> bool:
    verifiers: Sequence[Verifier] = current_app.extensions.get(_VERIFIERS, ())
    # One that has keys of its own says so: with keys, nobody is let in without a token.
    keyed = any(getattr(each, "has_keys", False) for each in verifiers)
    return keyed or _has_signing_keys() or bool(internal_tokens())


def _from_this_machine() -> bool:
    # Behind ProxyFix remote_addr is what a header said: the peer that sent the header has to be local too.
    behind_proxy = request.environ.get("werkzeug.proxy_fix.orig", {})
    peers = (request.remote_addr, behind_proxy.get("REMOTE_ADDR", request.remote_addr))
    return all(_is_loopback(peer) for peer in peers)


def _is_loopback(peer: str | None) -> bool:
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
