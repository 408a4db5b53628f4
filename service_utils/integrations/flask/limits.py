"""What one protected route may take, and how much a request of it matters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from service_utils.policies.breaker import BreakerConfig
from service_utils.policies.checks import require_count, require_seconds

__all__ = ["ROUTE_BREAKER", "Limits", "Priority"]

ROUTE_BREAKER = BreakerConfig(
    window_seconds=30.0, minimum_requests=20, failure_rate_threshold=0.5, recovery_timeout=10.0
)
"""Half of at least twenty requests within 30 s: one request that always fails does not cut all others off."""

_RECOVERY = 10.0  # seconds that failure_threshold= keeps a route closed


# The blame lies elsewhere, or nobody but guards and the router had a say: strangers must neither close nor
# keep closed the circuit of a route whose work fails.
_NOT_OF_THE_ROUTE = frozenset({401, 403, 404, 405, 429, 502, 504})


class Priority(StrEnum):
    """How much a request matters when there is no room for all of them; the least goes first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one route and all below it. Times are seconds.

    Attributes:
        max_concurrent: Requests that may be under way at once, streamed bodies included; None: any number.
        max_queue_seconds: How long a request waits for room, its own time left permitting. Each one that
            waits holds a thread of the server. 0 turns it away at once.
        max_queue: How many may wait for this route; None: as many as may be under way.
        priority: Who is turned away first when the whole app is full.
        failure_threshold: Failures in a row that open the route's circuit, for 10 s; instead of ``breaker``.
            One caller with a request that always fails can reach it alone, unlike the usual ``breaker``.
        breaker: The limits of the route's circuit; None: it has none.
        failure_statuses: The answers that count as failures. None: every 5xx but those that put the blame
            elsewhere (502, 504) or say themselves when to come back (503 with Retry-After).
        retry_after: What those are told who find no room. Whoever finds the circuit open is told how long it
            will be so.

    Raises:
        TypeError: A value is of the wrong type.
        ValueError: A value is out of its range, or two exclude each other.
    """

    max_concurrent: int | None = None
    max_queue_seconds: float = 0.0
    max_queue: int | None = None
    priority: Priority = Priority.NORMAL
    failure_threshold: int | None = None
    breaker: BreakerConfig | None = field(default=ROUTE_BREAKER)
    failure_statuses: Collection[int] | None = None
    retry_after: float = 1.0

    def __post_init__(self) -> None:
        if self.max_concurrent is not None:
            require_count("max_concurrent", self.max_concurrent)
        require_seconds("max_queue_seconds", self.max_queue_seconds)
        if self.max_queue is not None:
            require_count("max_queue", self.max_queue)
            if self.max_concurrent is None or not self.max_queue_seconds:
                raise ValueError(
                    f"max_queue={self.max_queue!r}: nobody waits without max_concurrent and max_queue_seconds"
                )
        require_seconds("retry_after", self.retry_after, zero=False)
        object.__setattr__(self, "priority", _checked_priority(self.priority))
        object.__setattr__(self, "failure_statuses", _checked_statuses(self.failure_statuses))
        self._settle_breaker()

    def _settle_breaker(self) -> None:
        if self.breaker is not None and not isinstance(self.breaker, BreakerConfig):
            raise TypeError(f"breaker={self.breaker!r}: must be a BreakerConfig or None")
        if self.failure_threshold is None:
            return
        require_count("failure_threshold", self.failure_threshold)
        if self.breaker is not ROUTE_BREAKER:
            raise ValueError(
                f"failure_threshold={self.failure_threshold!r}, breaker={self.breaker!r}: "
                "the threshold is a field of the breaker; give one of the two"
            )

    @property
    def circuit(self) -> BreakerConfig | None:
        """The limits of the route's circuit, or None when it has none."""
        if self.failure_threshold is None:
            return self.breaker
        return BreakerConfig(failure_threshold=self.failure_threshold, recovery_timeout=_RECOVERY)

    def is_failure(self, status: int, *, says_when: bool) -> bool | None:
        """Whether an answer counts as the route's own failure.

        Args:
            status: Of the answer.
            says_when: Whether it carries Retry-After.

        Returns:
            None when it says nothing about the route: neither a failure nor a success.
        """
        if self.failure_statuses is not None:
            return status in self.failure_statuses
        if status in _NOT_OF_THE_ROUTE or (status == 503 and says_when):
            return None
        return status >= 500


def _checked_priority(value: object) -> Priority:
    try:
        return Priority(value)  # type: ignore[arg-type]
    except ValueError:
        known = ", ".join(Priority)
        raise ValueError(f"priority={value!r}: must be one of {known}") from None


def _checked_statuses(value: object) -> frozenset[int] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Collection):
        raise TypeError(f"failure_statuses={value!r}: must be a collection of statuses or None")
    for status in value:
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(f"failure_statuses={value!r}: {status!r} must be an integer")
        if not 400 <= status <= 599:
            raise ValueError(f"failure_statuses={value!r}: {status!r} must be 400 to 599")
    return frozenset(value)
