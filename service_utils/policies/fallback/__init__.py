"""What happens when a service does not answer: fail open or closed, best effort, another way, old answers."""

from service_utils.policies.fallback.chain import FallbackChain, Strategy
from service_utils.policies.fallback.decorators import fail_closed, fail_open
from service_utils.policies.fallback.degraded import collect_degradations, mark_degraded
from service_utils.policies.fallback.effort import BestEffort, DeadLetterSink, Effort, best_effort
from service_utils.policies.fallback.failures import reason_of
from service_utils.policies.fallback.lasting import AnswerStore, Lasting
from service_utils.policies.fallback.report import ChainReport, Step, StepOutcome
from service_utils.policies.fallback.stale import StaleCache, stale_age

__all__ = [
    "AnswerStore",
    "BestEffort",
    "ChainReport",
    "DeadLetterSink",
    "Effort",
    "FallbackChain",
    "Lasting",
    "StaleCache",
    "Step",
    "StepOutcome",
    "Strategy",
    "best_effort",
    "collect_degradations",
    "fail_closed",
    "fail_open",
    "mark_degraded",
    "reason_of",
    "stale_age",
]
