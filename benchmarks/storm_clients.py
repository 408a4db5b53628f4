"""The clients of storm.py: what one process does with a call; ours with the library's own objects."""

from __future__ import annotations

import abc
import random

from benchmarks.storm_engine import Counts, SimulatedClock, Steps
from benchmarks.storm_services import TIMEOUT, Service
from service_utils import (
    BreakerConfig,
    CircuitBreaker,
    CircuitOpenError,
    Outcome,
    RetryBudget,
    RetryPolicy,
)
from service_utils.client_options import FAILURE_THRESHOLD, MAX_RETRIES, pick_breaker, pick_retry
from service_utils.events import CircuitState
from service_utils.policies.breaker import Permit

__all__ = ["Client", "ConsecutiveBreaker", "NoRetries", "Ours", "PlainRetries", "PybreakerAndTenacity"]

ATTEMPTS = 3

_SUCCESS, _FAILURE = Outcome.SUCCESS, Outcome.FAILURE
_CLOSED = CircuitState.CLOSED
_UNTRIED = (CircuitState.OPEN, CircuitState.FORCED_OPEN, CircuitState.HALF_OPEN)
_RETRY = pick_retry(MAX_RETRIES, None)


class Client(abc.ABC):
    """One process that calls the service.

    Args:
        clock: The time.
        service: Who is called.
        counts: Where the calls are counted.
    """

    def __init__(self, clock: SimulatedClock, service: Service, counts: Counts) -> None:
        self.clock = clock
        self.service = service
        self.counts = counts

    def call(self) -> Steps:
        """One call, from its beginning to its end."""
        second = int(self.clock.time)
        self.counts.calls[second] += 1
        return self._call(second)

    @abc.abstractmethod
    def _call(self, second: int) -> Steps:
        """The steps of a call that has begun in this second."""

    def _attempt(self, second: int) -> tuple[float, bool]:
        """Send a request; see ``Service.attempt``."""
        now = self.clock.time
        self.counts.attempts[second] += 1
        self.counts.sent[int(now)] += 1
        return self.service.attempt(now)

    def _end(self, second: int, good: bool) -> None:
        (self.counts.good if good else self.counts.failed)[second] += 1


class NoRetries(Client):
    """Calls once."""

    def _call(self, second: int) -> Steps:
        seconds, good = self._attempt(second)
        yield seconds
        self._end(second, good)


class PlainRetries(Client):
    """Three attempts, with the back-off and jitter of tenacity's ``wait_exponential_jitter``."""

    def _call(self, second: int) -> Steps:
        for number in range(1, ATTEMPTS + 1):
            seconds, good = self._attempt(second)
            yield seconds
            if good or number == ATTEMPTS:
                break
            yield exponential_jitter(number)
        self._end(second, good)


def exponential_jitter(number: int) -> float:
    """Seconds after this failed attempt: 1, 2, 4 ... and up to one more, as tenacity has it by default."""
    return min(2.0 ** (number - 1) + random.random(), 30.0)


class ConsecutiveBreaker:
    """The rules of pybreaker: so many failed attempts in a row open it, a trial may close it again.

    Without its lock, which lets one attempt at a time through. What comes back from attempts that began
    before it opened counts for nothing, and there is one trial at a time.

    Args:
        clock: The time.
        reset_timeout: How long it stays open, in seconds.
        fail_max: Failures in a row.
    """

    def __init__(self, clock: SimulatedClock, reset_timeout: float, fail_max: int = 5) -> None:
        self._clock = clock
        self._reset_timeout = reset_timeout
        self._fail_max = fail_max
        self._failures = 0
        self._open_until: float | None = None
        self._on_trial = False
        self._generation = 0

    def enter(self) -> int | None:
        """Ask whether an attempt may be made: what to give :meth:`leave`, or None for no."""
        if self._open_until is not None:
            if self._on_trial or self._clock.time < self._open_until:
                return None
            self._on_trial = True
            self._generation += 1
        return self._generation

    def leave(self, entered: int, good: bool) -> None:
        """Tell how an attempt went."""
        if entered != self._generation:
            return
        self._failures = 0 if good else self._failures + 1
        if good and self._on_trial:
            self._open_until = None
        elif self._on_trial or self._failures >= self._fail_max:
            self._open_until = self._clock.time + self._reset_timeout
        else:
            return
        self._failures, self._on_trial = 0, False
        self._generation += 1


class PybreakerAndTenacity(Client):
    """The decorators as they are stacked: retries outside, the breaker inside.

    Args:
        reset_timeout: Of the breaker, in seconds.
        retry_refusals: Whether a refusal by the breaker is retried like any exception, which is what tenacity
            does unless it is told otherwise.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        service: Service,
        counts: Counts,
        *,
        reset_timeout: float,
        retry_refusals: bool = True,
    ) -> None:
        super().__init__(clock, service, counts)
        self._breaker = ConsecutiveBreaker(clock, reset_timeout)
        self._retry_refusals = retry_refusals

    def _call(self, second: int) -> Steps:
        good = sent = False
        for number in range(1, ATTEMPTS + 1):
            entered = self._breaker.enter()
            if entered is not None:
                seconds, good = self._attempt(second)
                sent = True
                yield seconds
                self._breaker.leave(entered, good)
            elif not self._retry_refusals:
                break
            if good or number == ATTEMPTS:
                break
            yield exponential_jitter(number)
        if sent:
            self._end(second, good)
        else:
            self.counts.refused[second] += 1


class Ours(Client):
    """The steps of ``ResilientServiceClient``, in its order, with its breaker, budget and retry policy.

    Args:
        name: Of the breaker.
        breaker: Its limits; None for those that the client has by default, but for the next argument.
        recovery_timeout: Seconds its circuit stays open.
        retry: The retry policy; None for the client's own.
        budget: The retry budget; None for the client's own.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        service: Service,
        counts: Counts,
        *,
        name: str,
        breaker: BreakerConfig | None = None,
        recovery_timeout: float = 60.0,
        retry: RetryPolicy | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        super().__init__(clock, service, counts)
        limits = breaker or pick_breaker(FAILURE_THRESHOLD, recovery_timeout, None, TIMEOUT)
        self.breaker = CircuitBreaker(name, limits, clock=clock)
        self.retry = retry or _RETRY
        self.budget = budget or RetryBudget()

    def _call(self, second: int) -> Steps:
        breaker, budget, retry = self.breaker, self.budget, self.retry
        permit = self._permit()
        if permit is None:
            self.counts.refused[second] += 1
            return
        budget.deposit()
        number, longest = 1, 0.0
        while True:
            seconds, good = self._attempt(second)
            yield seconds
            longest = max(longest, seconds)
            if good or number >= retry.max_attempts or permit.half_open:
                break
            delay = retry.delay(number)
            if breaker.state in _UNTRIED or not budget.try_withdraw():
                break
            yield delay
            if breaker.state in _UNTRIED:
                break
            number += 1
        self._end(second, good)
        breaker.record(permit, _SUCCESS if good else _FAILURE, longest)

    def _permit(self) -> Permit | None:
        """What an open circuit is asked first, as the client does, since that costs least; then a permit."""
        if self.breaker.state is not _CLOSED and self.breaker.refused() is not None:
            return None
        try:
            return self.breaker.acquire()
        except CircuitOpenError:
            return None
