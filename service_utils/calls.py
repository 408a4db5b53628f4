"""What one call was: its outcome, its attempts and why it ended, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from service_utils.errors import LazyCall

__all__ = [
    "Attempt",
    "CallRecord",
    "CallSource",
    "EndReason",
    "LazyCall",
    "Outcome",
    "Replay",
    "attach_call",
    "call_of",
]


class Outcome(StrEnum):
    """What a circuit breaker makes of one result."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


class EndReason(StrEnum):
    """Why a call made no further attempt."""

    SUCCESS = "success"
    NOT_RETRYABLE = "not_retryable"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    BUDGET_EXHAUSTED = "budget_exhausted"
    DEADLINE = "deadline"
    CIRCUIT_OPENED = "circuit_opened"
    HALF_OPEN = "half_open"
    REFUSED = "refused"
    CALLER_ERROR = "caller_error"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a call.

    Attributes:
        number: 1 for the first.
        outcome: How it was classified.
        status: The HTTP status, or None when no answer came.
        error: The cause in words, or None when an answer came.
        duration: Seconds from just before sending to the end of the body (of the head when streaming).
        delay: Seconds waited before it.
    """

    number: int
    outcome: Outcome
    status: int | None
    error: str | None
    duration: float
    delay: float


@dataclass(frozen=True, slots=True)
class Replay:
    """Everything needed to send a failed write once more, credentials left out.

    Attributes:
        method: The HTTP method.
        path: Path and query string, relative to the client's base URL, beginning with a slash.
        body: The body as it was sent, or None.
        headers: The headers as they were sent, without credentials and cookies.
        idempotency_key: The key all attempts carried, or None.
    """

    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str]
    idempotency_key: str | None


def no_replay() -> Replay | None:
    """The replay of a call that was no write, or did not fail."""
    return None


@dataclass(frozen=True)
class CallRecord:
    """The story of one call; each response and each exception that leaves a client has one as ``.call``.

    Attributes:
        service: Display name of the service.
        name: The client's short name.
        method: The HTTP method.
        path: The path as the caller gave it (with path parameters: the template), without its query.
        attempts: One :class:`Attempt` per attempt, in order; empty when nothing was tried.
        idempotency_key: The key all attempts carried, or None.
        request_id: The request id all attempts carried.
        ended: Why there was no further attempt.
        duration: Seconds the whole call took, waiting included.
    """

    service: str
    name: str
    method: str
    path: str
    attempts: tuple[Attempt, ...]
    idempotency_key: str | None
    request_id: str | None
    ended: EndReason
    duration: float = 0.0
    _replay: Callable[[], Replay | None] = field(default=no_replay, repr=False, compare=False)

    def record(self) -> CallRecord:
        """The record itself: it is its own source."""
        return self

    @property
    def replay(self) -> Replay | None:
        """What to send again; None when the call was no write, did not fail, or its body is gone."""
        return self._replay()

    def __reduce__(self) -> tuple[Any, ...]:
        return CallRecord, (
            self.service,
            self.name,
            self.method,
            self.path,
            self.attempts,
            self.idempotency_key,
            self.request_id,
            self.ended,
            self.duration,
            _Ready(self.replay),  # what makes it may hold the request itself, which is not for travelling
        )


@dataclass(frozen=True, slots=True)
class _Ready:
    """A replay that is already made, such as one that has come out of a pickle."""

    replay: Replay | None

    def __call__(self) -> Replay | None:
        return self.replay


class CallSource(Protocol):
    """What can tell the record of a call that has ended: always the same story, whenever it is asked."""

    def record(self) -> CallRecord:
        """The record."""
        ...


def attach_call(carrier: object, source: CallSource) -> None:
    """Hang a call's record on a response or an exception; one that takes no attributes goes without."""
    if isinstance(getattr(type(carrier), "call", None), LazyCall):
        inside = carrier.__dict__
        inside["_call_source"] = source
        inside.pop("call", None)  # of an earlier call: somebody may raise one error twice
        return
    try:
        carrier.call = source.record()  # type: ignore[attr-defined]
    except AttributeError:
        return


def call_of(response_or_error: object) -> CallRecord:
    """The record of the call that ended in this response or exception.

    Raises:
        ValueError: It did not come out of a ResilientServiceClient.
    """
    record = getattr(response_or_error, "call", None)
    if not isinstance(record, CallRecord):
        raise ValueError(f"{response_or_error!r} has no call record: no ResilientServiceClient made it")
    return record
