"""The log lines: a listener that turns events into text on the logger ``service_utils``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from service_utils.calls import EndReason
from service_utils.events import (
    AttemptFailed,
    AttemptStarted,
    BulkheadRejected,
    CallFinished,
    CallsPaused,
    CircuitChanged,
    CircuitRejected,
    CircuitState,
    DeadLetterAdded,
    DeadLetterSettled,
    DegradationChanged,
    Event,
    FailureKind,
    FallbackUsed,
    Hush,
    LoadShed,
    RateLimited,
    RetryScheduled,
)
from service_utils.forks import guard

__all__ = ["LoggingListener", "seconds_in_words"]

_REPEAT_EVERY = 1.0  # seconds between two lines about rejected requests of one open spell

_OPENED = (logging.ERROR, "[%s] Circuit breaker OPEN (%s)")
_CHANGED = {
    CircuitState.HALF_OPEN: (logging.INFO, "[%s] Circuit breaker entering HALF_OPEN state"),
    CircuitState.CLOSED: (logging.INFO, "[%s] Circuit breaker CLOSED (%s)"),
    CircuitState.DISABLED: (logging.WARNING, "[%s] Circuit breaker DISABLED (%s)"),
}
_SETTLED = {
    "delivered": (logging.INFO, "[%s] Dead letter %s delivered (attempt %d)"),
    "retried": (logging.WARNING, "[%s] Dead letter %s not delivered (attempt %d), tried again later: %s"),
    "dead": (logging.ERROR, "[%s] Dead letter %s rests until somebody decides (attempt %d): %s"),
    "purged": (logging.WARNING, "[%s] Dead letter %s purged (attempts %d): %s"),
}


def seconds_in_words(seconds: float) -> str:
    """``1s`` for a whole number of seconds, else two decimals: ``0.87s``."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds:.2f}s"


class _Rejections(Hush):
    """Those since the last line: of one open spell, or of one bulkhead or limit."""

    __slots__ = ("generation", "since")

    def __init__(self, generation: int, since: float) -> None:
        super().__init__(since + _REPEAT_EVERY)
        self.generation = generation
        self.since = since


