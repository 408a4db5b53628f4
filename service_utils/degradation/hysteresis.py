"""Hysteresis: a level that gets worse at once and better only after a calm time, so that it never flaps."""

from __future__ import annotations

from service_utils.degradation.level import DegradationLevel
from service_utils.degradation.rules import Assessment

__all__ = ["Hysteresis"]

_LEVELS = tuple(DegradationLevel)[1:]


class Hysteresis:
    """Follows what the rules come to, with a delay.

    For each level above NORMAL there is a switch, which a Schmitt trigger in time throws: on, once the rules
    have come to that level or a worse one for ``raise_after`` seconds; off, once they have come to a better
    one for ``calm_seconds``. The level is the highest whose switch is on. A higher switch is never on without
    the lower ones, because its question includes theirs. So a level that has got worse does not get better
    within ``calm_seconds``.

    Not for several threads: whoever owns one has a lock.

    Args:
        raise_after: Seconds.
        calm_seconds: Seconds.
        now: The present moment, on a clock that never goes backwards.
    """

    __slots__ = ("_calm_seconds", "_raise_after", "_reasons", "_since", "level", "target")

    def __init__(self, raise_after: float, calm_seconds: float, now: float) -> None:
        self._raise_after = raise_after
        self._calm_seconds = calm_seconds
        self.level = DegradationLevel.NORMAL
        self.target = DegradationLevel.NORMAL
        self._since = dict.fromkeys(_LEVELS, now)  # since when the rules have come to it, or have not
        self._reasons: dict[DegradationLevel, tuple[str, ...]] = dict.fromkeys(_LEVELS, ())

    def step(self, now: float, assessment: Assessment) -> None:
        """Take in what the rules come to at a moment, which is no earlier than the one before."""
        for level in _LEVELS:
            if (assessment.level >= level) is not (self.target >= level):
                self._since[level] = now
            if assessment.level >= level:
                self._reasons[level] = assessment.reasons
        self.target = assessment.level
        on = [level for level in _LEVELS if self._is_on(level, now)]
        self.level = max(on, default=DegradationLevel.NORMAL)

    def reasons(self) -> tuple[str, ...]:
        """Why the level is what it is: what the rules said when they last came to it."""
        return self._reasons.get(self.level, ())

    def due(self) -> float | None:
        """The moment at which the level changes if the rules go on to say what they say; None for never."""
        moments = [
            self._since[level] + (self._raise_after if self.target >= level else self._calm_seconds)
            for level in _LEVELS
            if (self.target >= level) is not (self.level >= level)
        ]
        return min(moments, default=None)

    def earliest_at_most(self, level: DegradationLevel, now: float) -> float:
        """The first moment at which the level can be so good again; now, when it is."""
        if self.level <= level:
            return now
        above = DegradationLevel(level + 1)
        calm_since = now if self.target >= above else self._since[above]
        return calm_since + self._calm_seconds

    def _is_on(self, level: DegradationLevel, now: float) -> bool:
        was_on = self.level >= level
        if self.target >= level:
            return was_on or now >= self._since[level] + self._raise_after
        return was_on and now < self._since[level] + self._calm_seconds
