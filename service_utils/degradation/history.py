"""What a monitor remembers: an operator's word about the level, and how the level has changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from service_utils.degradation.level import DegradationLevel

__all__ = ["Cause", "LevelChange", "Override", "checked_words"]

_LONGEST = 200


class Cause(StrEnum):
    """What stands behind an entry of the history."""

    RULES = "rules"
    OVERRIDE = "override"
    CLEARED = "cleared"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A level that a person has set, whatever the rules say.

    Attributes:
        level: The level.
        reason: Why, in words.
        author: Who.
        at: Since when.
        expires_at: Until when, on the monotonic clock of its monitor; None: until it is cleared.
    """

    level: DegradationLevel
    reason: str
    author: str
    at: datetime
    expires_at: float | None

    @property
    def words(self) -> str:
        """Who has done it and why."""
        return f"set by {self.author}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelChange:
    """An entry of the history.

    Attributes:
        from_level: The level before it.
        to_level: The level after it. An override may set the level that there was.
        reason: Why, in words.
        cause: What was behind it.
        at: When.
        author: Who set or cleared an override; None for changes that no person made.
    """

    from_level: DegradationLevel
    to_level: DegradationLevel
    reason: str
    cause: Cause
    at: datetime
    author: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return {
            "from_level": self.from_level.label,
            "to_level": self.to_level.label,
            "reason": self.reason,
            "cause": self.cause.value,
            "at": self.at.isoformat(),
            "author": self.author,
        }


def checked_words(argument: str, words: object) -> str:
    """Words for log lines: on one line, and not too long. Requires that there are some."""
    if not isinstance(words, str):
        raise TypeError(f"{argument}={words!r}: must be a string")
    line = " ".join("".join(each if each.isprintable() else " " for each in words).split())
    if not line:
        raise ValueError(f"{argument}={words!r}: must say something, for those who find the level so")
    return line[:_LONGEST]
