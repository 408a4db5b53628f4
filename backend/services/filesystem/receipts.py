"""Which saves were done under which ``Idempotency-Key``, and what was answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from backend.services.common import open_database
from service_utils.clock import SYSTEM, Clock

__all__ = ["Receipt", "Receipts"]

_KEPT: Final = timedelta(days=30)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS receipts (
    key TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    target TEXT NOT NULL,
    answer TEXT NOT NULL,
    finished INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS receipts_unfinished ON receipts (target) WHERE finished = 0;
CREATE INDEX IF NOT EXISTS receipts_by_age ON receipts (created_at);
"""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One save.

    Attributes:
        fingerprint: Of the request's body.
        answer: What was, or would have been, answered.
        finished: False from just before the file is put in its place until just after; a process that was
            killed in between leaves it so.
    """

    fingerprint: bytes
    answer: dict[str, Any]
    finished: bool


class Receipts:
    """The receipts, kept for 30 days; may be used from any thread, and by several processes at once.

    Args:
        path: The SQLite file.
        clock: Its ``now()`` decides what is old.

    Raises:
        sqlite3.Error: The file is no database, or cannot be opened.
    """

    def __init__(self, path: Path, *, clock: Clock = SYSTEM) -> None:
        self._database = open_database(path, "receipts", _SCHEMA)
        self._clock = clock

    def ping(self) -> None:
        """Ask the database something small.

        Raises:
            sqlite3.Error: It cannot be read.
        """
        self.find("")

    def close(self) -> None:
        """Close the idle connections."""
        self._database.close()

    def find(self, key: str) -> Receipt | None:
        """The receipt of this key."""
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT fingerprint, answer, finished FROM receipts WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Receipt(row[0], json.loads(row[1]), bool(row[2]))

    def begin(self, key: str, fingerprint: bytes, target: str, answer: Mapping[str, Any]) -> bool:
        """Write the receipt, unfinished; False when the key is taken. Old receipts go."""
        now = self._clock.now()
        with self._database.write() as connection:
            connection.execute("DELETE FROM receipts WHERE created_at < ?", ((now - _KEPT).timestamp(),))
            written = connection.execute(
                "INSERT INTO receipts (key, fingerprint, target, answer, created_at) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (key, fingerprint, target, json.dumps(dict(answer)), now.timestamp()),
            )
            return written.rowcount == 1

    def finish(self, key: str) -> None:
        """The save has happened."""
        with self._database.write() as connection:
            connection.execute("UPDATE receipts SET finished = 1 WHERE key = ?", (key,))

    def forget(self, key: str) -> None:
        """The save has not happened: the key is free again."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM receipts WHERE key = ? AND finished = 0", (key,))

    def unfinished(self, target: str) -> list[str]:
        """The keys whose saves of this file were broken off at the last moment."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT key FROM receipts WHERE target = ? AND finished = 0", (target,)
            ).fetchall()
        return [key for (key,) in rows]
