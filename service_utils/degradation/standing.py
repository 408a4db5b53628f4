"""Where an application stands: the level by its rules, an operator's word over it, and how it came there."""

from __future__ import annotations

import threading
from collections import deque
from datetime import datetime, timedelta
from typing import Any

from service_utils.clock import Clock
from service_utils.degradation.history import Cause, LevelChange, Override
from service_utils.degradation.hysteresis import Hysteresis
from service_utils.degradation.level import DegradationLevel
from service_utils.degradation.rules import Assessment
from service_utils.events import DegradationChanged
from service_utils.forks import guard

__all__ = ["Standing"]


class Standing:
    """Keeps level, override and history in step. For any number of threads; a forked child goes on with it.

    It tells nobody: what changes the level returns the event, to be told with no lock held.

    Args:
        hysteresis: The level by the rules; nobody else may touch it.
        clock: Where the time comes from.
        who: ``service`` and ``name`` of events.
        history_size: How many changes are remembered.
    """

    def __init__(self, hysteresis: Hysteresis, clock: Clock, who: tuple[str, str], history_size: int) -> None:
        self._lock = threading.RLock()
        self._hysteresis = hysteresis
        self._clock = clock
        self._who = who
        self._history: deque[LevelChange] = deque(maxlen=history_size)
        self._begun = self._taken = 0  # assessments: begun, and the last of these that was taken in
        self.level = DegradationLevel.NORMAL
        self.since = clock.now()
        self.override: Override | None = None
        guard(self)

    # -- changing -----------------------------------------------------------------------------------

    def begin(self) -> int:
        """The number of an assessment that is about to be made."""
        with self._lock:
            self._begun += 1
            return self._begun

    def take_in(self, number: int, assessment: Assessment, calm: str) -> DegradationChanged | None:
        """Go by an assessment, unless one that began later has been taken in already.

        Args:
            number: From :meth:`begin`.
            assessment: What the rules came to.
            calm: The reason for a level that none of them asks for.
        """
        now = self._clock.monotonic()
        with self._lock:
            if number < self._taken:
                return None
            self._taken = number
            self._hysteresis.step(now, assessment)
            if self.override is not None or self._hysteresis.level is self.level:
                return None
            why = "; ".join(self._hysteresis.reasons()) or calm
            return self._move_locked(why, Cause.RULES, now)

    def set(self, override: Override) -> DegradationChanged | None:
        """Put an override in force, in the place of any other."""
        with self._lock:
            self.override = override
            return self._move_locked(override.words, Cause.OVERRIDE, self._clock.monotonic(), override.author)

    def clear(self, author: str) -> tuple[bool, DegradationChanged | None]:
        """End the override; also returns whether there was one."""
        with self._lock:
            if self.override is None:
                return False, None
            self.override = None
            why = f"override cleared by {author}"
            return True, self._move_locked(why, Cause.CLEARED, self._clock.monotonic(), author)

    def expire(self) -> DegradationChanged | None:
        """End the override if its time is over, as of that moment."""
        override = self.override
        if override is None or override.expires_at is None or self._clock.monotonic() < override.expires_at:
            return None
        with self._lock:
            if self.override is not override:
                return None  # somebody else has ended it
            self.override = None
            return self._move_locked(
                f"override of {override.author} expired", Cause.EXPIRED, override.expires_at
            )

    def _move_locked(
        self, reason: str, cause: Cause, at: float, author: str | None = None
    ) -> DegradationChanged | None:
        """Go to the level that holds now."""
        before = self.level
        to = self._hysteresis.level if self.override is None else self.override.level
        when = self._clock.now() - timedelta(seconds=self._clock.monotonic() - at)
        self._history.append(
            LevelChange(from_level=before, to_level=to, reason=reason, cause=cause, at=when, author=author)
        )
        if to is before:
            return None
        self.level, self.since = to, when
        return DegradationChanged(
            service=self._who[0],
            name=self._who[1],
            at=at,
            from_level=before.label,
            to_level=to.label,
            reason=reason,
            worse=to > before,
        )

    # -- reading ------------------------------------------------------------------------------------

    def reasons(self) -> tuple[str, ...]:
        """Why the level is what it is."""
        with self._lock:
            return self._reasons_locked()

    def history(self) -> list[LevelChange]:
        """The last changes, oldest first."""
        with self._lock:
            return list(self._history)

    def next_change(self) -> float | None:
        """The moment at which the level changes by itself if nothing else happens, or None."""
        with self._lock:
            override, due = self.override, self._hysteresis.due()
        expires_at = None if override is None else override.expires_at
        return min((moment for moment in (due, expires_at) if moment is not None), default=None)

    def retry_after(self, wanted: DegradationLevel) -> float | None:
        """Seconds before which the level cannot be that good; None where a person decides."""
        now = self._clock.monotonic()
        with self._lock:
            override = self.override
            if self.level <= wanted:
                return 0.0
            earliest = self._hysteresis.earliest_at_most(wanted, now)
        if override is None:
            return max(earliest - now, 0.0)
        return None if override.expires_at is None else max(override.expires_at, earliest) - now

    def shown(self) -> dict[str, Any]:
        """A JSON-ready picture."""
        now = self._clock.monotonic()
        with self._lock:
            due, override = self._hysteresis.due(), self.override
            return {
                "level": self.level.label,
                "value": int(self.level),
                "since": _iso(self.since),
                "reasons": list(self._reasons_locked()),
                "computed_level": self._hysteresis.level.label,
                "rules_level": self._hysteresis.target.label,
                "changes_in": _left(due, now),
                "override": None if override is None else _shown(override, now),
                "history": [change.as_json() for change in self._history],
            }

    def _reasons_locked(self) -> tuple[str, ...]:
        return self._hysteresis.reasons() if self.override is None else (self.override.words,)


def _shown(override: Override, now: float) -> dict[str, Any]:
    return {
        "level": override.level.label,
        "reason": override.reason,
        "author": override.author,
        "at": _iso(override.at),
        "expires_in": _left(override.expires_at, now),
    }


def _left(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(max(moment - now, 0.0), 3)


def _iso(moment: datetime) -> str:
    return moment.isoformat()
