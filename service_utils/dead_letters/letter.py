"""DeadLetter: one call or message that waits to be delivered, and the lease on it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from service_utils.dead_letters.ids import new_letter_id
from service_utils.wording import describe_error, shown_path

__all__ = ["CALL", "MESSAGE", "DeadLetter", "Lease", "LetterStatus", "describe_error", "new_letter_id"]

CALL: Final = "call"
MESSAGE: Final = "message"


class LetterStatus(StrEnum):
    """What a letter is waiting for."""

    PENDING = "pending"
    """Its next attempt."""
    LEASED = "leased"
    """The end of an attempt: a worker has it in hand."""
    DEAD = "dead"
    """A person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One call, or one other message, that could not be delivered.

    Times are seconds since 1970 (UTC), as the wall clock told them.

    Attributes:
        id: 26 characters that sort by the time they were made (a ULID).
        kind: ``"call"`` or ``"message"``.
        service: Short name of the client, or the type of the message.
        method: The HTTP method; empty for a message.
        path: Path and query string below the client's base URL; empty for a message.
        body: The body as it was sent, or a message's payload as JSON; None for none.
        headers: The headers as they were sent, without credentials.
        idempotency_key: The key of all its attempts, or None.
        request_id: The ``X-Request-ID`` it was first sent with, or None.
        status: What it waits for.
        attempts: How often its delivery was tried since it was kept.
        max_retries: After so many attempts it is dead.
        created_at: When it was kept.
        next_attempt_at: When it may be tried next.
        last_error: Why it is here, in words, or None.
        last_status: HTTP status of the last attempt, or None.
        last_response: The answer's body, where it tells what is wrong with the letter.
    """

    id: str
    kind: str = CALL
    service: str
    method: str = ""
    path: str = field(default="", repr=False)  # its query may hold what is nobody's business
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    idempotency_key: str | None = field(default=None, repr=False)
    request_id: str | None = None
    status: LetterStatus = LetterStatus.PENDING
    attempts: int = 0
    max_retries: int = 5
    created_at: float
    next_attempt_at: float
    last_error: str | None = None
    last_status: int | None = None
    last_response: bytes | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Bytes that count against ``max_bytes``: the body, and what is written about it."""
        headers = sum(len(name) + len(value) for name, value in self.headers.items())
        return len(self.body or b"") + len(self.last_response or b"") + len(self.path) + headers

    def as_dict(self, *, body: bool = False) -> dict[str, Any]:
        """JSON-ready, times in ISO 8601 (UTC), without secrets in the query string.

        Args:
            body: Whether the body and the kept answer are shown, as text or, if they are none, in base64.
                They are users' data.
        """
        shown: dict[str, Any] = {
            "id": self.id,
            "kind": self.kind,
            "service": self.service,
            "method": self.method,
            "path": shown_path(self.path),
            "status": self.status.value,
            "attempts": self.attempts,
            "max_retries": self.max_retries,
            "created_at": _iso(self.created_at),
            "next_attempt_at": _iso(self.next_attempt_at) if self.status is not LetterStatus.DEAD else None,
            "last_error": self.last_error,
            "last_status": self.last_status,
            "request_id": self.request_id,
            "headers": dict(self.headers),
            "body_bytes": len(self.body or b""),
        }
        if body:
            shown["body"] = _shown(self.body)
            shown["last_response"] = _shown(self.last_response)
        return shown

    def payload(self) -> Any:
        """A message's payload.

        Raises:
            ValueError: The body is no JSON.
        """
        return json.loads(self.body or b"null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to try one letter, for a while.

    Attributes:
        letter: The letter as it was when it was leased.
        token: Tells this lease from all others of this letter, earlier and later ones.
        expires_at: When others may have it, in seconds since 1970.
    """

    letter: DeadLetter
    token: int
    expires_at: float


def _iso(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):  # a clock that was beyond all calendars
        return None


def _shown(data: bytes | None) -> dict[str, str] | None:
    if data is None:
        return None
    try:
        return {"encoding": "utf-8", "content": data.decode()}
    except UnicodeDecodeError:
        return {"encoding": "base64", "content": base64.b64encode(data).decode()}
