"""The metrics: their names, their labels and what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "BULKHEAD_IN_FLIGHT",
    "BULKHEAD_REJECTED",
    "CIRCUIT_STATE",
    "DEGRADATION_EVENTS",
    "DEGRADATION_LEVEL",
    "DLQ_ADDED",
    "DLQ_DURATION",
    "DLQ_MESSAGES",
    "FAILURES",
    "FALLBACKS",
    "HEALTH_CHECKS",
    "HEALTH_DURATION",
    "HEALTH_STATUS",
    "OTHER",
    "REQUESTS",
    "RESPONSE_TIME",
    "RETRIES",
    "RETRY_BUDGET",
    "RETRY_DELAY",
    "TRANSITIONS",
    "Spec",
]

OTHER = "other"
"""What a label says where there would be too many values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One metric.

    Attributes:
        name: Its name; that of a counter without ``_total``, which prometheus_client adds.
        help: What it means, in one line.
        labels: The names of its labels.
        open: Those of them whose values the code does not list: names of clients, checks and strategies.
        buckets: Upper bounds in seconds, where it is a histogram.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ("service",)
    open: frozenset[str] = field(default=frozenset({"service", "check", "strategy"}))
    buckets: tuple[float, ...] = ()


# Steps of 1, 2.5 and 5, as prometheus_client has them: from a service on the same machine, which needs about
# a millisecond, to the 10 s of a client's default time-out, the 25 s of a request's deadline, and a bit more.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
# Doublings, as back-off grows, up to its cap of 30 s and the 60 s that a Retry-After may ask for.
_DELAYS = (0.05, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
# A check of our own takes microseconds; the default time-out of a check is 3 s.
_CHECKS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0)

REQUESTS = Spec(
    name="circuit_breaker_requests",
    help="Calls by what they came to: success, failure, ignored, or rejected before anything was sent",
    labels=("service", "outcome"),
)
FAILURES = Spec(
    name="circuit_breaker_failures",
    help="Calls that count against the service, by the kind of failure",
    labels=("service", "error_type"),
)
RESPONSE_TIME = Spec(
    name="circuit_breaker_response_time",
    help="Seconds of a call's longest attempt, which is what the circuit breaker goes by",
    buckets=_SECONDS,
)
TRANSITIONS = Spec(
    name="circuit_breaker_transitions",
    help="Changes of a circuit's state",
    labels=("service", "from_state", "to_state"),
)
CIRCUIT_STATE = Spec(
    name="circuit_breaker_state",
    help="1 for the state a circuit is in, 0 for the others",
    labels=("service", "state"),
)
RETRIES = Spec(name="retry_attempts", help="Attempts after the first")
RETRY_DELAY = Spec(
    name="retry_delay_seconds", help="Seconds that calls wait before another attempt", buckets=_DELAYS
)
RETRY_BUDGET = Spec(
    name="retry_budget_exhausted",
    help="Calls that made no further attempt because the retry budget was empty",
)
BULKHEAD_IN_FLIGHT = Spec(name="bulkhead_in_flight", help="Slots of a client's bulkhead that are taken")
BULKHEAD_REJECTED = Spec(name="bulkhead_rejected", help="Callers for whom a bulkhead had no slot")
HEALTH_DURATION = Spec(
    name="health_check_duration_seconds",
    help="Seconds that a health check took",
    labels=("check",),
    buckets=_CHECKS,
)
HEALTH_STATUS = Spec(
    name="health_check_status",
    help="What a health check last found: 1 healthy, 0.5 degraded, 0 unhealthy",
    labels=("check",),
)
HEALTH_CHECKS = Spec(name="health_check", help="Health checks by what they found", labels=("check", "status"))
DEGRADATION_LEVEL = Spec(
    name="system_degradation_level",
    help="0 normal, 1 minor, 2 moderate, 3 severe, 4 critical",
    labels=(),
)
DEGRADATION_EVENTS = Spec(
    name="degradation_events",
    help="Changes of the level of degradation",
    labels=("from_level", "to_level"),
)
FALLBACKS = Spec(
    name="fallback_usage",
    help="Times a failure pattern stepped in for a service",
    labels=("service", "pattern", "strategy", "status"),
)
DLQ_MESSAGES = Spec(
    name="dlq_messages_total",
    help="Dead letters that are kept now, by status: pending, leased or dead",
    labels=("service", "status"),
)
DLQ_ADDED = Spec(name="dlq_messages_added", help="Dead letters that were put into the queue")
DLQ_DURATION = Spec(
    name="dlq_processing_duration_seconds",
    help="Seconds of one attempt to deliver a dead letter",
    buckets=_SECONDS,
)
