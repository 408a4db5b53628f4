"""Pacing: when an attempt may be sent, as the service has asked and as our own rate limit has it."""

from __future__ import annotations

from dataclasses import dataclass

from service_utils.call import Call
from service_utils.policies.gate import RetryAfterGate
from service_utils.policies.rate_limit import Booking, RateLimiter

__all__ = ["Pacing", "Turn"]

_PAUSE_STATUSES = frozenset({429, 503})  # RFC 6585, section 4, and RFC 9110, section 15.6.4


@dataclass(slots=True)
class Turn:
    """When an attempt may be made.

    Attributes:
        delay: Seconds from when it was asked for.
        booking: What is booked for it, or None.
    """

    delay: float = 0.0
    booking: Booking | None = None

    def cancel(self) -> None:
        """Give back what is booked: no attempt will be made of it."""
        if self.booking is not None:
            self.booking.cancel()


class Pacing:
    """The gate that a Retry-After closes for all calls of one client, and the client's rate limiter.

    Args:
        gate: The gate.
        limiter: The limiter, or None.
    """

    __slots__ = ("_patience", "gate", "limiter")

    def __init__(self, gate: RetryAfterGate, limiter: RateLimiter | None) -> None:
        self.gate = gate
        self.limiter = limiter
        self._patience = gate.max_seconds * (1.0 + gate.jitter)

    def heed(self, status: int | None, retry_after: float | None) -> None:
        """Have everybody pause when an answer asks for it."""
        if retry_after is not None and status in _PAUSE_STATUSES:
            self.gate.close(retry_after)

    def book(
        self, turn: Turn, call: Call, backoff: float = 0.0, *, waited: float = 0.0, may_wait: bool = True
    ) -> None:
        """Find out when the next attempt of a call may be made.

        Args:
            turn: Where that is written, so that the caller can give back what is booked whenever he is
                interrupted. What was booked for it before is given back first.
            call: The call; its deadline bounds the waiting.
            backoff: Seconds that it waits in any case.
            waited: Seconds it has waited for this attempt so far.
            may_wait: Whether it may wait longer than for its back-off; a probe may not.

        Raises:
            RateLimitedError: It would have to wait too long.
        """
        turn.cancel()
        left = None if call.deadline is None else call.deadline.remaining()
        turn.delay = max(backoff, self._pause(backoff, left, waited, may_wait=may_wait))
        if self.limiter is not None:
            # No call between booking and keeping: whoever is interrupted afterwards can give it back.
            turn.booking = self.limiter.book(not_before=turn.delay, most=left if may_wait else turn.delay)
            turn.delay = turn.booking.delay

    def _pause(self, backoff: float, left: float | None, waited: float, *, may_wait: bool) -> float:
        """Seconds to stay away; 0.0 when the gate will be open after the back-off."""
        gate = self.gate
        if not gate.closed or (remaining := gate.remaining()) <= backoff:
            return 0.0
        # Even whoever has no deadline waits for one pause of the longest kind, not for one after the other.
        most = self._patience - waited
        if left is not None and left < most:
            most = left
        if remaining >= most or not may_wait:
            raise gate.refusal(remaining)
        return gate.delay(most)
