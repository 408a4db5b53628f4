"""What spans say, by OpenTelemetry's semantic conventions for HTTP (stable since 1.23).

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from urllib.parse import urlsplit

from opentelemetry.util.types import AttributeValue

from service_utils.calls import Attempt, CallRecord
from service_utils.client import ResilientServiceClient

__all__ = [
    "KNOWN_METHODS",
    "attempt_attributes",
    "call_attributes",
    "ending_attributes",
    "method_attributes",
    "span_name",
]

KNOWN_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)
_OTHER = "_OTHER"
_PORTS = {"http": 80, "https": 443}

Attributes = dict[str, AttributeValue]


def method_attributes(method: str) -> Attributes:
    """``http.request.method``, of a bounded set of words."""
    if method.upper() in KNOWN_METHODS:
        return {"http.request.method": method.upper()}
    return {"http.request.method": _OTHER, "http.request.method_original": method[:32]}


def span_name(method: str, path: str) -> str:
    """``POST /snapshot/{project}`` where the path is a template, ``POST`` where it may hold anything."""
    word = method.upper() if method.upper() in KNOWN_METHODS else "HTTP"
    return f"{word} {path}" if _is_template(path) else word


def call_attributes(client: ResilientServiceClient, method: str, path: str) -> Attributes:
    """What is known before a call."""
    parts = urlsplit(client.base_url)
    found: Attributes = {
        **method_attributes(method),
        "server.address": parts.hostname or "",
        "server.port": parts.port or _PORTS.get(parts.scheme, 0),
        "url.full": _without_query(client.base_url.rstrip("/") + "/" + path.lstrip("/")),
        "service_utils.service": client.name,
    }
    if _is_template(path):
        found["url.template"] = path.partition("?")[0]
    return found


def ending_attributes(record: CallRecord, circuit: str) -> Attributes:
    """What is known after it."""
    found: Attributes = {
        "service_utils.attempts": len(record.attempts),
        "service_utils.ended": record.ended.value,
        "service_utils.circuit.state": circuit,
    }
    if record.request_id is not None:
        found["service_utils.request_id"] = record.request_id
    if len(record.attempts) > 1:
        found["http.request.resend_count"] = len(record.attempts) - 1
    status = record.attempts[-1].status if record.attempts else None
    if status is not None:
        found["http.response.status_code"] = status
    return found


def attempt_attributes(attempt: Attempt) -> Attributes:
    """What is known of one attempt."""
    found: Attributes = {
        "service_utils.attempt.number": attempt.number,
        "service_utils.attempt.outcome": attempt.outcome.value,
        "service_utils.attempt.duration": attempt.duration,
    }
    if attempt.delay:
        found["service_utils.attempt.delay"] = attempt.delay
    if attempt.status is not None:
        found["http.response.status_code"] = attempt.status
    if attempt.error is not None:
        found["error.message"] = attempt.error
    return found


def _is_template(path: str) -> bool:
    return "{" in path


def _without_query(url: str) -> str:
    """A query string may hold what is nobody's business; a path is what operators search for."""
    return url.partition("?")[0].partition("#")[0]
