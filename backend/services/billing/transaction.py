"""What the parts of one write share: its connection, its moment and the answers it can give."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["SECOND", "Answer", "Transaction", "iso", "micros"]

SECOND = 1_000_000
"""A second in the unit of stored times."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write says to its caller. From status 400 on, ``body`` holds the members of a problem object.

    Attributes:
        status: The HTTP status.
        body: A JSON-ready dict.
    """

    status: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction.

    Attributes:
        connection: Where it runs.
        now: Its moment in microseconds since the epoch, one and the same for everything in it.
    """

    connection: sqlite3.Connection
    now: int

    def execute(self, statement: str, *parameters: object) -> sqlite3.Cursor:
        """Run one statement."""
        return self.connection.execute(statement, parameters)


def micros(moment: datetime) -> int:
    """An aware datetime in microseconds since the epoch."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def iso(moment: int) -> str:
    """A stored time as ISO 8601 in UTC."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat()
