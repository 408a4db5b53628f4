"""The story of a call, told to listeners as it happens."""

from __future__ import annotations

from typing import Any

from service_utils.call import Call
from service_utils.clock import Clock
from service_utils.events import (
    AttemptFailed,
    AttemptStarted,
    CallFinished,
    FailureKind,
    Listener,
    RetryScheduled,
    notify,
    routine_wanted,
)
from service_utils.http.classify import Verdict

__all__ = ["CallEvents"]


class CallEvents:
    """Makes the events of one client's calls and hands them to its listeners.

    Args:
        listeners: Told besides the listeners of the process.
        clock: Where the events' times come from.
    """

    __slots__ = ("_clock", "_listeners")

    def __init__(self, listeners: tuple[Listener, ...], clock: Clock) -> None:
        self._listeners = listeners
        self._clock = clock

    def routine_wanted(self) -> bool:
        """Whether anybody wants to hear of attempts that begin and of calls that go well."""
        return routine_wanted(self._listeners)

    def attempt_started(self, call: Call, number: int) -> None:
        """An attempt is about to be sent."""
        event = AttemptStarted(
            **self._of(call),
            method=call.method,
            path=call.path,
            number=number,
            max_attempts=call.max_attempts,
        )
        notify(self._listeners, event)

    def attempt_failed(self, call: Call, verdict: Verdict, number: int, duration: float) -> None:
        """An attempt brought no usable answer."""
        kind = verdict.kind or FailureKind.STATUS
        event = AttemptFailed(
            **self._of(call),
            method=call.method,
            path=call.path,
            number=number,
            max_attempts=call.max_attempts,
            kind=kind,
            detail=verdict.detail or kind.value,
            status=verdict.status,
            duration=duration,
        )
        notify(self._listeners, event)

    def retry_scheduled(self, call: Call, delay: float) -> None:
        """The call is about to wait before its next attempt."""
        event = RetryScheduled(
            **self._of(call),
            method=call.method,
            path=call.path,
            number=len(call.attempts) + 1,
            max_attempts=call.max_attempts,
            delay=delay,
        )
        notify(self._listeners, event)

    def finished(self, call: Call, error: BaseException | None) -> None:
        """The call has ended; its record is complete."""
        event = CallFinished(
            **self._of(call),
            record=call.record(),
            outcome=call.outcome,
            max_attempts=call.max_attempts,
            error_type=None if error is None else type(error).__name__,
            detail=None if error is None else call.detail,
        )
        notify(self._listeners, event)

    def _of(self, call: Call) -> dict[str, Any]:
        """What every event of a call says."""
        return {"service": call.service, "name": call.name, "at": self._clock.monotonic()}
