"""Copies of responses that have been read whole, to be kept and handed to several callers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import requests
from requests.cookies import RequestsCookieJar
from requests.hooks import default_hooks
from requests.structures import CaseInsensitiveDict

from service_utils.http.answer import raw_response
from service_utils.http.headers import REQUEST_ID_HEADER
from service_utils.http.response import FastResponse

__all__ = ["copied_response"]

# What a request may keep of its headers: the others may be credentials, whatever they are called.
_HARMLESS = frozenset(
    "accept accept-charset accept-encoding accept-language cache-control connection content-length "
    "content-type if-match if-modified-since if-none-match if-unmodified-since range traceparent tracestate "
    f"user-agent {REQUEST_ID_HEADER.lower()}".split()
)
_UNREAD = b""


def copied_response(response: Any) -> FastResponse:
    """A copy that shares nothing with the response which can be changed.

    Its ``.request`` has lost all headers that may be credentials, and its body. Its ``.raw`` is that of a
    response whose body has been read.
    """
    twin: Any = FastResponse.__new__(FastResponse)
    twin.__dict__ = {
        "_content": response.content,
        "_content_consumed": True,
        "_next": None,
        "status_code": response.status_code,
        "headers": CaseInsensitiveDict(response.headers.items()),
        "url": response.url,
        "encoding": response.encoding,
        "reason": response.reason,
        "elapsed": response.elapsed,
        "request": _without_credentials(response.request),
        "connection": None,
    }
    # Read from the attributes themselves: those that are made when they are read need not be made.
    own = getattr(response, "__dict__", {})
    if own.get("history"):
        twin.history = [copied_response(each) for each in own["history"]]
    if own.get("cookies"):
        twin.cookies = _jar_of(own["cookies"])
    record = getattr(response, "call", None)
    if record is not None:
        twin.call = record
    twin.raw = _read_raw(twin, _sent_headers(own.get("raw"), twin))
    answered: FastResponse = twin
    return answered


def _without_credentials(request: Any) -> Any:
    if not isinstance(request, requests.PreparedRequest):
        return None
    twin: Any = requests.PreparedRequest()
    twin.method, twin.url = request.method, request.url
    headers = (request.headers or {}).items()
    twin.headers = CaseInsensitiveDict(
        (name, value) for name, value in headers if _name_of(name) in _HARMLESS
    )
    twin._cookies, twin.hooks = RequestsCookieJar(), default_hooks()
    return twin


def _name_of(name: str | bytes) -> str:
    return (name.decode("latin-1") if isinstance(name, bytes) else name).lower()


def _jar_of(cookies: Iterable[Any]) -> RequestsCookieJar:
    jar = RequestsCookieJar()
    for cookie in cookies:
        jar.set_cookie(cookie)  # each is copied
    return jar


def _sent_headers(raw: Any, twin: Any) -> Iterable[tuple[str, str]]:
    """As they came: a name that comes several times is one in ``requests``' headers, but not in ``raw``."""
    headers = getattr(raw, "headers", None)
    return list((twin.headers if headers is None else headers).items())


def _read_raw(twin: Any, headers: Iterable[tuple[str, str]]) -> Any:
    raw: Any = raw_response(twin.status_code, twin.reason, headers, _UNREAD)
    raw._fp.close()
    raw.length_remaining = 0 if raw.length_remaining is not None else None
    raw.decode_content = False
    raw.url = twin.request.path_url if twin.request is not None else None
    return raw
