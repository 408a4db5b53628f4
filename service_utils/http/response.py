"""The answers of the fast way: real ``requests.Response`` objects; rarely used parts are made when read."""

from __future__ import annotations

import functools
from collections import deque
from datetime import timedelta
from typing import Any

import requests
from requests.cookies import RequestsCookieJar
from requests.utils import get_encoding_from_headers
from urllib3 import HTTPResponse

from service_utils.errors import LazyCall
from service_utils.http.answer import Answer, raw_response
from service_utils.http.exchange import headers_of

__all__ = ["FastResponse", "response_of"]


class _Lazy:
    """An attribute that is made when it is first read; one that is set before is left alone."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._make(instance)
        return value


def _raw_of(response: FastResponse) -> HTTPResponse:
    """What ``.raw`` is once a body has been read."""
    body: Any = response._content
    chunked = "transfer-encoding" in response.headers or response.request.method == "HEAD"
    raw = raw_response(
        response.status_code, response.reason, response.headers.items(), b"" if chunked else body
    )
    if not chunked:
        deque(raw.stream(decode_content=True), maxlen=0)
    return _as_read(raw, response)


def _as_read(raw: Any, response: FastResponse) -> HTTPResponse:
    """Have it look as it does after ``requests`` has read it from a connection."""
    raw._fp.close()
    raw.length_remaining = 0 if raw.length_remaining is not None else None
    raw.decode_content = False
    raw.retries = response.connection.max_retries
    raw.url = response.request.path_url
    read: HTTPResponse = raw
    return read


class FastResponse(requests.Response):
    """A response that has been read whole.

    Attributes:
        call: The record of the call, where a client has made it; it survives pickling.
    """

    __attrs__ = [*requests.Response.__attrs__, "call"]  # noqa: RUF012 - requests' own name and kind

    raw = _Lazy(_raw_of)
    cookies = _Lazy(lambda _response: RequestsCookieJar())
    history = _Lazy(lambda _response: [])
    call = LazyCall()

    def close(self) -> None:
        """Release the connection, which has happened long ago where nobody has looked at ``.raw``."""
        if "raw" in self.__dict__ and self.raw is not None:
            super().close()


@functools.lru_cache(64)
def _encoding_of(content_type: str) -> str | None:
    return get_encoding_from_headers({"content-type": content_type})


def response_of(
    answer: Answer, request: requests.PreparedRequest, adapter: Any, began: float
) -> FastResponse:
    """Make the response that ``requests`` would make of a plain answer.

    Args:
        answer: The answer.
        request: What it answers.
        adapter: The adapter that sent it.
        began: When that began, in seconds of the machine's monotonic clock.
    """
    response: Any = FastResponse.__new__(FastResponse)
    content_type = answer.fields.get("content-type")
    response.__dict__ = {
        "_content": answer.body,
        "_content_consumed": True,
        "_next": None,
        "status_code": answer.status,
        "headers": headers_of(answer.fields),
        "url": request.url,
        "encoding": None if content_type is None else _encoding_of(content_type[1]),
        "reason": answer.reason,
        "elapsed": timedelta(seconds=answer.head_at - began),
        "request": request,
        "connection": adapter,
    }
    answered: FastResponse = response
    if answer.raw is not None:
        answered.raw = _as_read(answer.raw, answered)
    return answered
