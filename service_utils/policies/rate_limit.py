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
import inspect
import math
import threading
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from service_utils.clock import Clock
from service_utils.errors import RateLimitedError
from service_utils.events import Listener, RateLimited, notify
from service_utils.forks import guard
from service_utils.policies.checks import (
    checked_clock,
    checked_listeners,
    require_count,
    require_number,
    require_seconds,
)
from service_utils.policies.deadline import Deadline

__all__ = ["Booking", "RateLimit", "RateLimiter"]

P = ParamSpec("P")
T = TypeVar("T")

_NEARLY = 1e-9  # tokens that floating point may lose on the way
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
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate={self.rate!r}: must be a finite number of calls per second > 0")
        if self.burst is not None:
            require_count("burst", self.burst)
        require_seconds("max_wait", self.max_wait)

    @property
    def tokens(self) -> int:
        """What the bucket holds at most."""
        return max(1, math.ceil(self.rate)) if self.burst is None else self.burst


class Booking:
    """A turn at a rate limiter.

    Attributes:
        at: When it is, in seconds on the limiter's clock.
        delay: Seconds from the booking until then.
    """

    __slots__ = ("_in_line", "_limiter", "at", "delay")

    def __init__(self, limiter: RateLimiter, at: float, delay: float, *, in_line: bool) -> None:
        self._limiter = limiter
        self._in_line = in_line  # whether nobody who comes later may go before it
        self.at = at
        self.delay = delay

    def cancel(self) -> None:
        """Give the turn back unused. A second time, or long after it has come, does nothing."""
        self._limiter._cancel(self)


class Bucket:
    """Tokens and bookings, as functions of a time that is handed in. Not for two threads at once.

    Args:
        rate: Tokens gained per second.
        size: Tokens it holds at most; it begins full.
        now: The time.
    """

    __slots__ = ("at", "booked", "level", "rate", "size")

    def __init__(self, rate: float, size: float, now: float) -> None:
        self.rate = rate
        self.size = size
        self.level = size
        self.at = now
        self.booked: list[Booking] = []  # by time, all later than ``at``

    def advance(self, now: float) -> None:
        """Move the time on; bookings that are due by then have taken their tokens."""
        while self.booked and self.booked[0].at <= now:
            due = self.booked.pop(0)
            self.level = self._grown(self.level, due.at - self.at) - 1.0
            self.at = due.at
        if now > self.at:
            self.level = self._grown(self.level, now - self.at)
            self.at = now

    def first_turn(self, earliest: float) -> float:
        """The first moment from ``earliest`` on at which a token more may be taken.

        It must be there at that moment, and none may be missing for a booking after it. Between two bookings
        a token can be taken from the moment it is there, and as long as what runs over the rim before the
        later one, together with what no booking needs, makes up for it.
        """
        level, since = self.level, self.at
        for booking, spare in zip(self.booked, self._spare(), strict=True):
            moment = max(earliest, self._one_there(level, since))
            if moment < booking.at:
                there = self._grown(level, moment - since)
                lost = max(0.0, there + (booking.at - moment) * self.rate - self.size)
                if lost + spare >= 1.0 - _NEARLY:
                    return moment
            level = self._grown(level, booking.at - since) - 1.0
            since = booking.at
        return max(earliest, self._one_there(level, since))

    def _spare(self) -> list[float]:
        """For each booking, the tokens that can be missing when it comes without anybody's missing one."""
        levels, overflows = [], []
        level, since = self.level, self.at
        for booking in self.booked:
            gained = level + (booking.at - since) * self.rate
            overflows.append(max(0.0, gained - self.size))
            level, since = min(gained, self.size) - 1.0, booking.at
            levels.append(level)
        spare, found = math.inf, []
        for level, overflow in zip(reversed(levels), reversed(overflows), strict=True):
            spare = min(level, spare)
            found.append(spare)
            spare += overflow
        return found[::-1]

    def _one_there(self, level: float, since: float) -> float:
        """When there is a whole token, if nobody takes one before."""
        return since if level >= 1.0 - _NEARLY else since + (1.0 - level) / self.rate

    def _grown(self, level: float, seconds: float) -> float:
        return min(level + seconds * self.rate, self.size)


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
        if not isinstance(name, str) or not name:
            raise ValueError(f"name={name!r}: must be a non-empty string")
        self.name = name
        self.label = label or name
        self._clock = checked_clock(clock)
        self._listeners = checked_listeners(listeners)
        self._lock = threading.RLock()
        self._bucket = Bucket(float(rate), float(self.config.tokens), self._clock.monotonic())
        self._rejected = 0
        guard(self)

    def _renew_in_child(self) -> None:
        self._bucket.booked.clear()
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
        """
        now = self._clock.monotonic()
        earliest = now + not_before
        bucket = self._bucket
        with self._lock:
            bucket.advance(now)
            in_line = not_before <= 0.0
            if in_line and bucket.booked:
                earliest = max(earliest, *(each.at for each in bucket.booked if each._in_line), earliest)
            at = bucket.first_turn(earliest)
            delay = 0.0 if at - now < _AT_ONCE else at - now
            if delay - not_before <= self.config.max_wait + _AT_ONCE and (most is None or delay <= most):
                booking = Booking(self, at, delay, in_line=in_line)
                insort(bucket.booked, booking, key=_moment)
                return booking
            self._rejected += 1
        raise self._refusal(now, delay)

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
            if booking in self._bucket.booked:  # else its token is gone with the time
                self._bucket.booked.remove(booking)

    def acquire(self, deadline: Deadline | None = None) -> float:
        """Wait for one's turn.

        Args:
            deadline: Whoever cannot have his turn before it is refused at once.

        Returns:
            Seconds it has waited.

        Raises:
            RateLimitedError: The turn would come too late; nothing has been waited for.
        """
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
        _check_function(func)
        self.acquire()
        return func(*args, **kwargs)

    def __call__(self, func: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function: see :meth:`call`."""
        _check_function(func)

        @functools.wraps(func)
        def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            self.acquire()
            return func(*args, **kwargs)

        return limited

    def get_status(self) -> dict[str, Any]:
        """JSON-ready: ``rate, burst, max_wait`` (seconds), ``available`` tokens, ``waiting, rejected``."""
        now = self._clock.monotonic()
        with self._lock:
            self._bucket.advance(now)
            return {
                "rate": self.config.rate,
                "burst": self.config.tokens,
                "max_wait": self.config.max_wait,
                "available": max(self._bucket.level, 0.0),
                "waiting": len(self._bucket.booked),
                "rejected": self._rejected,
            }

    def __repr__(self) -> str:
        return f"<RateLimiter {self.name!r} {self.config.rate:g}/s>"


def _moment(booking: Booking) -> float:
    return booking.at


def _check_function(func: object) -> None:
    if not callable(func):
        raise TypeError(f"{func!r}: must be a function")
    if inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__):
        raise TypeError(f"{func!r}: is async, and waiting for a turn would block its event loop")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(f"{func!r}: a generator function runs nothing when it is called")
