"""What happens, counted: a listener that turns events into counters and histograms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import values
from prometheus_client.metrics_core import Metric

from service_utils.calls import CallRecord, EndReason, Outcome
from service_utils.events import (
    BulkheadRejected,
    CallFinished,
    CircuitChanged,
    CircuitRejected,
    DeadLetterAdded,
    DeadLetterSettled,
    DegradationChanged,
    Event,
    FallbackUsed,
    HealthChecked,
    RetryScheduled,
)
from service_utils.forks import guard
from service_utils.health import HealthStatus
from service_utils.http.context import bound_context
from service_utils.integrations.prometheus import names
from service_utils.integrations.prometheus.alone import Alone
from service_utils.integrations.prometheus.family import counter, histogram
from service_utils.integrations.prometheus.kinds import kind_of_failure

__all__ = ["REJECTED", "Counts", "counted_by_many"]

_logger = logging.getLogger("service_utils")

REJECTED = "rejected"
_REFUSED_BY_CIRCUIT = "CircuitOpenError"
_FAILURE, _BUDGET, _CALLER = Outcome.FAILURE, EndReason.BUDGET_EXHAUSTED, EndReason.CALLER_ERROR
_USUAL_CHANGES = (
    ("closed", "open"),
    ("open", "half_open"),
    ("half_open", "closed"),
    ("half_open", "open"),
)
_TRACE_ID = 32  # hexadecimal digits, the second part of a traceparent

Exemplar = dict[str, str] | None


def counted_by_many() -> bool:
    """Whether prometheus_client keeps its numbers in files, one set for each process (multiprocess mode)."""
    return bool(getattr(values.ValueClass, "_multiprocess", False))


class Counts:
    """Counts what this process does, whoever made the clients that do it.

    As a listener it is told of everything; see :func:`service_utils.events.subscribe`. It never raises: what
    goes wrong with counting is logged once. A forked child begins at zero.
    """

    ignores_refusals = True  # the circuit that refuses a call tells of it, which costs the caller less

    def __init__(self) -> None:
        self._alone = Alone()
        self._counters: dict[type[Event], Callable[[Any], None]] = {
            CallFinished: self._call_finished,
            CircuitRejected: self._circuit_rejected,
            CircuitChanged: self._circuit_changed,
            RetryScheduled: self._retry_scheduled,
            BulkheadRejected: self._bulkhead_rejected,
            FallbackUsed: self._fallback_used,
            HealthChecked: self._health_checked,
            DegradationChanged: self._degradation_changed,
            DeadLetterAdded: self._dead_letter_added,
            DeadLetterSettled: self._dead_letter_settled,
        }
        self._trouble: Exception | None = None
        self._troubled = False
        self._make()
        guard(self)

    def _renew_in_child(self) -> None:
        if not counted_by_many():  # there prometheus_client itself begins anew, in files of the child
            self._make()

    def _make(self) -> None:
        self._requests = counter(names.REQUESTS)
        self._failures = counter(names.FAILURES)
        self._response_time = histogram(names.RESPONSE_TIME)
        self._transitions = counter(names.TRANSITIONS)
        self._retries = counter(names.RETRIES)
        self._retry_delay = histogram(names.RETRY_DELAY)
        self._retry_budget = counter(names.RETRY_BUDGET)
        self._bulkhead_rejected_total = counter(names.BULKHEAD_REJECTED)
        self._health_duration = histogram(names.HEALTH_DURATION)
        self._health_checks = counter(names.HEALTH_CHECKS)
        self._degradation_events = counter(names.DEGRADATION_EVENTS)
        self._fallbacks = counter(names.FALLBACKS)
        self._dlq_added = counter(names.DLQ_ADDED)
        self._dlq_duration = histogram(names.DLQ_DURATION)
        self._exemplars = not counted_by_many()  # prometheus_client has no room for them in its files

    def wants_routine(self) -> bool:
        """Calls that go well are counted, too."""
        return True

    def __call__(self, event: Event) -> None:
        """Count it."""
        count = self._counters.get(type(event))
        if count is not None:
            self.write(count, event)

    def write(self, work: Callable[[Any], None], what: object) -> None:
        """Have prometheus_client write something down: now, or soon if this thread is doing so already."""
        self._alone.do(self._try, work, what)
        if self._trouble is not None:
            self._say_trouble()

    def _try(self, work: Callable[[Any], None], what: object) -> None:
        try:
            work(what)
        except Exception as error:  # such as a disk that is full, in multiprocess mode
            self._trouble = error

    def _say_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if not self._troubled:  # else there would be as many lines as calls
            self._troubled = True
            _logger.error("Metrics cannot be counted; this is said once", exc_info=trouble)

    def expect(self, services: Iterable[str], checks: Iterable[str]) -> None:
        """Show clients and checks at zero before there is anything to count.

        For Prometheus only what is higher than before is a rise, and so the first of its kind would be lost.
        """
        for service in services:
            self.write(self._show_service, service)
        for check in checks:
            self.write(self._show_check, check)

    def _show_service(self, service: str) -> None:
        for outcome in (*Outcome, REJECTED):
            self._requests.of(service, str(outcome))
        for there, then in _USUAL_CHANGES:
            self._transitions.of(service, there, then)
        for family in (self._retries, self._retry_budget, self._bulkhead_rejected_total, self._dlq_added):
            family.of(service)
        for timed in (self._response_time, self._retry_delay, self._dlq_duration):
            timed.of(service)

    def _show_check(self, check: str) -> None:
        self._health_duration.of(check)
        for status in HealthStatus:
            self._health_checks.of(check, status.value)

    def collect(self) -> list[Metric]:
        """All that this process has counted."""
        return self._alone.get(lambda: list(self._collected()))

    def _collected(self) -> Iterator[Metric]:
        for family in (
            self._requests,
            self._failures,
            self._response_time,
            self._transitions,
            self._retries,
            self._retry_delay,
            self._retry_budget,
            self._bulkhead_rejected_total,
            self._health_duration,
            self._health_checks,
            self._degradation_events,
            self._fallbacks,
            self._dlq_added,
            self._dlq_duration,
        ):
            yield from family.collect()

    # -- one function for each event ------------------------------------------------------------------

    def _call_finished(self, event: CallFinished) -> None:
        record = event.record
        if record.attempts:
            self._tried(event, record)
        elif record.ended is not _CALLER and event.error_type != _REFUSED_BY_CIRCUIT:
            self._requests.of(event.name, REJECTED).inc()

    def _tried(self, event: CallFinished, record: CallRecord) -> None:
        exemplar = _exemplar() if self._exemplars else None
        self._requests.of(event.name, event.outcome.value).inc(1, exemplar)
        longest = max([attempt.duration for attempt in record.attempts])
        self._response_time.of(event.name).observe(longest, exemplar)
        if event.outcome is _FAILURE:
            kind = kind_of_failure(record.attempts, event.error_type)
            self._failures.of(event.name, kind).inc(1, exemplar)
        if record.ended is _BUDGET:
            self._retry_budget.of(event.name).inc()

    def _circuit_rejected(self, event: CircuitRejected) -> None:
        self._requests.of(event.name, REJECTED).inc()

    def _circuit_changed(self, event: CircuitChanged) -> None:
        if not event.elsewhere:  # whoever did it counts it
            self._transitions.of(event.name, event.from_state.value, event.to_state.value).inc()

    def _retry_scheduled(self, event: RetryScheduled) -> None:
        self._retries.of(event.name).inc()
        self._retry_delay.of(event.name).observe(event.delay)

    def _bulkhead_rejected(self, event: BulkheadRejected) -> None:
        self._bulkhead_rejected_total.of(event.name).inc()

    def _fallback_used(self, event: FallbackUsed) -> None:
        self._fallbacks.of(event.name, event.pattern, event.strategy, event.status).inc()

    def _health_checked(self, event: HealthChecked) -> None:
        self._health_duration.of(event.check).observe(event.duration)
        self._health_checks.of(event.check, event.status).inc()

    def _degradation_changed(self, event: DegradationChanged) -> None:
        if not event.elsewhere:
            self._degradation_events.of(event.from_level, event.to_level).inc()

    def _dead_letter_added(self, event: DeadLetterAdded) -> None:
        self._dlq_added.of(event.name).inc()

    def _dead_letter_settled(self, event: DeadLetterSettled) -> None:
        if event.outcome != "purged":  # nobody has tried to deliver that
            self._dlq_duration.of(event.name).observe(event.duration)


def _exemplar() -> Exemplar:
    """The trace of the request that is being served, by which one finds an example of what was counted."""
    trace = bound_context().trace
    parts = trace.get("traceparent", "").split("-") if trace else ()
    return {"trace_id": parts[1]} if len(parts) >= 4 and len(parts[1]) == _TRACE_ID else None