class LoggingListener:
    """Writes one line per event; the fields of the event travel in ``extra`` for structured logs.

    Rejected requests are told when they begin, and then at most once a second with the number left out, lest
    an outage under load becomes an outage of the disk. May be called from any thread. A forked child has no
    rejections left to tell.
    """

    ignores_refusals = True  # the line about a refused call is that of the circuit which refused it

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger if logger is not None else logging.getLogger("service_utils")
        # Re-entrant, as all locks here: the garbage collector, and a signal handler, may run within and tell
        # of something.
        self._lock = threading.RLock()
        self._rejections: dict[tuple[str, str], _Rejections] = {}  # by service and name
        self._refusals: dict[tuple[str, str, str], _Rejections] = {}  # by kind, service and name
        self._writers: dict[type[Event], Callable[[Any], None]] = {
            AttemptStarted: self._attempt_started,
            AttemptFailed: self._attempt_failed,
            RetryScheduled: self._retry_scheduled,
            CallFinished: self._call_finished,
            CircuitChanged: self._circuit_changed,
            CircuitRejected: self._circuit_rejected,
            BulkheadRejected: self._bulkhead_rejected,
            RateLimited: self._rate_limited,
            CallsPaused: self._calls_paused,
            FallbackUsed: self._fallback_used,
            DeadLetterAdded: self._dead_letter_added,
            DeadLetterSettled: self._dead_letter_settled,
            DegradationChanged: self._degradation_changed,
            LoadShed: self._load_shed,
        }
        guard(self)

    def wants_routine(self) -> bool:
        """Whether lines about calls that go well would be written."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def hush(self, who: tuple[str, str], generation: int, at: float) -> Hush | None:
        """Where rejections are counted as long as it is too early for another line about them."""
        seen = self._rejections.get(who)
        if seen is None or seen.generation != generation:
            return None
        return seen if seen.since <= at < seen.until else None

    def _renew_in_child(self) -> None:
        for seen in (*self._rejections.values(), *self._refusals.values()):
            seen.unsaid = 0

    def __call__(self, event: Event) -> None:
        """Write the event's line, if it has one and its level is on."""
        writer = self._writers.get(type(event))
        if writer is not None:
            writer(event)

    def _write(self, level: int, event: Event, text: str, *args: object, **fields: object) -> None:
        """Write ``text``, whose first place is for the service."""
        if self._logger.isEnabledFor(level):
            extra = {"service": event.service, "client": event.name, "event": type(event).__name__, **fields}
            self._logger.log(level, text, event.service, *args, extra=extra)

    def _attempt_started(self, event: AttemptStarted) -> None:
        if not self._logger.isEnabledFor(logging.DEBUG):
            return  # told of every attempt and rarely wanted: no fields are gathered for nothing
        args = (event.method, event.path, event.number, event.max_attempts)
        self._write(logging.DEBUG, event, "[%s] %s %s (attempt %d/%d)", *args, **_attempt_fields(event))

    def _attempt_failed(self, event: AttemptFailed) -> None:
        args: tuple[object, ...] = (event.number, event.max_attempts, event.detail)
        text = "[%s] Attempt %d/%d given up: %s"
        if event.kind is FailureKind.STATUS:
            args = (event.status, event.number, event.max_attempts)
            text = "[%s] Server error %s on attempt %d/%d"
        elif event.kind is FailureKind.TIMEOUT:
            text = "[%s] Timeout on attempt %d/%d: %s"
        elif event.kind in (FailureKind.CONNECTION, FailureKind.BODY):
            text = "[%s] Connection failed on attempt %d/%d: %s"
        fields = {"error": event.detail, "status": event.status, "duration": event.duration}
        self._write(logging.WARNING, event, text, *args, **_attempt_fields(event), **fields)

    def _retry_scheduled(self, event: RetryScheduled) -> None:
        text, delay = "[%s] Retrying in %s...", seconds_in_words(event.delay)
        self._write(logging.WARNING, event, text, delay, **_attempt_fields(event), delay=event.delay)

    def _call_finished(self, event: CallFinished) -> None:
        record = event.record
        if record.ended is EndReason.SUCCESS:
            if self._logger.isEnabledFor(logging.DEBUG):
                text = "[%s] ✓ %s %s succeeded"
                self._write(logging.DEBUG, event, text, record.method, record.path, **_call_fields(event))
        elif record.attempts:
            self._call_failed(event, len(record.attempts))

    def _call_failed(self, event: CallFinished, tried: int) -> None:
        fields = _call_fields(event)
        if event.record.ended is EndReason.ATTEMPTS_EXHAUSTED:
            self._write(logging.ERROR, event, "[%s] ✗ All %d retry attempts failed", tried, **fields)
            return
        reason = event.record.ended.value.replace("_", " ")
        text = "[%s] ✗ Giving up after attempt %d/%d (%s)"
        self._write(logging.ERROR, event, text, tried, event.max_attempts, reason, **fields)

    def _circuit_changed(self, event: CircuitChanged) -> None:
        with self._lock:
            self._rejections.pop((event.service, event.name), None)
        fields = {
            "from_state": event.from_state.value,
            "to_state": event.to_state.value,
            "reason": event.reason,
            "generation": event.generation,
        }
        level, text = _CHANGED.get(event.to_state, _OPENED)
        arguments = (event.reason,) if text.endswith("(%s)") else ()
        # Of what all workers of a host learn, one line is enough: the one of whose doing it was.
        self._write(logging.DEBUG if event.elsewhere else level, event, text, *arguments, **fields)

    def _circuit_rejected(self, event: CircuitRejected) -> None:
        unsaid = self._count_rejection(event)
        if unsaid is None:
            return
        text, more = "[%s] Circuit breaker OPEN - rejecting request%s", _more(unsaid)
        fields = {
            "state": event.state.value,
            "cooldown_remaining": event.cooldown_remaining,
            "unsaid": unsaid,
        }
        self._write(logging.WARNING, event, text, more, **fields)

    def _count_rejection(self, event: CircuitRejected) -> int | None:
        """How many rejections went untold since the last line, or None when this one shall go untold too."""
        who, at = (event.service, event.name), event.at
        with self._lock:
            hush = self.hush(who, event.generation, at)
            if hush is not None:
                hush.unsaid += 1
                return None
            seen = self._rejections.get(who)
            if seen is None or seen.generation != event.generation:
                self._rejections[who] = _Rejections(event.generation, at)
                return 0
            seen.since, seen.until = at, at + _REPEAT_EVERY
            unsaid, seen.unsaid = seen.unsaid, 0
            return unsaid

    def _bulkhead_rejected(self, event: BulkheadRejected) -> None:
        unsaid = self._count_refusal("bulkhead", event)
        if unsaid is not None:
            text = "[%s] Bulkhead full (%d slots taken, %d waiting) - rejecting request%s"
            fields = {"max_concurrent": event.max_concurrent, "waited": event.waited, "unsaid": unsaid}
            args = (event.max_concurrent, event.waiting, _more(unsaid))
            self._write(logging.WARNING, event, text, *args, waiting=event.waiting, **fields)

    def _rate_limited(self, event: RateLimited) -> None:
        unsaid = self._count_refusal(event.reason, event)
        if unsaid is not None:
            text = "[%s] Calls are held back (%s), next one in %s - rejecting request%s"
            args = (event.reason, seconds_in_words(event.retry_after), _more(unsaid))
            fields = {"reason": event.reason, "retry_after": event.retry_after, "unsaid": unsaid}
            self._write(logging.WARNING, event, text, *args, **fields)

    def _calls_paused(self, event: CallsPaused) -> None:
        text, pause = "[%s] Pausing all calls for %s (Retry-After)", seconds_in_words(event.seconds)
        self._write(logging.WARNING, event, text, pause, seconds=event.seconds)

    def _count_refusal(self, kind: str, event: Event) -> int | None:
        """How many went untold since the last line, or None when this one shall go untold too."""
        what = (kind, event.service, event.name)
        with self._lock:
            seen = self._refusals.get(what)
            if seen is not None and seen.since <= event.at < seen.until:
                seen.unsaid += 1
                return None
            self._refusals[what] = _Rejections(0, event.at)
            return seen.unsaid if seen is not None else 0

    def _fallback_used(self, event: FallbackUsed) -> None:
        why = event.reason
        if event.pattern == "best_effort":
            text = "[%s] Skipped %s (%s)"
        elif event.pattern == "fail_closed":
            text = "[%s] %s failed closed (%s)"
        elif event.status == "success":
            text = "[%s] Fallback %s used (%s)"
        elif event.status == "skipped":
            text, why = "[%s] Fallback %s skipped (%s)", event.detail
        else:
            text, why = "[%s] Fallback %s failed (%s)", event.detail
        fields = {
            "pattern": event.pattern,
            "strategy": event.strategy,
            "status": event.status,
            "error": event.detail,
        }
        self._write(logging.WARNING, event, text, event.strategy, why, **fields)

    def _dead_letter_added(self, event: DeadLetterAdded) -> None:
        fields = {"letter_id": event.letter_id, "method": event.method, "path": event.path}
        text = "[%s] Dead letter %s added: %s %s"
        self._write(logging.WARNING, event, text, event.letter_id, event.method, event.path, **fields)

    def _dead_letter_settled(self, event: DeadLetterSettled) -> None:
        level, text = _SETTLED.get(event.outcome, _SETTLED["dead"])
        args: tuple[object, ...] = (event.letter_id, event.attempts)
        if event.outcome != "delivered":
            args = (*args, event.detail)
        fields = {
            "letter_id": event.letter_id,
            "outcome": event.outcome,
            "attempts": event.attempts,
            "error": event.detail,
            "duration": event.duration,
        }
        self._write(level, event, text, *args, **fields)

    def _degradation_changed(self, event: DegradationChanged) -> None:
        level = logging.WARNING if event.worse else logging.INFO
        if event.elsewhere:
            level = logging.DEBUG
        if not self._logger.isEnabledFor(level):
            return
        extra = {
            "service": event.service,
            "event": type(event).__name__,
            "from_level": event.from_level,
            "to_level": event.to_level,
            "reason": event.reason,
        }
        args = (event.from_level, event.to_level, event.reason)
        self._logger.log(level, "System degradation %s -> %s (%s)", *args, extra=extra)

    def _load_shed(self, event: LoadShed) -> None:
        unsaid = self._count_refusal(f"{event.route} {event.reason}", event)
        if unsaid is not None:
            text = "[%s] Shedding load on %s (%s), to come back in %s%s"
            args = (event.route, event.reason, seconds_in_words(event.retry_after), _more(unsaid))
            fields = {"route": event.route, "reason": event.reason, "retry_after": event.retry_after}
            self._write(logging.WARNING, event, text, *args, **fields, unsaid=unsaid)


def _more(unsaid: int) -> str:
    return f" ({unsaid} more)" if unsaid else ""


def _attempt_fields(event: AttemptStarted | AttemptFailed | RetryScheduled) -> dict[str, object]:
    return {
        "method": event.method,
        "path": event.path,
        "attempt": event.number,
        "max_attempts": event.max_attempts,
    }


def _call_fields(event: CallFinished) -> dict[str, object]:
    record = event.record
    return {
        "method": record.method,
        "path": record.path,
        "attempts": len(record.attempts),
        "request_id": record.request_id,
        "ended": record.ended.value,
        "duration": record.duration,
        "error_type": event.error_type,
        "error": event.detail,
    }
