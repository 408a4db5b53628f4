"""The five levels at which an application can work."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["DegradationLevel"]


class DegradationLevel(IntEnum):
    """How much of an application is away. They compare as numbers: a higher one is worse."""

    NORMAL = 0
    """Everything works."""
    MINOR = 1
    """Something works less well than it should."""
    MODERATE = 2
    """Some features are away, or answer in another way."""
    SEVERE = 3
    """Only what matters most works."""
    CRITICAL = 4
    """Next to nothing works."""

    @property
    def label(self) -> str:
        """The name as log lines and JSON have it: ``moderate``."""
        return self.name.lower()

    @classmethod
    def parse(cls, value: str | int) -> DegradationLevel:
        """The level of that name, in capitals or not, or of that number (``2``, ``"2"``).

        Raises:
            ValueError: There is no such level.
            TypeError: ``value`` is neither a name nor a number.
        """
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise TypeError(f"level={value!r}: must be the name or the number of a level")
        for level in cls:
            if value == level or (isinstance(value, str) and value.strip().lower() in level._spellings()):
                return level
        known = ", ".join(level.label for level in cls)
        raise ValueError(f"level={value!r}: there is no such level; there are {known}")

    def _spellings(self) -> tuple[str, str]:
        return self.label, str(self.value)
