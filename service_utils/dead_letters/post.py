"""The post: how a worker gets letters from a store and says what became of them."""

from __future__ import annotations

from collections.abc import Callable

from service_utils.clock import Clock
from service_utils.dead_letters.letter import Lease
from service_utils.dead_letters.queue import DeadLetterQueue
from service_utils.dead_letters.store import Delivered, Died, PutBack, Retried, Settlement
from service_utils.dead_letters.strategy import Dead, RetryLater
from service_utils.events import DeadLetterSettled, notify

__all__ = ["Post"]

_ENOUGH = 0.75  # of a lease must be left when a letter is begun: half for the attempt, the rest to settle it


class Post:
    """Leases and settles letters, and tells the queue's listeners of those that are settled.

    All that settles returns whether the lease still held; if not, another worker has the letter, and nothing
    was changed or told.

    Args:
        queue: Whose letters.
        lease_seconds: For how long letters are leased.
        clock: Where the time comes from.
        label: From a service's short name to its display name.
    """

    def __init__(
        self, queue: DeadLetterQueue, lease_seconds: float, clock: Clock, label: Callable[[str], str]
    ) -> None:
        self._store = queue.store
        self._listeners = queue.listeners
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._label = label
        self.monotonic = clock.monotonic

    def now(self) -> float:
        """Seconds since 1970, which all workers of a queue go by."""
        return self._clock.now().timestamp()

    def waiting(self) -> dict[str, int]:
        """Who has letters that may be tried now, and how many wait."""
        return self._store.waiting(self.now())

    def lease(self, service: str, limit: int) -> list[Lease]:
        """The oldest letters of a service that may be tried now, if they are in nobody's hand."""
        return self._store.lease(service, now=self.now(), seconds=self._lease_seconds, limit=limit)

    def keep(self, lease: Lease) -> bool:
        """See that a letter is ours long enough to be tried: those behind others in a batch have waited."""
        now = self.now()
        if lease.expires_at - now >= _ENOUGH * self._lease_seconds:
            return True
        return self._store.extend(lease, now=now, seconds=self._lease_seconds)

    def delivered(self, lease: Lease, duration: float) -> bool:
        """It has arrived."""
        return self._settle(lease, Delivered(), "delivered", "", duration)

    def retry(self, lease: Lease, decision: RetryLater, at: float, duration: float) -> bool:
        """It was tried in vain and waits until a moment."""
        settlement = Retried(next_attempt_at=at, error=decision.detail, status=decision.status)
        return self._settle(lease, settlement, "retried", decision.detail, duration)

    def dead(self, lease: Lease, decision: Dead, duration: float) -> bool:
        """It rests."""
        settlement = Died(error=decision.detail, status=decision.status, response=decision.response)
        return self._settle(lease, settlement, "dead", decision.detail, duration)

    def put_back(self, lease: Lease, at: float) -> bool:
        """It was not tried, and waits until a moment. That is nothing to tell of."""
        return self._store.settle(lease, PutBack(next_attempt_at=at))

    def _settle(
        self, lease: Lease, settlement: Settlement, outcome: str, detail: str, duration: float
    ) -> bool:
        if not self._store.settle(lease, settlement):
            return False
        letter = lease.letter
        event = DeadLetterSettled(
            service=self._label(letter.service),
            name=letter.service,
            at=self._clock.monotonic(),
            letter_id=letter.id,
            outcome=outcome,
            attempts=letter.attempts + 1,
            detail=detail,
            duration=duration,
        )
        notify(self._listeners, event)
        return True
