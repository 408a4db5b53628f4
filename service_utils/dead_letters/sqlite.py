"""SQLiteDeadLetters: letters in one file, durable when ``add`` returns, for all processes of a host."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service_utils.dead_letters.errors import DeadLetterQueueFull
from service_utils.dead_letters.letter import DeadLetter, Lease, LetterStatus
from service_utils.dead_letters.schema import (
    ADD,
    ADD_BODY,
    HEAD,
    LEASED,
    MIGRATIONS,
    NO_LEASE,
    TOTALS,
    WHOLE,
    condition,
    letter_of,
    row_of,
    storable,
)
from service_utils.dead_letters.store import (
    LEASED_AT_ONCE,
    Delivered,
    Died,
    Letters,
    Limits,
    PutBack,
    Retried,
    Selection,
    Settlement,
    is_due,
)
from service_utils.storage import Database, StorageError, StorageFull

__all__ = ["SQLiteDeadLetters"]

_PENDING, _DEAD = LetterStatus.PENDING.value, LetterStatus.DEAD.value

_OF_THE_LEASE = "WHERE id = ? AND lease_token = ?"


class SQLiteDeadLetters:
    """Keeps letters in a SQLite file. Any thread, several processes; a forked child opens the file anew.

    See :class:`~service_utils.dead_letters.store.DeadLetterStore` for the methods. All of them raise
    :class:`~service_utils.storage.StorageError` when the file cannot be read or written.

    Args:
        path: The file, or a :class:`~service_utils.storage.Database` that others use, too. A file is made
            when missing, for its owner's eyes only.
        busy_timeout: Seconds to wait for another writer; of no effect on a database that was handed in.

    Raises:
        StorageError: The file is no database, was written by a newer release, or cannot be opened.
    """

    def __init__(self, path: str | Path | Database, *, busy_timeout: float = 5.0) -> None:
        self._own = not isinstance(path, Database)
        self._database = path if isinstance(path, Database) else Database(path, busy_timeout=busy_timeout)
        self._database.migrate("dead_letters", MIGRATIONS)

    @staticmethod
    def is_one(path: str | Path) -> bool:
        """Whether a file is there and holds such letters; nothing is made or changed.

        Raises:
            StorageError: It is no database, or cannot be read.
        """
        if not Path(path).is_file():
            return False
        address = (
            f"{Path(path).absolute().as_uri()}?mode=rw"  # a reader, too, writes beside a file in WAL mode
        )
        try:
            with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
                found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'dead_letters'")
                return found.fetchone() is not None
        except sqlite3.Error as error:
            raise StorageError(f"{path}: {error}", Path(path)) from error

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
            for letter in letters:
                seq = connection.execute(ADD, row_of(letter)).lastrowid
                if letter.body is not None:
                    connection.execute(ADD_BODY, (seq, letter.body))
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
            chosen = _next(connection, service, now, limit)
            return [_leased(connection, letter, now, now + seconds) for letter in chosen]

    def _could_lease(self, service: str, now: float) -> bool:
        with self._database.read() as connection:
            return not _is_leased(connection, service, now) and _is_head_due(connection, service, now)

    def extend(self, lease: Lease, *, now: float, seconds: float) -> bool:
        """See :class:`DeadLetterStore`."""
        with self._database.write() as connection:
            done = connection.execute(
                "UPDATE dead_letters SET leased_at = :now, lease_expires = :expires "
                f"WHERE id = :id AND lease_token = :token AND ({LEASED} OR NOT EXISTS "
                f"(SELECT 1 FROM dead_letters WHERE service = :service AND {LEASED}))",
                {
                    "now": now,
                    "expires": now + seconds,
                    "id": lease.letter.id,
                    "token": lease.token,
                    "service": lease.letter.service,
                },
            )
            return done.rowcount == 1

    def settle(self, lease: Lease, settlement: Settlement) -> bool:
        """See :class:`DeadLetterStore`."""
        with self._database.write() as connection:
            statement, values = _settling(settlement)
            done = connection.execute(statement, (*values, lease.letter.id, lease.token))
            held = done.rowcount == 1
            if held and isinstance(settlement, Delivered | Died):
                _count(connection, "delivered" if isinstance(settlement, Delivered) else "died", 1)
        return held

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
            row = connection.execute(f"{WHOLE} WHERE id = ?", (letter_id,)).fetchone()
        return None if row is None else letter_of(row, now)

    def list(self, selection: Selection, *, limit: int, after: str | None, now: float) -> Letters:
        """See :class:`DeadLetterStore`."""
        where, values = condition(selection, now)
        values["limit"] = limit
        with self._database.read() as connection:
            values["place"] = -1 if after is None else _place(connection, after)
            rows = connection.execute(
                f"{WHOLE} WHERE {where} AND seq > :place ORDER BY seq LIMIT :limit", values
            ).fetchall()
        return [letter_of(row, now) for row in rows]

    def requeue(self, letter_id: str | None, selection: Selection, now: float) -> int:
        """See :class:`DeadLetterStore`."""
        where, values = condition(selection, now)
        if letter_id is not None:
            where, values = f"{where} AND id = :id", {**values, "id": letter_id}
        with self._database.write() as connection:
            done = connection.execute(
                f"UPDATE dead_letters SET status = '{_PENDING}', attempts = 0, next_attempt_at = :now, "
                f"{NO_LEASE} WHERE {where} AND NOT {LEASED}",
                values,
            )
            return done.rowcount

    def purge(self, selection: Selection, now: float, limit: int) -> Letters:
        """See :class:`DeadLetterStore`."""
        where, values = condition(selection, now)
        values["limit"] = limit
        with self._database.write() as connection:
            rows = connection.execute(
                f"{HEAD} WHERE {where} AND NOT {LEASED} ORDER BY seq LIMIT :limit", values
            ).fetchall()
            connection.executemany("DELETE FROM dead_letters WHERE id = ?", [(row[0],) for row in rows])
            _count(connection, "purged", len(rows))
        return [letter_of(row, now) for row in rows]

    def stats(self, now: float) -> dict[str, Any]:
        """See :class:`DeadLetterStore`."""
        with self._database.read() as connection:
            counts = connection.execute(
                "SELECT service, status, letters, bytes FROM dead_letter_counts "
                "WHERE letters > 0 ORDER BY service"
            ).fetchall()
            leased = connection.execute(
                f"SELECT service, count(*) FROM dead_letters WHERE {LEASED} GROUP BY service", {"now": now}
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
            "totals": {name: totals[name] for name in TOTALS},
        }

    def close(self) -> None:
        """See :class:`DeadLetterStore`. A database that was handed in stays open."""
        if self._own:
            self._database.close()


def _is_leased(connection: sqlite3.Connection, service: str, now: float) -> bool:
    rows = connection.execute(
        f"SELECT 1 FROM dead_letters WHERE service = :service AND {LEASED} LIMIT 1",
        {"service": service, "now": now},
    )
    return rows.fetchone() is not None


def _is_head_due(connection: sqlite3.Connection, service: str, now: float) -> bool:
    row = connection.execute(
        "SELECT next_attempt_at FROM dead_letters WHERE service = ? AND status = ? ORDER BY seq LIMIT 1",
        (service, _PENDING),
    ).fetchone()
    return row is not None and is_due(row[0], now)


def _next(connection: sqlite3.Connection, service: str, now: float, limit: int) -> Letters:
    """The letters that may be leased, oldest first."""
    chosen: Letters = []
    size = 0
    rows = connection.execute(
        f"{WHOLE} WHERE service = ? AND status = ? ORDER BY seq LIMIT ?", (service, _PENDING, limit)
    )
    for row in rows:
        letter = letter_of(row, now)
        size += letter.size
        if not is_due(letter.next_attempt_at, now) or (chosen and size > LEASED_AT_ONCE):
            break
        chosen.append(letter)
    rows.close()
    return chosen


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


def _settling(settlement: Settlement) -> tuple[str, tuple[object, ...]]:
    """The statement that settles a lease, and its values but for the letter's id and the token."""
    values: tuple[object, ...]
    match settlement:
        case Delivered():
            return f"DELETE FROM dead_letters {_OF_THE_LEASE}", ()
        case PutBack():
            changes, values = "next_attempt_at = ?", (settlement.next_attempt_at,)
        case Retried():
            changes = "attempts = attempts + 1, next_attempt_at = ?, last_error = ?, last_status = ?"
            values = (settlement.next_attempt_at, storable(settlement.error), settlement.status)
        case Died():
            changes = (
                f"status = '{_DEAD}', attempts = attempts + 1, last_error = ?, last_status = ?, "
                "size = size - coalesce(length(last_response), 0) + ?, last_response = ?"
            )
            length = len(settlement.response or b"")
            values = (storable(settlement.error), settlement.status, length, settlement.response)
    return f"UPDATE dead_letters SET {changes}, {NO_LEASE} {_OF_THE_LEASE}", values


def _place(connection: sqlite3.Connection, letter_id: str) -> int:
    """Where a letter is; where it would be by its id, if it has gone."""
    found = connection.execute("SELECT seq FROM dead_letters WHERE id = ?", (letter_id,)).fetchone()
    if found is None:
        found = connection.execute("SELECT max(seq) FROM dead_letters WHERE id <= ?", (letter_id,)).fetchone()
    return -1 if found[0] is None else int(found[0])


def _count(connection: sqlite3.Connection, name: str, number: int) -> None:
    connection.execute("UPDATE dead_letter_totals SET value = value + ? WHERE name = ?", (number, name))
