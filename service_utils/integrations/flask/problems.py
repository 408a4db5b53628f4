"""Errors as ``application/problem+json`` (RFC 9457), with words that are safe to show to anybody.

What an answer says about a failed call to another service is its display name and what became of the call: no
address, no header, no text of the exception. The client's own log lines tell those.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import requests
from flask import Flask, Response, current_app, has_request_context, json, request
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    InternalServerError,
    NotFound,
    RequestEntityTooLarge,
    default_exceptions,
)
from werkzeug.http import HTTP_STATUS_CODES

from service_utils.calls import CallRecord
from service_utils.clock import SYSTEM, Clock
from service_utils.errors import ServiceError, is_caller_error
from service_utils.http.context import current_request_id, new_request_id, valid_request_id
from service_utils.http.retry_after import parse_retry_after

__all__ = ["PROBLEM_JSON", "problem", "register_problem_handlers"]

PROBLEM_JSON = "application/problem+json"

_RETRY_AFTER_UNKNOWN = 5  # seconds, when nobody can say: our own quick retries have just been in vain
_SOME_SERVICE = "A service that this one depends on"
_DETAILS = {
    502: "{} refused the request.",
    503: "{} is unavailable at the moment.",
    504: "{} did not answer in time.",
}


def problem(
    status: int,
    title: str | None = None,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    **members: Any,
) -> Response:
    """An error answer in problem JSON.

    Args:
        status: The HTTP status, 400 to 599.
        title: What sort of problem it is; the standard phrase of the status when left out.
        detail: What happened this time; the usual words for the status when left out.
        headers: Further headers of the answer.
        **members: Further members of the object, such as ``field``. ``request_id`` is there without being
            given: the bound one, else that of the request's header, else a new one.

    Raises:
        ValueError: ``status`` is no error status.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"status={status!r}: must be an error status, 400 to 599")
    phrase = title if title is not None else HTTP_STATUS_CODES.get(status, "Error")
    body = {
        "title": phrase,
        "status": status,
        "detail": detail if detail is not None else _usual_words(status, phrase),
        "request_id": request_id(),
        **members,
    }
    given = headers.items() if isinstance(headers, Mapping) else headers
    return Response(json.dumps(body) + "\n", status, list(given or ()), mimetype=PROBLEM_JSON)


def request_id() -> str:
    """The id under which the request of this moment is known; a new one where it has none."""
    bound = current_request_id()
    if bound is not None:
        return bound
    received = request.headers.get("X-Request-ID") if has_request_context() else None
    return received if received is not None and valid_request_id(received) else new_request_id()


def _usual_words(status: int, phrase: str) -> str:
    return getattr(default_exceptions.get(status), "description", None) or phrase


def register_problem_handlers(app: Flask, *, clock: Clock = SYSTEM) -> None:
    """Have an app answer every error with problem JSON.

    Werkzeug's errors keep their status, words and headers. Exceptions of ``requests`` become 503 with
    Retry-After, 504 for a time-out, 502 for a 4xx the service gave us and 500 where the call itself was
    wrong. Any other exception is a 500 that says nothing about itself; Flask logs it and tells
    ``got_request_exception``, as without these handlers.

    ``TESTING`` and ``DEBUG`` alone do not let exceptions through to the WSGI server, where they would become
    pages with a stack trace: ``PROPAGATE_EXCEPTIONS`` is set to False unless the app has set it. True still
    does.

    Args:
        app: The app, before its first request. Handlers it registers for narrower classes or for single
            status codes go before these.
        clock: What a service's Retry-After date is compared with.
    """
    if app.config["PROPAGATE_EXCEPTIONS"] is None:
        app.config["PROPAGATE_EXCEPTIONS"] = False
    app.register_error_handler(HTTPException, _from_http_exception)
    app.register_error_handler(requests.RequestException, partial(_from_request_exception, clock))


def _from_http_exception(error: HTTPException) -> Response | HTTPException:
    if error.response is not None or error.code is None or error.code < 400:
        return error  # the answer is already made, or it is no error
    headers = [(name, value) for name, value in error.get_headers() if name.lower() != "content-type"]
    known_as = request_id()
    if isinstance(error, InternalServerError) and error.original_exception is not None:
        kind = type(error.original_exception).__name__
        current_app.logger.error("Request %s was answered with 500 because of the %s above", known_as, kind)
    words = _description(error)
    members = {"field": "body"} if isinstance(error, RequestEntityTooLarge) else {}
    return problem(error.code, error.name, words, headers=headers, request_id=known_as, **members)


def _description(error: HTTPException) -> str | None:
    cause = error.__cause__
    if type(error) is BadRequest and isinstance(cause, BadRequest):
        # Outside of debug mode Flask hides here where the JSON of the body is broken; senders want to know.
        error = cause
    if error.description == NotFound.description:
        return "There is nothing at this address."
    if isinstance(error, RequestEntityTooLarge):
        limit = request.max_content_length
        return "The body is too long." if limit is None else f"The body is longer than {limit} bytes."
    return None if error.description is None else str(error.description)


def _from_request_exception(clock: Clock, error: requests.RequestException) -> Response:
    if is_caller_error(error):
        raise error  # a bug of this app: Flask logs it and answers 500
    status = _status(error)
    service = _service_name(error)
    known_as = request_id()
    text = "Request %s was answered with %d because of a %s"
    current_app.logger.info(text, known_as, status, type(error).__name__)
    after = _retry_after(error, clock)
    if after is None and status == 503:
        after = _RETRY_AFTER_UNKNOWN
    headers = {} if after is None else {"Retry-After": str(after)}
    detail = _DETAILS[status].format(service or _SOME_SERVICE)
    return problem(status, detail=detail, headers=headers, request_id=known_as)


def _status(error: requests.RequestException) -> int:
    if isinstance(error, requests.Timeout):
        return 504
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return 502 if 400 <= error.response.status_code < 500 else 503
    return 503


def _service_name(error: requests.RequestException) -> str:
    call = getattr(error, "call", None)
    if isinstance(error, ServiceError) and error.service:
        return error.service
    return call.service if isinstance(call, CallRecord) else ""


def _retry_after(error: requests.RequestException, clock: Clock) -> int | None:
    """Whole seconds for the header, or None when neither the error nor the service's answer says."""
    seconds: float | None = getattr(error, "retry_after", None)
    if seconds is None and error.response is not None:
        seconds = parse_retry_after(error.response.headers.get("Retry-After"), clock.now())
    if seconds is None or not math.isfinite(seconds):
        return None
    return max(math.ceil(seconds), 1)
