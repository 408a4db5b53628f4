"""What is kept of a failed write so that it can be sent again: everything but credentials."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from service_utils.calls import Replay
from service_utils.http.body import replayable_bytes
from service_utils.http.headers import TIME_LEFT_HEADER
from service_utils.http.idempotency import IDEMPOTENCY_HEADER
from service_utils.http.tokens import INTERNAL_TOKEN_HEADER

__all__ = ["READING_METHODS", "may_be_kept", "replay_of"]

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

_SECRET_WORDS = (
    "auth",
    "token",
    "secret",
    "cookie",
    "password",
    "api-key",
    "apikey",
    "credential",
    "session",
    "key",
    "pass",
    "pwd",
    "signature",
    "jwt",
)
_SECRET_VALUE = re.compile(r"\s*(basic|bearer|digest|negotiate|token)\s", re.IGNORECASE)
_PER_SEND_HEADERS = frozenset({"content-length", "host", "connection", TIME_LEFT_HEADER.lower()})
_OF_THE_BODY = frozenset({"content-type", "content-encoding"})
_MAX_REPLAY_BYTES = 10 * 2**20


def replay_of(
    method: str,
    path: str,
    body: Any,
    headers: Iterable[tuple[str, str | bytes]],
    callers: Collection[str],
    idempotency_key: str | None,
) -> Replay | None:
    """What a dead letter needs to send a call again; None for reads and for bodies that are gone.

    Args:
        method: The HTTP method, upper case.
        path: Path and query below the base URL.
        body: That of the prepared request.
        headers: Name and value of each of its headers.
        callers: Names, in lower case, of the headers that the caller and the client set. The others are not
            kept, but for those of the body: what an ``auth=`` has added is a credential, whatever its name.
        idempotency_key: The key of all attempts, or None.
    """
    if method in READING_METHODS:
        return None
    data = replayable_bytes(body, _MAX_REPLAY_BYTES)
    if data is None and body is not None:
        return None
    kept: dict[str, Any] = {
        name: value
        for name, value in headers
        if (name.lower() in callers or name.lower() in _OF_THE_BODY) and may_be_kept(name, value)
    }
    return Replay(method, path if path.startswith("/") else "/" + path, data, kept, idempotency_key)


def may_be_kept(header: str, value: str | bytes) -> bool:
    """Whether a header may lie in a store: it is no credential, and none that each sending makes anew."""
    name = header.lower()
    if name == IDEMPOTENCY_HEADER.lower():
        return True
    if name in _PER_SEND_HEADERS or name == INTERNAL_TOKEN_HEADER.lower():
        return False
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return not any(word in name for word in _SECRET_WORDS) and not _SECRET_VALUE.match(text)
