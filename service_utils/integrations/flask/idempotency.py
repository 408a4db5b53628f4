"""The receiving side of ``Idempotency-Key``: an effect happens once, its first answer is given again.

After draft-ietf-httpapi-idempotency-key-header: 400 for a key that is missing where one is required, 409
while the first request is still at it, 422 when something else is asked under the same key. All of them are
problem JSON.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

from flask import current_app, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from service_utils.http.idempotency import IDEMPOTENCY_HEADER
from service_utils.idempotency.keys import fingerprint_of, parse_key, record_id
from service_utils.idempotency.record import KEEP_SECONDS, MAX_ANSWER, Question
from service_utils.idempotency.sqlite import SharedTransaction
from service_utils.idempotency.store import IdempotencyStore
from service_utils.integrations.flask.idempotency_turn import Check, Checked, Turn, run_apart, run_together
from service_utils.integrations.flask.problems import problem
from service_utils.policies.checks import require_count, require_seconds

__all__ = ["Checked", "anybody", "idempotency_key", "idempotent"]

P = ParamSpec("P")

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110, 9.2.1
_KEY = "_service_utils_idempotency_key"


def anybody() -> str:
    """The default of ``caller``: all who are let into the route share one space of keys."""
    return ""


def idempotency_key() -> str | None:
    """The key of the request of this moment, without the quotes it may have come in; None without one.

    It is there from the moment at which an :func:`idempotent` route is reached.
    """
    key: str | None = g.get(_KEY)
    return key


def idempotent(
    store: IdempotencyStore | SharedTransaction,
    *,
    required: bool = True,
    expires: float = KEEP_SECONDS,
    caller: Callable[[], str] = anybody,
    fingerprint: Callable[[], bytes] | None = None,
    check: Check | None = None,
    max_answer: int = MAX_ANSWER,
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Have a view (sync or async) carried out once per ``Idempotency-Key``, caller, method and path.

    Put it below the route and below guards, so that nobody gets an answer whom the guards would refuse. GET,
    HEAD, OPTIONS and TRACE pass it by.

    The first answer is kept if it is below 500 and none of 408, 409, 425, 429; other answers say that nothing
    was done, and free the key. The view's exceptions count as the answers that the app's error handlers make
    of them; but one that ends in a 500, unless it is an ``HTTPException``, says nothing about what was done
    before it: the key is then *unknown*, as it is after a crash, and a repeat gets 409 without Retry-After
    until ``check``, or an operator by the store's ``settle``, says what became of it.

    With ``store.in_transaction()`` in place of a store the view writes to ``connection`` of that object. What
    it wrote is undone, and the key free, when its answer is not kept, when it raises, and after a crash.

    Args:
        store: Where the records are kept.
        required: Whether a request without a key is refused with 400; else it is simply carried out.
        expires: Seconds for which an answer is kept, from the moment it was given.
        caller: Gives the name of who asks, such as the authenticated user; two callers may use the same key.
            Never a token or anything else that is secret or changes with each request: it is stored, and a
            repeat must come under the same name.
        fingerprint: Gives what makes two requests the same, in place of query string, media type and body.
            Whatever it or ``caller`` raises is answered without using up the key.
        check: Called with the view's arguments when a repeat finds its key unknown. It gives the answer of
            the first request, when that was carried out, or one of :class:`Checked`.
        max_answer: Bytes of the longest body that is kept. Where it is longer, a repeat gets a 409 that says
            so; the effect happens once all the same.

    Raises:
        TypeError, ValueError: An argument is of another kind or out of range.
    """
    if not isinstance(store, IdempotencyStore | SharedTransaction):
        raise TypeError(f"store={store!r}: must be an idempotency store")
    require_seconds("expires", expires, zero=False)
    require_count("max_answer", max_answer, least=0)
    for name, given in (("caller", caller), ("fingerprint", fingerprint), ("check", check)):
        if given is not None and not callable(given):
            raise TypeError(f"{name}={given!r}: must be callable")

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @functools.wraps(view)
        def once(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            given = request.headers.get(IDEMPOTENCY_HEADER)
            if request.method in _SAFE_METHODS or (given is None and not required):
                answer: ResponseReturnValue = current_app.ensure_sync(view)(*args, **kwargs)
                return answer
            try:
                question = _question(_key(given), caller, fingerprint)
            except _BadKey as error:
                return problem(400, detail=str(error), field=IDEMPOTENCY_HEADER)
            asked = None if check is None else functools.partial(check, *args, **kwargs)
            turn = Turn(question, functools.partial(view, *args, **kwargs), asked, expires, max_answer)
            if isinstance(store, SharedTransaction):
                return run_together(store, turn)
            return run_apart(store, turn)

        return once

    return decorate


class _BadKey(Exception):
    """The key is missing or malformed; the message may be shown to anybody."""


def _key(given: str | None) -> str:
    if given is None:
        raise _BadKey(f"The header {IDEMPOTENCY_HEADER} is missing.")
    try:
        key = parse_key(given)
    except ValueError as error:
        raise _BadKey(f"The header {IDEMPOTENCY_HEADER} is malformed: {error}.") from None
    setattr(g, _KEY, key)
    return key


def _question(key: str, caller: Callable[[], str], fingerprint: Callable[[], bytes] | None) -> Question:
    who = caller()
    if not isinstance(who, str):
        raise TypeError(f"caller() gave a {type(who).__name__}: must be a string")
    asked = _whole_request() if fingerprint is None else [fingerprint()]
    # With where it is mounted, and under which name it was asked for: another app there has other routes.
    matching = current_app.url_map.host_matching or current_app.subdomain_matching
    method, path = request.method, f"{request.host if matching else ''}{request.root_path}{request.path}"
    return Question(record_id(who, method, path, key), fingerprint_of(key, asked), who, method, path)


def _whole_request() -> list[bytes]:
    body = request.get_data()
    limit = request.max_content_length
    if limit is not None and request.content_length is None and len(body) >= limit:
        # A body that did not announce its length (chunked) ends for Werkzeug where the limit is.
        raise RequestEntityTooLarge
    return [request.query_string, request.mimetype.encode() if body else b"", body]
