"""What happens, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service_utils.calls import CallRecord, Outcome

__all__ = [
    "AttemptFailed",
    "AttemptStarted",
    "BulkheadRejected",
    "CallFinished",
    "CallsPaused",
    "CircuitChanged",
    "CircuitRejected",
    "CircuitState",
    "DeadLetterAdded",
    "DeadLetterSettled",
    "DegradationChanged",
    "Event",
    "FailureKind",
    "FallbackUsed",
    "HealthChecked",
    "LoadShed",
    "RateLimited",
    "RetryScheduled",
]


class CircuitState(StrEnum):
    """The state of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


class FailureKind(StrEnum):
    """What sort of failure an attempt met."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    STATUS = "status"
    BODY = "body"
    REFUSED = "refused"
    CALLER = "caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events say.

    Attributes:
        service: Display name of the service, or of the breaker or chain that stands alone.
        name: Short name, fit for metric labels.
        at: Seconds on the monotonic clock of whoever tells it.
    """

    service: str
    name: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(Event):
    """An attempt is about to be sent."""

    method: str
    path: str
    number: int
    max_attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """An attempt did not bring a usable answer. ``detail`` is the cause in words."""

    method: str
    path: str
    number: int
    max_attempts: int
    kind: FailureKind
    detail: str
    status: int | None
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """The call waits ``delay`` seconds and then makes attempt ``number``."""

    method: str
    path: str
    number: int
    max_attempts: int
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished(Event):
    """A call has ended, well or badly. ``error_type`` names the exception it ended with, if any."""

    record: CallRecord
    outcome: Outcome
    max_attempts: int
    error_type: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitChanged(Event):
    """A circuit breaker went from one state to another. ``reason`` says why, in the words of the log line.

    Attributes:
        from_state: The state before, as this process knew it.
        to_state: The state now.
        reason: Why.
        generation: The number of the spell that begins.
        elsewhere: Whether another process did it, and this one has learnt of it.
    """

    from_state: CircuitState
    to_state: CircuitState
    reason: str
    generation: int
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitRejected(Event):
    """A circuit breaker refused a permit."""

    state: CircuitState
    cooldown_remaining: float
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadRejected(Event):
    """A bulkhead had no slot for a caller.

    Attributes:
        max_concurrent: How many it lets in at once.
        waiting: How many callers were still waiting for a slot.
        waited: Seconds this caller had waited.
    """

    max_concurrent: int
    waiting: int
    waited: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited(Event):
    """A call was refused because its turn would have come too late.

    Attributes:
        retry_after: Seconds until it would have come.
        reason: ``rate limit`` for our own limit, ``Retry-After`` where the service had asked for a pause.
    """

    retry_after: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsPaused(Event):
    """The service asked to be left alone, and so all callers pause for ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackUsed(Event):
    """A failure pattern stepped in.

    Attributes:
        pattern: ``fail_open``, ``fail_closed``, ``best_effort``, ``chain`` or ``stale_cache``.
        strategy: What answered instead, or what was given up.
        status: ``success`` (the strategy answered), ``failure`` (it failed too), ``skipped`` (nothing did).
        reason: Why the first choice failed, in words.
        detail: The sentence of the error it failed with.
    """

    pattern: str
    strategy: str
    status: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterAdded(Event):
    """A call that could not be delivered is kept for later."""

    letter_id: str
    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterSettled(Event):
    """A kept letter was tried again or put away. ``service`` is whom it is for.

    Attributes:
        outcome: ``delivered``, ``retried`` (it waits for its next attempt), ``dead`` (it rests until a person
            decides) or ``purged``.
        attempts: How often it has been tried since it was kept.
        detail: Why, in words; empty for a delivery.
        duration: Seconds this attempt took.
    """

    letter_id: str
    outcome: str
    attempts: int
    detail: str = ""
    duration: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationChanged(Event):
    """The application as a whole can do less than before, or more again.

    Attributes:
        from_level: ``normal``, ``minor``, ``moderate``, ``severe`` or ``critical``.
        to_level: The level it is at now.
        reason: Why, in words.
        worse: Whether it can do less than before.
        elsewhere: Whether another process of the host has found or decided so.
    """

    from_level: str
    to_level: str
    reason: str
    worse: bool
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChecked(Event):
    """A health check has ended.

    Attributes:
        check: Its name.
        status: ``healthy``, ``degraded`` or ``unhealthy``.
        duration: Seconds it took.
        detail: What it found, in words.
    """

    check: str
    status: str
    duration: float
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShed(Event):
    """A request of our own callers was turned away to protect the rest.

    Attributes:
        route: The protected path, not the one asked for.
        reason: ``full``, ``queue full``, ``circuit open``, … in words.
        retry_after: Seconds after which trying again makes sense.
    """

    route: str
    reason: str
    retry_after: float
