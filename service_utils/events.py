"""What happens, as values, and how it is told to those who listen.

Clients, breakers and fallbacks tell their story in the frozen dataclasses below. Log lines, metrics and
traces are listeners: any callable that takes one event. A listener runs in the thread in which the thing
happened, never under a lock, and its bugs stop with it: an ``Exception`` out of a listener is logged and
changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from service_utils.calls import CallRecord, Outcome

__all__ = [
    "AttemptFailed",
    "AttemptStarted",
    "CallFinished",
    "CircuitChanged",
    "CircuitRejected",
    "CircuitState",
    "DeadLetterAdded",
    "Event",
    "FailureKind",
    "FallbackUsed",
    "Listener",
    "RetryScheduled",
    "notify",
    "subscribe",
]

_logger = logging.getLogger("service_utils")


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
    """A circuit breaker went from one state to another. ``reason`` says why, in the words of the log line."""

    from_state: CircuitState
    to_state: CircuitState
    reason: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitRejected(Event):
    """A circuit breaker refused a permit."""

    state: CircuitState
    cooldown_remaining: float
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackUsed(Event):
    """A failure pattern stepped in.

    Attributes:
        pattern: ``fail_open``, ``fail_closed``, ``best_effort`` or ``chain``.
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


class Listener(Protocol):
    """Anything that can be called with one event. It must not block: the caller's request waits for it."""

    def __call__(self, event: Any, /) -> object:
        """Take note of the event."""
        ...


# By subscription. Replaced, never changed, so that telling an event needs no lock.
_subscribers: dict[object, Listener] = {}
_subscribing = threading.RLock()


def subscribe(listener: Listener) -> Callable[[], None]:
    """Have every event of this process told to a listener, once for each time it is subscribed.

    Returns:
        The function that ends this subscription.

    Raises:
        TypeError: ``listener`` is not callable.
    """
    global _subscribers
    if not callable(listener):
        raise TypeError(f"listener={listener!r}: must be a callable that takes one event")
    subscription = object()
    with _subscribing:
        _subscribers = {**_subscribers, subscription: listener}

    def unsubscribe() -> None:
        global _subscribers
        with _subscribing:
            _subscribers = {key: each for key, each in _subscribers.items() if key is not subscription}

    return unsubscribe


def notify(listeners: Iterable[Listener], event: Event) -> None:
    """Tell an event to the given listeners, then to those of the whole process; none can break the caller."""
    for listener in (*listeners, *_subscribers.values()):
        try:
            listener(event)
        except Exception as error:
            _report(listener, event, error)


def _report(listener: Listener, event: Event, error: Exception) -> None:
    try:
        text = "[%s] Listener %r failed on %s"
        _logger.error(text, event.service, listener, type(event).__name__, exc_info=error)
    except Exception:
        # A logging handler that raises is the last thing left to tell, and there is nobody to tell it to.
        return
