"""Who may act on the services: those who show ``ADMIN_TOKEN``, if they have not guessed too often."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict, deque

from flask import Response, request

from service_utils.clock import SYSTEM, Clock
from service_utils.errors import TokenError
from service_utils.forks import guard
from service_utils.integrations.flask.problems import problem
from service_utils.integrations.flask.tokens import Verdict, judge_request, same_secret
from service_utils.operating import Operator

__all__ = [
    "ADMIN_TOKEN",
    "OPERATOR_HEADER",
    "Attempts",
    "address_of_request",
    "admin_token",
    "check_admin",
    "check_attempt",
    "check_reader",
    "operator_of_request",
    "shows_admin_token",
]

ADMIN_TOKEN = "ADMIN_TOKEN"
OPERATOR_HEADER = "X-Operator"

_WRONG_ALLOWED = 10
_WITHIN = 60.0  # seconds
_ADDRESSES = 1000  # that are remembered; an attacker with more of them pushes others out, not in
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="operators"'}
_SCHEME = "bearer"


class Attempts:
    """Counts wrong tokens by the address they came from: ten within a minute, then none until it is over.

    Each process counts by itself. Behind a proxy all come from one address, unless the app trusts its header
    (``ProxyFix``). May be used from any thread.

    Args:
        clock: Where the time comes from.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.RLock()
        guard(self)

    def wait(self, address: str) -> float:
        """Seconds for which nobody from there may try again; 0.0 for who may."""
        now = self._clock.monotonic()
        with self._lock:
            wrong = self._wrong.get(address)
            if wrong is None or len(wrong) < _WRONG_ALLOWED:
                return 0.0
            return max(wrong[0] + _WITHIN - now, 0.0)

    def note_wrong(self, address: str) -> None:
        """A wrong token has come from there."""
        now = self._clock.monotonic()
        with self._lock:
            wrong = self._wrong.setdefault(address, deque(maxlen=_WRONG_ALLOWED))
            self._wrong.move_to_end(address)
            while wrong and wrong[0] <= now - _WITHIN:
                wrong.popleft()
            wrong.append(now)
            while len(self._wrong) > _ADDRESSES:
                self._wrong.popitem(last=False)


def admin_token() -> str | None:
    """The token of this moment; None switches off what needs it."""
    return os.environ.get(ADMIN_TOKEN, "").strip() or None


def check_admin(attempts: Attempts) -> Response | None:
    """The refusal for the request of this moment, or None for ``Authorization: Bearer`` with the admin token.

    404 where there is no token, 401 for a wrong or missing one, 429 after too many wrong ones.
    """
    expected = admin_token()
    if expected is None:
        return problem(404, detail="The admin API is switched off: ADMIN_TOKEN is not set.")
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if not given or scheme.lower() != _SCHEME:
        return problem(401, detail="The admin token is missing.", headers=_CHALLENGE)
    refusal = check_attempt(attempts)
    if refusal is not None:
        return refusal
    if same_secret(given.strip(), expected):
        return None
    attempts.note_wrong(address_of_request())
    return problem(401, detail="The admin token is not valid.", headers=_CHALLENGE)


def check_reader(attempts: Attempts) -> Response | None:
    """Like :func:`check_admin`, but the internal token is good for looking, too."""
    if admin_token() is not None and "Authorization" not in request.headers:
        try:
            if judge_request() is Verdict.ACCEPTED:
                return None
        except TokenError:
            return problem(503, detail="The server cannot check credentials at the moment.")
    return check_admin(attempts)


def shows_admin_token() -> bool:
    """Whether somebody who may look may also act; to be asked when they have been let in."""
    return "Authorization" in request.headers


def check_attempt(attempts: Attempts) -> Response | None:
    """The refusal for an address from which too many wrong tokens have come."""
    wait = attempts.wait(address_of_request())
    if not wait:
        return None
    headers = {"Retry-After": str(math.ceil(wait))}
    return problem(429, detail="Too many wrong tokens have come from this address.", headers=headers)


def address_of_request() -> str:
    """Where the request comes from, as far as that is known."""
    return request.remote_addr or ""


def operator_of_request() -> Operator:
    """Who asks, by ``X-Operator``; ``admin`` for who does not say.

    Raises:
        ValueError: The header has more than 200 characters, or some that cannot be shown.
    """
    name = request.headers.get(OPERATOR_HEADER, "").strip() or "admin"
    return Operator(name=name, address=address_of_request())
