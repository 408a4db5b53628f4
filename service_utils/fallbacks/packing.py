"""Answers as bytes: responses without what is secret in them, and values that are plain JSON. No pickle.

Whoever can write to a pickle's file can run code in whoever reads it. This can only be wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.structures import CaseInsensitiveDict

from service_utils.calls import CallRecord, EndReason, attach_call
from service_utils.http.copies import copied_response

__all__ = ["Packed", "packed", "unpacked"]

_MOST = 10**300  # Python refuses to read numbers that are much longer
_RESPONSE, _VALUE = "response", "value"

# A response may bring credentials, too: a cookie, a token for the next call.
_SECRET_WORDS = (
    "cookie",
    "auth",
    "token",
    "secret",
    "password",
    "credential",
    "session",
    "api-key",
    "apikey",
    "jwt",
    "signature",
)


@dataclass(frozen=True, slots=True)
class Packed:
    """An answer as it is kept.

    Attributes:
        kind: ``response`` or ``value``.
        head: JSON: all of a response but its body; empty for a value.
        body: A response's body, or a value as JSON.
    """

    kind: str
    head: str
    body: bytes

    @property
    def size(self) -> int:
        """Bytes, nearly."""
        return len(self.head) + len(self.body)


def packed(answer: Any) -> Packed | None:
    """An answer in bytes, or None for what would not come back as it was."""
    if isinstance(answer, requests.Response):
        return _packed_response(answer)
    try:
        return Packed(_VALUE, "", json.dumps(answer).encode()) if _is_plain(answer) else None
    except RecursionError:  # in itself, or very deep
        return None


def unpacked(kept: Packed) -> Any:
    """The answer again, an object of the caller's own.

    Raises:
        ValueError: That is no answer.
    """
    try:
        if kept.kind == _VALUE:
            return json.loads(kept.body)
        if kept.kind == _RESPONSE:
            return _response_of(json.loads(kept.head), kept.body)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no answer that can be read: {type(error).__name__}") from error
    raise ValueError(f"kind {kept.kind!r}: no answer that can be read")


def _packed_response(response: requests.Response) -> Packed | None:
    body = response.content
    head = {
        "status": response.status_code,
        "reason": response.reason if isinstance(response.reason, str) else None,
        "headers": _harmless(response.headers),
        "url": _without_secrets(response.url),
        "encoding": response.encoding,
        "elapsed": response.elapsed.total_seconds(),
        "call": _packed_call(getattr(response, "call", None)),
    }
    return Packed(_RESPONSE, json.dumps(head), body) if isinstance(body, bytes) else None


def _response_of(head: dict[str, Any], body: bytes) -> requests.Response:
    made: Any = requests.Response()
    made._content, made._content_consumed = body, True
    made.status_code = int(head["status"])
    made.reason, made.encoding, made.url = head["reason"], head["encoding"], head["url"]
    made.headers = CaseInsensitiveDict((str(name), str(value)) for name, value in head["headers"])
    made.elapsed = timedelta(seconds=float(head["elapsed"]))
    response = copied_response(made)
    if head["call"] is not None:
        attach_call(response, _call_of(head["call"]))
    return response


def _harmless(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (str(name), str(value))
        for name, value in headers.items()
        if not any(word in str(name).lower() for word in _SECRET_WORDS)
    ]


def _without_secrets(url: str | None) -> str | None:
    """An address without its user's name and password, its query and its fragment."""
    if not url:
        return None
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _packed_call(record: Any) -> dict[str, Any] | None:
    """The story of the call without its attempts, whose errors may quote whole addresses."""
    if not isinstance(record, CallRecord):
        return None
    return {
        "service": record.service,
        "name": record.name,
        "method": record.method,
        "path": record.path,
        "request_id": record.request_id,
        "ended": record.ended.value,
        "duration": record.duration,
    }


def _call_of(kept: dict[str, Any]) -> CallRecord:
    return CallRecord(
        service=kept["service"],
        name=kept["name"],
        method=kept["method"],
        path=kept["path"],
        attempts=(),
        idempotency_key=None,
        request_id=kept["request_id"],
        ended=EndReason(kept["ended"]),
        duration=float(kept["duration"]),
    )


def _is_plain(value: Any) -> bool:
    """Whether JSON gives back the very same; so subclasses and tuples are out."""
    kind: type = type(value)
    if kind is dict:
        return all(type(key) is str and _is_plain(each) for key, each in value.items())
    if kind is list:
        return all(map(_is_plain, value))
    if kind is float:
        return math.isfinite(value)
    if kind is int:
        return bool(abs(value) < _MOST)
    return kind in (str, bool, type(None))
