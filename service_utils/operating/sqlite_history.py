"""The history in a SQLite file: all workers of a host see the same, and it survives restarts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service_utils.operating.history import KEPT_CHANGES, KEPT_SECONDS, Change, ChangeKind, Sample
from service_utils.storage import Database, Durability

__all__ = ["SQLiteHistory"]

_COMPONENT = "operating_history"
_PATIENCE = 1.0  # seconds that a page waits for another writer

_TABLES = """
CREATE TABLE changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    service TEXT NOT NULL,
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX changes_by_time ON changes (at);
CREATE TABLE samples (
    at REAL NOT NULL,
    name TEXT NOT NULL,
    member TEXT NOT NULL,
    total INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    retried INTEGER NOT NULL
);
CREATE INDEX samples_by_time ON samples (at);
"""


class SQLiteHistory:
    """Keeps the last 2,000 changes and the samples of 20 minutes. For any number of threads and processes.

    Args:
        path: The file; see :class:`~service_utils.storage.Database`.

    Raises:
        StorageError: It cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self._database = Database(path, durability=Durability.NORMAL, busy_timeout=_PATIENCE)
        self._database.migrate(_COMPONENT, (_TABLES,))

    def __repr__(self) -> str:
        return f"SQLiteHistory({str(self._database.path)!r})"

    def add(self, changes: Sequence[Change], samples: Sequence[Sample]) -> None:
        """Keep some more, and forget what is too old.

        Raises:
            StorageError: Nothing was kept.
        """
        if not changes and not samples:
            return
        with self._database.write() as connection:
            connection.executemany(
                "INSERT INTO changes (at, kind, name, service, from_state, to_state, reason) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (each.at, each.kind, each.name, each.service, each.from_state, each.to_state, each.reason)
                    for each in changes
                ],
            )
            if changes:
                connection.execute(
                    "DELETE FROM changes WHERE id <= (SELECT max(id) FROM changes) - ?", (KEPT_CHANGES,)
                )
            connection.executemany(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (each.at, each.name, each.member, each.total, each.failed, each.rejected, each.retried)
                    for each in samples
                ],
            )
            if samples:
                connection.execute("DELETE FROM samples WHERE at < ?", (samples[-1].at - KEPT_SECONDS,))

    def changes(self, limit: int, since: float = 0.0) -> list[Change]:
        """The last changes, latest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT at, kind, name, service, from_state, to_state, reason FROM changes "
                "WHERE at >= ? ORDER BY at DESC, id DESC LIMIT ?",
                (since, limit),
            ).fetchall()
        return [
            Change(
                at=at,
                kind=ChangeKind(kind),
                name=name,
                service=service,
                from_state=before,
                to_state=after,
                reason=reason,
            )
            for at, kind, name, service, before, after, reason in rows
        ]

    def samples(self, since: float) -> list[Sample]:
        """All samples since a moment, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT at, name, member, total, failed, rejected, retried FROM samples "
                "WHERE at >= ? ORDER BY at, rowid",
                (since,),
            ).fetchall()
        return [
            Sample(
                at=at,
                name=name,
                member=member,
                total=total,
                failed=failed,
                rejected=rejected,
                retried=retried,
            )
            for at, name, member, total, failed, rejected, retried in rows
        ]

    def close(self) -> None:
        """Close the file."""
        self._database.close()
