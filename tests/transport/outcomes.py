"""What a caller sees of one request, in a form that can be compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import requests

Outcome = dict[str, Any]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_NAMED_CLASS = re.compile(r"\b\w+(?=\(host=)")


def outcome_of(call: Callable[[], requests.Response]) -> Outcome:
    """Make a request and tell all about its answer, or about the exception that came instead."""
    try:
        response = call()
    except Exception as error:
        return outcome_of_error(error)
    try:
        body: object = response.content
    except Exception as error:
        response.close()
        body = outcome_of_error(error)
    try:
        return {"body": body, **_of_head(response)}
    except Exception as error:
        return {"body": body, "attributes": outcome_of_error(error)}


def outcome_of_error(error: BaseException) -> Outcome:
    """Type and text of an exception, without addresses in memory and names of private classes."""
    inner = error.args[0] if error.args else None
    request = getattr(error, "request", None)
    return {
        "error": type(error),
        "inner": type(inner),
        "reason": type(getattr(inner, "reason", None)),
        "text": _NAMED_CLASS.sub("X", _ADDRESS.sub("", str(error))),
        "request": None if request is None else (request.method, request.url),
        "response": getattr(error, "response", None) is not None,
    }


def _of_head(response: requests.Response) -> Outcome:
    following = response.next
    raw: Any = response.raw
    return {
        "status": response.status_code,
        "reason": response.reason,
        "headers": list(response.headers.items()),
        "encoding": response.encoding,
        "url": response.url,
        "history": [each.status_code for each in response.history],
        "is_redirect": response.is_redirect,
        "next": None if following is None else (following.method, following.url, following.body),
        "cookies": sorted((cookie.name, cookie.value, cookie.path) for cookie in response.cookies),
        "raw.version": raw.version,
        "raw.version_string": raw.version_string,
        "raw.status": raw.status,
        "raw.reason": raw.reason,
        "raw.headers": list(raw.headers.items()),
    }
