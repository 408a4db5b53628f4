"""What can be wrong with what an operator asks for.

OperatingError
├── UnknownService    no client and no breaker has this name
└── NotOffered        the application has no such part
"""

from __future__ import annotations

__all__ = ["NotOffered", "OperatingError", "UnknownService"]


class OperatingError(Exception):
    """Something that an operator asked for cannot be done."""


class UnknownService(OperatingError, KeyError):
    """No client and no circuit breaker has this name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NotOffered(OperatingError):
    """The application has no such part: no dead letters, or nobody who watches its degradation."""
