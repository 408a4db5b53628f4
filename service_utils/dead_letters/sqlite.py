"""SQLiteDeadLetters: letters in one file, durable when ``add`` returns, for all processes of a host."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from service_utils.dead_letters.errors import DeadLetterQueueFull
from service_utils.dead_letters.letter import DeadLetter, Lease, LetterStatus
from service_utils.dead_letters.store import (
    Delivered,
    Died,
    Limits,
    PutBack,
    Retried,
    Selection,
    Settlement,
    is_due,
    lease_holds,
)
from service_utils.storage import Database, StorageFull

__all__ = ["SQLiteDeadLetters"]

_VERSION_1: Final = """
CREATE TABLE dead_letters (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    service TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    headers TEXT NOT NULL,
    idempotency_key TEXT,
    request_id TEXT,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    max_retries INTEGER NOT NULL,
    created_at REAL NOT NULL,
    next_attempt_at REAL NOT NULL,
    last_error TEXT,
    last_status INTEGER,
    lease_token INTEGER,
    leased_at REAL,
    lease_expires REAL,
    size INTEGER NOT NULL,
    last_response BLOB,
    body BLOB
);
CREATE INDEX dead_letters_by_service ON dead_letters (service, status, seq);
CREATE INDEX dead_letters_by_age ON dead_letters (created_at);
CREATE INDEX dead_letters_leased ON dead_letters (service) WHERE lease_token IS NOT NULL;
CREATE TABLE dead_letter_totals (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO dead_letter_totals
    VALUES ('added', 0), ('delivered', 0), ('died', 0), ('purged', 0), ('token', 0);
"""

# How many there are, kept up to date by the file itself: nobody has to count a hundred thousand letters.
_VERSION_2: Final = """
CREATE TABLE dead_letter_counts (
    service TEXT NOT NULL,
    status TEXT NOT NULL,
    letters INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (service, status)
) WITHOUT ROWID;
INSERT INTO dead_letter_counts
    SELECT service, status, count(*), sum(size) FROM dead_letters GROUP BY service, status;
CREATE TRIGGER dead_letters_added AFTER INSERT ON dead_letters BEGIN
    INSERT INTO dead_letter_counts VALUES (NEW.service, NEW.status, 1, NEW.size)
        ON CONFLICT DO UPDATE SET letters = letters + 1, bytes = bytes + NEW.size;
END;
CREATE TRIGGER dead_letters_removed AFTER DELETE ON dead_letters BEGIN
    UPDATE dead_letter_counts SET letters = letters - 1, bytes = bytes - OLD.size
        WHERE service = OLD.service AND status = OLD.status;
END;
CREATE TRIGGER dead_letters_changed AFTER UPDATE OF status, size ON dead_letters BEGIN
    UPDATE dead_letter_counts SET letters = letters - 1, bytes = bytes - OLD.size
        WHERE service = OLD.service AND status = OLD.status;
    INSERT INTO dead_letter_counts VALUES (NEW.service, NEW.status, 1, NEW.size)
        ON CONFLICT DO UPDATE SET letters = letters + 1, bytes = bytes + NEW.size;
END;
"""

MIGRATIONS: Final = (_VERSION_1, _VERSION_2)

_HEAD = (
    "id, kind, service, method, path, headers, idempotency_key, request_id, status, attempts, max_retries, "
    "created_at, next_attempt_at, last_error, last_status, lease_token, leased_at, lease_expires"
)
_WHOLE = f"{_HEAD}, last_response, body"
_PLACES = ", ".join("?" * 17)
_LEASED = "(lease_token IS NOT NULL AND leased_at <= :now + 5.0 AND lease_expires > :now)"
_NO_LEASE = "lease_token = NULL, leased_at = NULL, lease_expires = NULL"
_PENDING, _DEAD = LetterStatus.PENDING.value, LetterStatus.DEAD.value


class SQLiteDeadLetters:
    """Keeps letters in a SQLite file. Any thread, several processes; a forked child opens the file anew.

    See :class:`~service_utils.dead_letters.store.DeadLetterStore` for the methods. All of them raise
    :class:`~service_utils.storage.StorageError` when the file cannot be read or written.

    Args:
        path: The file, or a :class:`~service_utils.storage.Database` that others use, too. A file is made
            when missing, for its owner's eyes only.
        busy_timeout: Seconds to wait for another writer.

    Raises:
        StorageError: The file is no database, was written by a newer release, or cannot be opened.
    """

    def __init__(self, path: str | Path | Database, *, busy_timeout: float = 5.0) -> None:
        self._own = not isinstance(path, Database)
        self._database = path if isinstance(path, Database) else Database(path, busy_timeout=busy_timeout)
        self._database.migrate("dead_letters", MIGRATIONS)

    def __repr__(self) -> str:
        return f"SQLiteDeadLetters({str(self._database.path)!r})"

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    # -- adding -------------------------------------------------------------------------------------

    def add(self, letters: Sequence[DeadLetter], limits: Limits) -> None:
        """See :class:`DeadLetterStore`."""
        if not letters:
            return
        with self._no_room_told(), self._database.write() as connection:
            self._check_room(connection, letters, limits)
            connection.executemany(
                "INSERT INTO dead_letters (id, kind, service, method, path, headers, idempotency_key, "
                "request_id, status, attempts, max_retries, created_at, next_attempt_at, last_error, "
                f"last_status, size, body) VALUES ({_PLACES})",
                map(_row, letters),
            )
            _count(connection, "added", len(letters))

    def _check_room(
        self, connection: sqlite3.Connection, letters: Sequence[DeadLetter], limits: Limits
    ) -> None:
        count, size = connection.execute(
            "SELECT coalesce(sum(letters), 0), coalesce(sum(bytes), 0) FROM dead_letter_counts"
        ).fetchone()
        count += len(letters)
        size += sum(letter.size for letter in letters)
        if count > limits.max_letters:
            message = f"{self.path}: max_letters={limits.max_letters}: there would be {count} letters"
            raise DeadLetterQueueFull(message, "max_letters")
        if size > limits.max_bytes:
            message = f"{self.path}: max_bytes={limits.max_bytes}: there would be {size} bytes"
            raise DeadLetterQueueFull(message, "max_bytes")

    @contextmanager
    def _no_room_told(self) -> Iterator[None]:
        try:
            yield
        except StorageFull as error:
            raise DeadLetterQueueFull(str(error), "disk") from error

    # -- working off --------------------------------------------------------------------------------

    def lease(self, service: str, *, now: float, seconds: float, limit: int) -> list[Lease]:
        """See :class:`DeadLetterStore`."""
        if not self._could_lease(service, now):  # without a word to the disk, as nearly always
            return []
        with self._database.write() as connection:
            if _is_leased(connection, service, now):
                return []
            letters = []
            rows = connection.execute(
                f"SELECT {_WHOLE} FROM dead_letters WHERE service = ? AND status = ? ORDER BY seq LIMIT ?",
                (service, _PENDING, limit),
            )
            for row in rows:
                letter = _letter(row, now)
                if not is_due(letter.next_attempt_at, now):
                    break
                letters.append(letter)
            rows.close()
            return [_leased(connection, letter, now, now + seconds) for letter in letters]

    def _could_lease(self, service: str, now: float) -> bool:
        with self._database.read() as connection:
            return not _is_leased(connection, service, now) and _is_head_due(connection, service, now)

    def extend(self, lease: Lease, expires_at: float) -> bool:
        """See :class:`DeadLetterStore`."""
        return self._change(lease, "lease_expires = ?", expires_at)

    def settle(self, lease: Lease, settlement: Settlement) -> bool:
        """See :class:`DeadLetterStore`."""
        if isinstance(settlement, PutBack):
            return self._change(lease, f"next_attempt_at = ?, {_NO_LEASE}", settlement.next_attempt_at)
        if isinstance(settlement, Retried):
            return self._change(
                lease,
                f"attempts = attempts + 1, next_attempt_at = ?, last_error = ?, last_status = ?, {_NO_LEASE}",
                settlement.next_attempt_at,
                settlement.error,
                settlement.status,
            )
        with self._database.write() as connection:
            held = self._end(connection, lease, settlement)
            if held:
                _count(connection, "delivered" if isinstance(settlement, Delivered) else "died", 1)
        return held

    def _end(self, connection: sqlite3.Connection, lease: Lease, settlement: Delivered | Died) -> bool:
        which = (lease.letter.id, lease.token)
        if isinstance(settlement, Delivered):
            done = connection.execute("DELETE FROM dead_letters WHERE id = ? AND lease_token = ?", which)
            return done.rowcount == 1
        done = connection.execute(
            "UPDATE dead_letters SET status = ?, attempts = attempts + 1, last_error = ?, last_status = ?, "
            f"size = size - coalesce(length(last_response), 0) + ?, last_response = ?, {_NO_LEASE} "
            "WHERE id = ? AND lease_token = ?",
            (
                _DEAD,
                settlement.error,
                settlement.status,
                len(settlement.response or b""),
                settlement.response,
                *which,
            ),
        )
        return done.rowcount == 1

    def _change(self, lease: Lease, assignments: str, *values: object) -> bool:
        """Change a leased letter. Returns whether the lease was good."""
        with self._database.write() as connection:
            done = connection.execute(
                f"UPDATE dead_letters SET {assignments} WHERE id = ? AND lease_token = ?",
                (*values, lease.letter.id, lease.token),
            )
            return done.rowcount == 1

    def waiting(self, now: float) -> dict[str, int]:
        """See :class:`DeadLetterStore`."""
        with self._database.read() as connection:
            pending = connection.execute(
                "SELECT service, letters FROM dead_letter_counts WHERE status = ? AND letters > 0",
                (_PENDING,),
            ).fetchall()
            return {
                service: count
                for service, count in pending
                if not _is_leased(connection, service, now) and _is_head_due(connection, service, now)
            }

    # -- looking and deciding -----------------------------------------------------------------------

    def get(self, letter_id: str, now: float) -> DeadLetter | None:
        """See :class:`DeadLetterStore`."""
        with self._database.read() as connection:
            row = connection.execute(
                f"SELECT {_WHOLE} FROM dead_letters WHERE id = ?", (letter_id,)
            ).fetchone()
        return None if row is None else _letter(row, now)

    def list(self, selection: Selection, *, limit: int, after: str | None, now: float) -> list[DeadLetter]:
        """See :class:`DeadLetterStore`."""
        where, values = _condition(selection, now)
        values |= {"after": after, "limit": limit}
        behind = "seq > (SELECT seq FROM dead_letters WHERE id = :after)" if after is not None else "1"
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT {_WHOLE} FROM dead_letters WHERE {where} AND {behind} ORDER BY seq LIMIT :limit",
                values,
            ).fetchall()
        return [_letter(row, now) for row in rows]

    def requeue(self, letter_id: str | None, selection: Selection, now: float) -> int:
        """See :class:`DeadLetterStore`."""
        where, values = _condition(selection, now)
        if letter_id is not None:
            where, values = f"{where} AND id = :id", {**values, "id": letter_id}
        with self._database.write() as connection:
            done = connection.execute(
                f"UPDATE dead_letters SET status = '{_PENDING}', attempts = 0, next_attempt_at = :now, "
                f"{_NO_LEASE} WHERE {where} AND NOT {_LEASED}",
                values,
            )
            return done.rowcount

    def purge(self, selection: Selection, now: float, limit: int) -> Sequence[DeadLetter]:
        """See :class:`DeadLetterStore`."""
        where, values = _condition(selection, now)
        values["limit"] = limit
        with self._database.write() as connection:
            rows = connection.execute(
                f"SELECT {_HEAD} FROM dead_letters WHERE {where} AND NOT {_LEASED} ORDER BY seq LIMIT :limit",
                values,
            ).fetchall()
            connection.executemany("DELETE FROM dead_letters WHERE id = ?", [(row[0],) for row in rows])
            _count(connection, "purged", len(rows))
        return [_letter((*row, None, None), now) for row in rows]

    def stats(self, now: float) -> dict[str, Any]:
        """See :class:`DeadLetterStore`."""
        with self._database.read() as connection:
            counts = connection.execute(
                "SELECT service, status, letters, bytes FROM dead_letter_counts WHERE letters > 0 "
                "ORDER BY service"
            ).fetchall()
            leased = connection.execute(
                f"SELECT service, count(*) FROM dead_letters WHERE {_LEASED} GROUP BY service", {"now": now}
            ).fetchall()
            totals = dict(connection.execute("SELECT name, value FROM dead_letter_totals"))
            oldest = connection.execute("SELECT created_at FROM dead_letters ORDER BY seq LIMIT 1").fetchone()
        services: dict[str, dict[str, int]] = {}
        for service, status, letters, _ in counts:
            services.setdefault(service, {each.value: 0 for each in LetterStatus})[status] = letters
        for service, count in leased:
            services[service][LetterStatus.LEASED.value] = count
            services[service][_PENDING] -= count
        return {
            "letters": sum(row[2] for row in counts),
            **{each.value: sum(found[each.value] for found in services.values()) for each in LetterStatus},
            "bytes": sum(row[3] for row in counts),
            "oldest_created_at": None if oldest is None else oldest[0],
            "services": services,
            "totals": {name: totals[name] for name in ("added", "delivered", "died", "purged")},
        }

    def close(self) -> None:
        """See :class:`DeadLetterStore`. A database that was handed in stays open."""
        if self._own:
            self._database.close()


def _row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.id,
        letter.kind,
        letter.service,
        letter.method,
        letter.path,
        json.dumps(dict(letter.headers)),
        letter.idempotency_key,
        letter.request_id,
        letter.status.value,
        letter.attempts,
        letter.max_retries,
        letter.created_at,
        letter.next_attempt_at,
        letter.last_error,
        letter.last_status,
        letter.size,
        letter.body,
    )


def _letter(row: Sequence[Any], now: float) -> DeadLetter:
    token, leased_at, lease_expires = row[15:18]
    leased = token is not None and lease_holds(leased_at, lease_expires, now)
    return DeadLetter(
        id=row[0],
        kind=row[1],
        service=row[2],
        method=row[3],
        path=row[4],
        headers=MappingProxyType(json.loads(row[5])),
        idempotency_key=row[6],
        request_id=row[7],
        status=LetterStatus.LEASED if leased else LetterStatus(row[8]),
        attempts=row[9],
        max_retries=row[10],
        created_at=row[11],
        next_attempt_at=row[12],
        last_error=row[13],
        last_status=row[14],
        last_response=row[18],
        body=row[19],
    )


def _condition(selection: Selection, now: float) -> tuple[str, dict[str, Any]]:
    parts = ["1"]
    values: dict[str, Any] = {"now": now}
    if selection.service is not None:
        parts.append("service = :service")
        values["service"] = selection.service
    if selection.status is LetterStatus.LEASED:
        parts.append(_LEASED)
    elif selection.status is not None:
        parts.append(f"status = '{selection.status.value}' AND NOT {_LEASED}")
    if selection.before is not None:
        parts.append("created_at < :before")
        values["before"] = selection.before
    if selection.since is not None:
        parts.append("created_at >= :since")
        values["since"] = selection.since
    return " AND ".join(parts), values


def _is_leased(connection: sqlite3.Connection, service: str, now: float) -> bool:
    rows = connection.execute(
        f"SELECT 1 FROM dead_letters WHERE service = :service AND {_LEASED} LIMIT 1",
        {"service": service, "now": now},
    )
    return rows.fetchone() is not None


def _is_head_due(connection: sqlite3.Connection, service: str, now: float) -> bool:
    row = connection.execute(
        "SELECT next_attempt_at FROM dead_letters WHERE service = ? AND status = ? ORDER BY seq LIMIT 1",
        (service, _PENDING),
    ).fetchone()
    return row is not None and is_due(row[0], now)


def _leased(connection: sqlite3.Connection, letter: DeadLetter, now: float, expires_at: float) -> Lease:
    token = connection.execute(
        "UPDATE dead_letter_totals SET value = value + 1 WHERE name = 'token' RETURNING value"
    ).fetchone()[0]
    connection.execute(
        "UPDATE dead_letters SET lease_token = ?, leased_at = ?, lease_expires = ? WHERE id = ?",
        (token, now, expires_at, letter.id),
    )
    leased = dataclasses.replace(letter, status=LetterStatus.LEASED)
    return Lease(letter=leased, token=token, expires_at=expires_at)


def _count(connection: sqlite3.Connection, name: str, number: int) -> None:
    connection.execute("UPDATE dead_letter_totals SET value = value + ? WHERE name = ?", (number, name))
