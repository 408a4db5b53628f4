"""The exception a caller gets in the end: requests' own type, with a sentence an operator can read."""

from __future__ import annotations

import requests
from requests import exceptions as rex
from urllib3 import exceptions as uex

from service_utils.http.classify import Verdict, causes

__all__ = ["BodyTimeout", "described", "status_error"]


class BodyTimeout(requests.ConnectionError, requests.ReadTimeout):
    """The body stopped coming. ``requests`` raises a ConnectionError for that; it is a Timeout as well."""


def described(error: Exception, sentence: str, *, late: bool) -> Exception:
    """The error in its own type with a new sentence, or the error itself where that cannot be.

    ``requests``' own types are made anew, so that an exception object which somebody shares (a mock, say) is
    not changed. What is no ``RequestException`` but came from the network becomes a
    ``requests.ConnectionError``, and so does an answer whose head cannot be read: requests' type for that
    says that the caller's own header is at fault. ``late`` tells that it was a time-out.
    """
    _hide_queries(error)
    if late and type(error) is requests.ConnectionError:
        return BodyTimeout(sentence, request=error.request, response=error.response)
    if isinstance(error, rex.RequestException) and not isinstance(error, rex.InvalidHeader):
        if type(error).__module__ != rex.__name__:
            return error
        return type(error)(sentence, request=error.request, response=error.response)
    request = error.request if isinstance(error, rex.RequestException) else None
    return requests.ConnectionError(sentence, request=request)


def _hide_queries(error: BaseException) -> None:
    """Take the queries out of urllib3's texts: they may hold keys, and tracebacks show every cause."""
    for cause in causes(error):
        if isinstance(cause, uex.MaxRetryError) and cause.url:
            path, mark, query = cause.url.partition("?")
            if query:
                cause.args = tuple(
                    each.replace(mark + query, "?...") if isinstance(each, str) else each
                    for each in cause.args
                )
                cause.url = path + "?..."


def status_error(response: requests.Response, sentence: str, verdict: Verdict) -> requests.HTTPError:
    """The HTTPError of a failed status; ``.retry_after`` is the seconds the service asked for, or None."""
    error = requests.HTTPError(sentence, response=response, request=response.request)
    error.retry_after = verdict.retry_after  # type: ignore[attr-defined]
    return error
