"""The log lines: a listener that turns events into text on the logger ``service_utils``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service_utils.calls import EndReason
from service_utils.events import (
    AttemptFailed,
    AttemptStarted,
    CallFinished,
    CircuitChanged,
    CircuitRejected,
    CircuitState,
    DeadLetterAdded,
    Event,
    FailureKind,
    FallbackUsed,
    RetryScheduled,
)

__all__ = ["LoggingListener", "seconds_in_words"]

_REPEAT_EVERY = 1.0  # seconds between two lines about rejected requests of one open spell


def seconds_in_words(seconds: float) -> str:
    """``1s`` for a whole number of seconds, else two decimals: ``0.87s``."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds:.2f}s"


@dataclass(slots=True)
class _Rejections:
    generation: int
    logged_at: float
    unsaid: int = 0


class LoggingListener:
    """Writes one line per event; the fields of the event travel in ``extra`` for structured logs.

    Rejected requests are told when they begin, and then at most once a second with the number left out, so that an
    outage under load does not become an outage of the disk. May be called from any thread.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger if logger is not None else logging.getLogger("service_utils")
        self._lock = threading.Lock()
        self._rejections: dict[str, _Rejections] = {}
        self._writers: dict[type[Event], Callable[[Any], None]] = {
            AttemptStarted: self._attempt_started,
            AttemptFailed: self._attempt_failed,
            RetryScheduled: self._retry_scheduled,
            CallFinished: self._call_finished,
            CircuitChanged: self._circuit_changed,
            CircuitRejected: self._circuit_rejected,
            FallbackUsed: self._fallback_used,
            DeadLetterAdded: self._dead_letter_added,
        }

    def __call__(self, event: Event) -> None:
        """Write the event's line, if it has one and its level is on."""
        writer = self._writers.get(type(event))
        if writer is not None:
            writer(event)

    def _write(self, level: int, event: Event, text: str, *args: object, **fields: object) -> None:
        if self._logger.isEnabledFor(level):
            extra = {"service": event.service, "client": event.name, "event": type(event).__name__, **fields}
            self._logger.log(level, "[%s] " + text, event.service, *args, extra=extra)

    def _attempt_started(self, event: AttemptStarted) -> None:
        self._write(
            logging.DEBUG,
            event,
            "%s %s (attempt %d/%d)",
            event.method,
            event.path,
            event.number,
            event.max_attempts,
            **_attempt_fields(event),
        )

    def _attempt_failed(self, event: AttemptFailed) -> None:
        fields = {**_attempt_fields(event), "error": event.detail, "status": event.status, "duration": event.duration}
        if event.kind is FailureKind.STATUS:
            text, args = "Server error %s on attempt %d/%d", (event.status, event.number, event.max_attempts)
        elif event.kind is FailureKind.TIMEOUT:
            text, args = "Timeout on attempt %d/%d: %s", (event.number, event.max_attempts, event.detail)
        elif event.kind in (FailureKind.CONNECTION, FailureKind.BODY):
            text, args = "Connection failed on attempt %d/%d: %s", (event.number, event.max_attempts, event.detail)
        else:
            text, args = "Attempt %d/%d not made: %s", (event.number, event.max_attempts, event.detail)
        self._write(logging.WARNING, event, text, *args, **fields)

    def _retry_scheduled(self, event: RetryScheduled) -> None:
        fields = {**_attempt_fields(event), "delay": event.delay}
        self._write(logging.WARNING, event, "Retrying in %s...", seconds_in_words(event.delay), **fields)

    def _call_finished(self, event: CallFinished) -> None:
        record = event.record
        if not record.attempts:
            return
        fields: dict[str, object] = {
            "method": record.method,
            "path": record.path,
            "attempts": len(record.attempts),
            "request_id": record.request_id,
            "ended": record.ended.value,
            "duration": record.duration,
        }
        if record.ended is EndReason.SUCCESS or (event.error_type is None and record.ended is not EndReason.REFUSED):
            if record.ended is EndReason.SUCCESS:
                self._write(logging.DEBUG, event, "✓ %s %s succeeded", record.method, record.path, **fields)
                return
        if record.ended is EndReason.ATTEMPTS_EXHAUSTED:
            self._write(logging.ERROR, event, "✗ All %d retry attempts failed", len(record.attempts), **fields)
        else:
            reason = record.ended.value.replace("_", " ")
            text = "✗ Giving up after attempt %d/%d (%s)"
            self._write(logging.ERROR, event, text, len(record.attempts), event.max_attempts, reason, **fields)

    def _circuit_changed(self, event: CircuitChanged) -> None:
        with self._lock:
            self._rejections.pop(event.service, None)
        fields = {"from_state": event.from_state.value, "to_state": event.to_state.value, "reason": event.reason}
        if event.to_state is CircuitState.HALF_OPEN:
            self._write(logging.INFO, event, "Circuit breaker entering HALF_OPEN state", **fields)
        elif event.to_state is CircuitState.CLOSED:
            self._write(logging.INFO, event, "Circuit breaker CLOSED (%s)", event.reason, **fields)
        elif event.to_state is CircuitState.DISABLED:
            self._write(logging.WARNING, event, "Circuit breaker DISABLED (%s)", event.reason, **fields)
        else:
            self._write(logging.ERROR, event, "Circuit breaker OPEN (%s)", event.reason, **fields)

    def _circuit_rejected(self, event: CircuitRejected) -> None:
        unsaid = self._count_rejection(event)
        if unsaid is None:
            return
        more = f" ({unsaid} more)" if unsaid else ""
        fields = {"state": event.state.value, "cooldown_remaining": event.cooldown_remaining, "unsaid": unsaid}
        self._write(logging.WARNING, event, "Circuit breaker OPEN - rejecting request%s", more, **fields)

    def _count_rejection(self, event: CircuitRejected) -> int | None:
        """How many rejections went untold since the last line, or None when this one shall go untold too."""
        with self._lock:
            seen = self._rejections.get(event.service)
            if seen is None or seen.generation != event.generation:
                self._rejections[event.service] = _Rejections(event.generation, event.at)
                return 0
            if 0 <= event.at - seen.logged_at < _REPEAT_EVERY:
                seen.unsaid += 1
                return None
            unsaid, seen.unsaid, seen.logged_at = seen.unsaid, 0, event.at
            return unsaid

    def _fallback_used(self, event: FallbackUsed) -> None:
        fields = {"pattern": event.pattern, "strategy": event.strategy, "status": event.status, "error": event.detail}
        if event.pattern == "best_effort":
            self._write(logging.WARNING, event, "Skipped %s (%s)", event.strategy, event.reason, **fields)
        elif event.pattern == "fail_closed":
            self._write(logging.WARNING, event, "%s failed closed (%s)", event.strategy, event.reason, **fields)
        elif event.status == "success":
            self._write(logging.WARNING, event, "Fallback %s used (%s)", event.strategy, event.reason, **fields)
        else:
            self._write(logging.WARNING, event, "Fallback %s failed (%s)", event.strategy, event.detail, **fields)

    def _dead_letter_added(self, event: DeadLetterAdded) -> None:
        text = "Dead letter %s added: %s %s"
        self._write(logging.WARNING, event, text, event.letter_id, event.method, event.path)


def _attempt_fields(event: AttemptStarted | AttemptFailed | RetryScheduled) -> dict[str, object]:
    return {"method": event.method, "path": event.path, "attempt": event.number, "max_attempts": event.max_attempts}
