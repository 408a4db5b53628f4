"""The rate limiter: so many calls a second, by a bucket of tokens in which turns can be booked ahead.

The bucket holds at most ``burst`` tokens and gains ``rate`` of them a second; a call takes one. Whoever finds
none books the moment at which there will be one, and waits until then: callers are served in the order in
which they came, and none looks in vain. A booking may also be for a later moment, such as the end of a
back-off, without holding up those who can go before it.

In every interval of t seconds at most ``burst + rate * t`` bookings fall due. (A limiter that counts calls in
fixed periods lets twice the limit through round the end of a period.)
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from service_utils.clock import Clock
from service_utils.errors import RateLimitedError
from service_utils.events import Listener, RateLimited, notify
from service_utils.forks import guard
from service_utils.policies.bucket import Bucket, Turn
from service_utils.policies.checks import (
    checked_clock,
    checked_label,
    checked_listeners,
    require_blocking,
    require_count,
    require_number,
    require_seconds,
)
from service_utils.policies.deadline import Deadline, require_deadline

__all__ = ["Booking", "RateLimit", "RateLimiter"]

P = ParamSpec("P")
T = TypeVar("T")

_MOST_TOKENS = 2**53  # beyond it one more or less makes no difference to a float
_AT_ONCE = 1e-6  # seconds; a shorter wait is none


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """The limits of a rate limiter.

    Attributes:
        rate: Calls per second in the long run; 0.5 is one every two seconds.
        burst: Calls that may go at once after a pause; None for those of one second, at least 1.
        max_wait: Seconds that a caller waits for his turn at most.

    Raises:
        TypeError: A value is no number.
        ValueError: A value is out of its range.
    """

    rate: float
    burst: int | None = None
    max_wait: float = 1.0

    def __post_init__(self) -> None:
        require_number("rate", self.rate)
        if not _is_a_rate(self.rate):
            raise ValueError(f"rate={self.rate!r}: must be a finite number of calls per second > 0")
        if self.burst is not None:
            require_count("burst", self.burst)
            if self.burst > _MOST_TOKENS:
                raise ValueError(f"burst={self.burst!r}: must be at most {_MOST_TOKENS}")
        require_seconds("max_wait", self.max_wait)

    @property
    def tokens(self) -> int:
        """What the bucket holds at most."""
        return min(max(1, math.ceil(self.rate)), _MOST_TOKENS) if self.burst is None else self.burst


class Booking(Turn):
    """A turn at a rate limiter.

    Attributes:
        at: When it is, in seconds on the limiter's clock.
        delay: Seconds from the booking until then.
    """

    __slots__ = ("_bucket", "_limiter", "delay")

    def __init__(self, limiter: RateLimiter, bucket: Bucket) -> None:
        self.at = -math.inf
        self.booked = self.in_line = False
        self.delay = 0.0
        self._limiter = limiter
        self._bucket = bucket  # a forked child goes on with another

    def cancel(self) -> None:
        """Give the turn back unused: at once, or after it has come, for as long as few others have.

        Whoever waits behind it keeps his own. A second time does nothing, nor does it in a forked child:
        the turn was the parent's.
        """
        self._limiter._cancel(self)


class RateLimiter:
    """Says when a call may go. For any number of threads.

    No lock is held while a caller waits. A forked child goes on with the tokens that are there, without the
    bookings: they are its parent's.

    Args:
        rate: See :class:`RateLimit`.
        burst: See :class:`RateLimit`.
        max_wait: See :class:`RateLimit`.
        name: Short name, for events.
        label: Display name, for errors and events; default: the name.
        clock: Whose seconds count.
        listeners: Told besides those of the process.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        rate: float,
        burst: int | None = None,
        max_wait: float = 1.0,
        *,
        name: str = "rate-limit",
        label: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        self.config = RateLimit(rate=rate, burst=burst, max_wait=max_wait)
        self.name, self.label = checked_label(name, label)
        self._clock = checked_clock(clock)
        self._listeners = checked_listeners(listeners)
        self._lock = threading.RLock()
        self._bucket = Bucket(float(rate), float(self.config.tokens))
        self._seen = -math.inf  # the latest that it was for anybody
        self._rejected = 0
        guard(self)

    def _renew_in_child(self) -> None:
        # By the time seen last: a fork is no moment to ask a clock, which may have a lock of its own.
        self._bucket = self._bucket.without_bookings(self._seen)
        self._rejected = 0

    def book(self, *, not_before: float = 0.0, most: float | None = None) -> Booking:
        """Book the next turn.

        Args:
            not_before: Seconds from now before which the caller has no use for it.
            most: Seconds after which he has no use for it either; None for any time.

        Returns:
            The turn. To be waited for by the caller, or cancelled.

        Raises:
            RateLimitedError: The turn would come later than that, or more than ``max_wait`` after
                ``not_before``. Nothing is booked then.
            ValueError: ``not_before`` is negative or not finite, or ``most`` is no number.
        """
        if most is not None and not most >= 0:
            raise ValueError(f"most={most!r}: must be a number of seconds >= 0")
        if not 0.0 <= not_before < math.inf:
            raise ValueError(f"not_before={not_before!r}: must be a finite number of seconds >= 0")
        now = self._clock.monotonic()
        latest = not_before + self.config.max_wait
        if most is not None and most < latest:
            latest = most
        booking = Booking(self, self._bucket)
        try:
            with self._lock:
                if now < self._seen:
                    now = self._seen  # it has become later since this thread looked
                else:
                    self._seen = now
                at = booking._bucket.book(booking, now, now + not_before, now + latest + _AT_ONCE)
                if not booking.booked:
                    self._rejected += 1
        except BaseException:  # a signal in this very moment
            booking.cancel()
            raise
        delay = at - now
        if not booking.booked:
            raise self._refusal(now, delay)
        if delay >= _AT_ONCE:
            booking.delay = delay
        return booking

    def _refusal(self, now: float, seconds: float) -> RateLimitedError:
        event = RateLimited(
            service=self.label, name=self.name, at=now, retry_after=seconds, reason="rate limit"
        )
        notify(self._listeners, event)
        message = (
            f"{self.label}: the limit of {self.config.rate:g} calls/s is reached, next try in {seconds:.1f} s"
        )
        return RateLimitedError(message, service=self.label, retry_after=seconds)

    def _cancel(self, booking: Booking) -> None:
        with self._lock:
            booking._bucket.cancel(booking)

    def acquire(self, deadline: Deadline | None = None) -> float:
        """Wait for one's turn.

        Args:
            deadline: Whoever cannot have his turn before it is refused at once.

        Returns:
            Seconds it has waited.

        Raises:
            RateLimitedError: The turn would come too late; nothing has been waited for.
            TypeError: ``deadline`` is no :class:`Deadline`.
        """
        require_deadline(deadline)
        booking = self.book(most=None if deadline is None else deadline.remaining())
        try:
            self._clock.sleep(booking.delay)
        except BaseException:  # interrupted or killed
            booking.cancel()
            raise
        return booking.delay

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function when it is its turn.

        Raises:
            RateLimitedError: The turn would come too late.
            TypeError: Such a function would not run in here.
            Exception: Whatever the function raises.
        """
        require_blocking(func, "a turn")
        self.acquire()
        return func(*args, **kwargs)

    def __call__(self, func: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function: see :meth:`call`."""
        require_blocking(func, "a turn")

        @functools.wraps(func)
        def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            self.acquire()
            return func(*args, **kwargs)

        return limited

    def get_status(self) -> dict[str, Any]:
        """JSON-ready: ``rate, burst, max_wait`` (seconds), ``available`` tokens, ``waiting, rejected``."""
        now = self._clock.monotonic()
        with self._lock:
            return {
                "rate": self.config.rate,
                "burst": self.config.tokens,
                "max_wait": self.config.max_wait,
                "available": self._bucket.available(now),
                "waiting": self._bucket.waiting(now),
                "rejected": self._rejected,
            }

    def __repr__(self) -> str:
        return f"<RateLimiter {self.name!r} {self.config.rate:g}/s>"


def _is_a_rate(value: float) -> bool:
    """Whether both the calls per second and the seconds per call are numbers above 0."""
    try:
        rate = float(value)
    except OverflowError:  # an integer beyond every float
        return False
    return 0 < rate < math.inf and 1.0 / rate < math.inf
