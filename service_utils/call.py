"""One call while it is under way: what is known of it, and what it will be remembered as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import requests

from service_utils.calls import Attempt, CallRecord, EndReason, Outcome, no_replay
from service_utils.errors import DeadlineExceeded
from service_utils.events import FailureKind
from service_utils.http.classify import Verdict
from service_utils.http.options import Timeout
from service_utils.http.outgoing import Outgoing
from service_utils.policies.budget import RetryBudget
from service_utils.policies.deadline import Deadline
from service_utils.policies.retry import RetryPolicy

__all__ = ["Call", "Tried"]


@dataclass(slots=True)
class Tried:
    """What one attempt brought.

    Attributes:
        verdict: What it means.
        response: The answer, or None.
        error: What was raised instead, or None.
        cut: Whether the deadline of the whole call ended it, not the time-out of one attempt.
        hastened: Whether that deadline was the inbound request's and shorter than our own limits.
    """

    verdict: Verdict
    response: requests.Response | None = None
    error: Exception | None = None
    cut: bool = False
    hastened: bool = False


_Noted: TypeAlias = tuple[int, Outcome, int | None, str | None, float, float]
"""The fields of an :class:`Attempt`, which is made of them when somebody reads it."""
_DURATION: Final = 4


class Call:
    """The data of one call; made, used and dropped by one thread. Once it has ended nothing of it changes.

    Args:
        service: Display name of the service.
        name: Short name of the client.
        method: The HTTP method, as given until it is prepared.
        path: The path, as given until it is prepared.
        began: Seconds on the client's clock.
        policy: The retry policy in force.
        timeout: Of one attempt.

    Attributes:
        budget: The retry budget in force, or None.
        deadline: When all of it must have ended, or None.
        hasty: Whether that deadline is the inbound request's, shorter than our own.
        told: Whether anybody wants to hear how it goes, even if it goes well.
        outgoing: The prepared request.
        request_id: The one it would have carried, where no request was prepared.
        attempts: Those made so far.
        refreshed: Whether the one repeat after a 401 has been used up.
        sent: Whether anything of it may have reached the service.
        cut_connect: Whether the deadline shortened the time for connecting of what is sent now.
        cut_read: The same for reading.
        outcome: What the breaker shall see.
        retry_after: Seconds the service asked for with its last answer, or None.
        detail: The last cause, in words.
        ended: Why there was no further attempt; None as long as it is under way.
        duration: Seconds it took, once it has ended.
    """

    # Defaults of the class cost a call nothing until something else is to be said.
    budget: RetryBudget | None = None
    deadline: Deadline | None = None
    hasty = False
    told = True
    outgoing: Outgoing | None = None
    request_id: str | None = None
    refreshed = False
    sent = False
    cut_connect = False
    cut_read = False
    outcome = Outcome.IGNORED
    retry_after: float | None = None
    detail: str | None = None
    ended: EndReason | None = None
    duration = 0.0
    _record: CallRecord | None = None

    def __init__(
        self,
        service: str,
        name: str,
        method: str,
        path: str,
        began: float,
        policy: RetryPolicy,
        timeout: Timeout,
    ) -> None:
        self.service = service
        self.name = name
        self.method = method
        self.path = path
        self.began = began
        self.policy = policy
        self.timeout = timeout
        self.attempts: list[_Noted] = []

    @property
    def max_attempts(self) -> int:
        """Attempts the policy allows."""
        return self.policy.max_attempts

    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and self.deadline.expired

    def refuse_if_late(self) -> None:
        """Raise :class:`DeadlineExceeded` when no time is left for what comes next."""
        if self.late():
            raise self.too_late()

    def too_late(self) -> DeadlineExceeded:
        """The error that says so."""
        return DeadlineExceeded(f"{self.service}: no time is left", service=self.service, sent=self.sent)

    def note(self, tried: Tried, number: int, duration: float, delay: float) -> None:
        """Write down what an attempt came to. One that we refused ourselves was none."""
        verdict = tried.verdict
        self.detail, self.retry_after = verdict.detail, verdict.retry_after
        self.sent = self.sent or not verdict.never_sent
        outcome = Outcome.IGNORED if tried.hastened else verdict.outcome
        if not verdict.refused:
            self.attempts.append((number, outcome, verdict.status, verdict.detail, duration, delay))

    def durations(self) -> list[float]:
        """Seconds of each attempt."""
        return [attempt[_DURATION] for attempt in self.attempts]

    def longest(self) -> float:
        """Seconds of the longest attempt."""
        if len(self.attempts) == 1:
            return self.attempts[0][_DURATION]
        return max(self.durations(), default=0.0)

    def failed_before(self) -> bool:
        """Whether an attempt has failed by the service's own fault."""
        return any(outcome is Outcome.FAILURE for _, outcome, *_ in self.attempts)

    def clip(self) -> Timeout:
        """The time-out of what is sent next, within the deadline; it is noted what that cut.

        Raises:
            DeadlineExceeded: No time is left.
        """
        timeout, deadline = self.timeout, self.deadline
        if deadline is None:
            return timeout
        left = deadline.remaining()
        if left <= 0.0:
            raise self.too_late()
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        self.cut_connect = connect is None or left < connect
        self.cut_read = read is None or left < read
        if not (self.cut_connect or self.cut_read):
            return timeout
        return left if self.cut_connect else connect, left if self.cut_read else read

    def patience(self) -> float | None:
        """Seconds to wait at most for somebody else: as long as for an answer of the service."""
        limit = self.timeout[1] if isinstance(self.timeout, tuple) else self.timeout
        if self.deadline is None:
            return limit
        left = self.deadline.remaining()
        return left if limit is None else min(left, limit)

    def judged(self, verdict: Verdict, error: Exception) -> Tried:
        """What an attempt that failed on the way was: out of its own time, or of the whole call's."""
        timed_out = verdict.kind is FailureKind.TIMEOUT
        shortened = timed_out and (self.cut_connect if verdict.never_sent else self.cut_read)
        # A body can outlast both limits; then the service was slower than our own, whoever was in haste.
        overrun = timed_out and self.late()
        return Tried(verdict, error=error, cut=shortened or overrun, hastened=shortened and self.hasty)

    def end(self, reason: EndReason, now: float) -> None:
        """Close the story."""
        self.ended = reason
        self.duration = now - self.began

    def record(self) -> CallRecord:
        """What is left of the call once it has ended."""
        if self._record is None:
            self._record = self._made_record(self.outgoing)
        return self._record

    def _made_record(self, outgoing: Outgoing | None) -> CallRecord:
        if self.ended is None:
            raise RuntimeError("the call is still under way")
        failed = outgoing is not None and self.ended is not EndReason.SUCCESS
        return CallRecord(
            service=self.service,
            name=self.name,
            method=self.method,
            path=self.path,
            attempts=tuple([Attempt(*fields) for fields in self.attempts]),
            idempotency_key=None if outgoing is None else outgoing.idempotency_key,
            request_id=self.request_id if outgoing is None else outgoing.request_id,
            ended=self.ended,
            duration=self.duration,
            _replay=outgoing.replay if outgoing is not None and failed else no_replay,
        )

    def sentence(self, what: str, why: str | None = None) -> str:
        """``Billing: POST /deduct failed after 2 attempts: status 503``."""
        count = len(self.attempts)
        tries = "" if count == 0 else " after 1 attempt" if count == 1 else f" after {count} attempts"
        return f"{self.service}: {self.method} {self.path} {what}{tries}: {why or self.detail}"
