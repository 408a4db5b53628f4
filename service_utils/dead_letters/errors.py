"""What can go wrong with dead letters.

DeadLetterError
├── DeadLetterQueueFull     there is no room: a limit of the queue is reached, or the disk is full
├── LetterTooOld            nobody remembers its idempotency key any more: sending it could do things twice
└── UnknownLetter           no letter has this id
"""

from __future__ import annotations

__all__ = ["DeadLetterError", "DeadLetterQueueFull", "LetterTooOld", "UnknownLetter"]


class DeadLetterError(Exception):
    """Something is wrong with a dead letter or with the queue; no error of a call."""


class DeadLetterQueueFull(DeadLetterError):
    """There is no room for a letter, and none of those that were to be added has been kept.

    Attributes:
        limit: The limit that is reached: ``max_letters``, ``max_bytes``, ``max_body`` or ``disk``.
    """

    def __init__(self, message: str, limit: str = "disk") -> None:
        super().__init__(message)
        self.limit = limit


class LetterTooOld(DeadLetterError, ValueError):
    """A letter is older than receivers remember idempotency keys; only ``force=True`` sends it again."""


class UnknownLetter(DeadLetterError, KeyError):
    """No letter has this id: it was delivered or purged, or never there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
