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
        delay: Seconds from now.
        booking: What has been booked for it, or None.
    """

    delay: float
    booking: Booking | None = None

    def cancel(self) -> None:
        """Give back what has been booked: the attempt will not be made."""
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

    def turn(self, call: Call, backoff: float, *, may_wait: bool) -> Turn:
        """When the next attempt of a call may be made.

        Args:
            call: The call; its deadline bounds the waiting.
            backoff: Seconds that it waits in any case.
            may_wait: Whether it may wait longer than that; a probe may not.

        Raises:
            RateLimitedError: It would have to wait too long.
        """
        left = None if call.deadline is None else call.deadline.remaining()
        delay = max(backoff, self._pause(backoff, left, 0.0, may_wait=may_wait))
        if self.limiter is None:
            return Turn(delay)
        booking = self.limiter.book(not_before=delay, most=left if may_wait else delay)
        return Turn(booking.delay, booking)

    def longer(self, call: Call, waited: float) -> float:
        """Seconds that a call has to wait on, since the service has asked for another pause meanwhile.

        Args:
            call: The call.
            waited: Seconds it has waited for this attempt so far.

        Raises:
            RateLimitedError: It would have to wait too long.
        """
        left = None if call.deadline is None else call.deadline.remaining()
        return self._pause(0.0, left, waited, may_wait=True)

    def _pause(self, backoff: float, left: float | None, waited: float, *, may_wait: bool) -> float:
        """Seconds to stay away; 0.0 when the gate will be open after the back-off."""
        gate = self.gate
        if not gate.closed or (remaining := gate.remaining()) <= backoff:
            return 0.0
        delay = gate.delay()
        # Even whoever has no deadline waits for one pause of the longest kind, not for one after the other.
        too_long = delay > self._patience - waited or (left is not None and delay >= left)
        if too_long or not may_wait:
            raise gate.refusal(remaining)
        return delay
