"""The tally: what a circuit has counted and when things happened, for people; no decision rests on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

__all__ = ["SET_ANEW", "Moment", "Tally", "Unlocked"]

Moment: TypeAlias = tuple[float, datetime] | None
"""One moment on the monotonic clock and on the wall."""

SET_ANEW = 0.1  # seconds by which the time of day must have left the monotonic clock to count as set anew


@dataclass(slots=True)
class Unlocked:
    """What a breaker has counted without its lock.

    Attributes:
        succeeded: Successes that changed nothing else.
        rejected: Refused calls.
        last_success: When the last of those successes was; None before the first.
    """

    succeeded: int
    rejected: int
    last_success: float | None


class Tally:
    """Counts and times of one circuit. Times are seconds on the monotonic clock until they are shown."""

    __slots__ = (
        "_calendar",
        "_failed",
        "_ignored",
        "_last_change",
        "_last_error",
        "_last_failure",
        "_last_success",
        "_opened",
        "_outage_began",
        "_outage_seconds",
        "_outages",
        "_succeeded",
    )

    def __init__(self) -> None:
        self._last_failure: float | None = None
        self._last_success: float | None = None
        self._last_change: float | None = None
        self._last_error: str | None = None
        self._outage_began: float | None = None
        self._calendar: tuple[float, datetime] | None = None
        self.forget_counts()

    def forget_counts(self) -> None:
        """Begin to count anew; what the circuit has been through lately is kept."""
        self._succeeded = 0
        self._failed = 0
        self._ignored = 0
        self._opened = 0
        self._outages = 0
        self._outage_seconds = 0.0

    # -- taking note --------------------------------------------------------------------------------

    def ignored(self) -> None:
        """A call came to nothing that counts."""
        self._ignored += 1

    def succeeded(self, now: float) -> None:
        """A call went well."""
        self._succeeded += 1
        self._last_success = now

    def failed(self, now: float, error: BaseException | str | None) -> None:
        """A call failed; of an exception the type is kept, never the text."""
        self._failed += 1
        self._last_failure = now
        if error is not None:
            self._last_error = error if isinstance(error, str) else type(error).__name__

    def opened(self, now: float) -> None:
        """The circuit opened because of failures: an outage, unless it is in one."""
        self._opened += 1
        if self._outage_began is None:
            self._outage_began = now

    def recovered(self, now: float) -> None:
        """The circuit closed because the service is well again."""
        if self._outage_began is not None:
            self._outages += 1
            self._outage_seconds += now - self._outage_began
        self._outage_began = None

    def closed_by_hand(self) -> None:
        """A person ended the outage, which says nothing about how long recovery takes."""
        self._outage_began = None

    def changed(self, now: float) -> None:
        """The circuit went to another state."""
        self._last_change = now

    # -- showing ------------------------------------------------------------------------------------

    def shown(self, now: float, today: datetime, unlocked: Unlocked, agreed: Moment = None) -> dict[str, Any]:
        """The part of the statistics that is known here.

        Args:
            now: Seconds on the monotonic clock.
            today: The time of day at that moment.
            unlocked: What is to be added.
            agreed: A moment on both clocks by which others tell the time of day, too.
        """
        if agreed is None:
            self._set_calendar(now, today)
        else:
            self._calendar = agreed
        return {
            "total": {
                "succeeded": self._succeeded + unlocked.succeeded,
                "failed": self._failed,
                "ignored": self._ignored,
                "rejected": unlocked.rejected,
            },
            "opened_count": self._opened,
            "last_failure": self.iso(self._last_failure),
            "last_success": self.iso(_later(self._last_success, unlocked.last_success)),
            "last_state_change": self.iso(self._last_change),
            "last_error": self._last_error,
            "mttr_seconds": self._outage_seconds / self._outages if self._outages else None,
        }

    def _set_calendar(self, now: float, today: datetime) -> None:
        """Note which time of day one moment was; all others are told by it.

        So each moment keeps its time of day, however often it is shown, until the wall clock is set anew.
        """
        if self._calendar is not None:
            then, day = self._calendar
            if abs((today - day).total_seconds() - (now - then)) < SET_ANEW:
                return
        self._calendar = now, today

    def iso(self, moment: float | None) -> str | None:
        """The time of day of a moment, as last shown; None for none."""
        if moment is None or self._calendar is None:
            return None
        then, day = self._calendar
        return (day + timedelta(seconds=moment - then)).isoformat()


def _later(one: float | None, other: float | None) -> float | None:
    return max((each for each in (one, other) if each is not None), default=None)
