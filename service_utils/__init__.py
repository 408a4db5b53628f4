"""service_utils: the resilient client that Python microservices use to call each other.

One :class:`ResilientServiceClient` per service gives its callers retries, a thread-safe circuit breaker,
time-outs, internal tokens, fallbacks and a status. Everything here may be used from any thread unless its
docstring says otherwise; all times are seconds.
"""

from __future__ import annotations

from service_utils.calls import Attempt, CallRecord, EndReason, Outcome, Replay, call_of
from service_utils.client import ResilientServiceClient
from service_utils.clock import Clock, SystemClock
from service_utils.config import Profile, ServiceConfig, current_profile
from service_utils.errors import (
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceeded,
    RateLimitedError,
    ResponseTooLarge,
    ServiceError,
    ServiceUnavailable,
    TokenError,
)
from service_utils.events import CircuitState, Event, Listener, subscribe
from service_utils.http.context import ContextThreadPoolExecutor, propagate
from service_utils.http.log_context import RequestContextFilter
from service_utils.http.tokens import BearerToken, EnvToken, StaticToken, TokenProvider, get_internal_headers
from service_utils.logs import LoggingListener
from service_utils.policies.backoff import exponential, fibonacci, fixed, linear
from service_utils.policies.breaker import BreakerConfig, CircuitBreaker, Permit
from service_utils.policies.budget import RetryBudget
from service_utils.policies.bulkhead import Bulkhead, BulkheadConfig
from service_utils.policies.deadline import Deadline
from service_utils.policies.fallback import (
    AnswerStore,
    ChainReport,
    DeadLetterSink,
    FallbackChain,
    StaleCache,
    Step,
    StepOutcome,
    Strategy,
    best_effort,
    collect_degradations,
    fail_closed,
    fail_open,
    mark_degraded,
    stale_age,
)
from service_utils.policies.gate import RetryAfterGate
from service_utils.policies.rate_limit import RateLimit, RateLimiter
from service_utils.policies.retry import PER_CLIENT, RetryPolicy, with_retry
from service_utils.registry import (
    ServiceRegistry,
    default_registry,
    get_circuit_breaker,
    get_circuit_stats,
    reset_all_circuits,
)
from service_utils.structured_logs import configure_logging

__version__ = "0.1.0"

__all__ = [
    "PER_CLIENT",
    "AnswerStore",
    "Attempt",
    "BearerToken",
    "BreakerConfig",
    "Bulkhead",
    "BulkheadConfig",
    "BulkheadFullError",
    "CallRecord",
    "ChainReport",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "Clock",
    "ContextThreadPoolExecutor",
    "DeadLetterSink",
    "Deadline",
    "DeadlineExceeded",
    "EndReason",
    "EnvToken",
    "Event",
    "FallbackChain",
    "Listener",
    "LoggingListener",
    "Outcome",
    "Permit",
    "Profile",
    "RateLimit",
    "RateLimitedError",
    "RateLimiter",
    "Replay",
    "RequestContextFilter",
    "ResilientServiceClient",
    "ResponseTooLarge",
    "RetryAfterGate",
    "RetryBudget",
    "RetryPolicy",
    "ServiceConfig",
    "ServiceError",
    "ServiceRegistry",
    "ServiceUnavailable",
    "StaleCache",
    "StaticToken",
    "Step",
    "StepOutcome",
    "Strategy",
    "SystemClock",
    "TokenError",
    "TokenProvider",
    "best_effort",
    "call_of",
    "collect_degradations",
    "configure_logging",
    "current_profile",
    "default_registry",
    "exponential",
    "fail_closed",
    "fail_open",
    "fibonacci",
    "fixed",
    "get_circuit_breaker",
    "get_circuit_stats",
    "get_internal_headers",
    "linear",
    "mark_degraded",
    "propagate",
    "reset_all_circuits",
    "stale_age",
    "subscribe",
    "with_retry",
]

# The log lines are one listener among others; whoever wants none silences the logger "service_utils".
subscribe(LoggingListener())
