"""The last good answers in a SQLite file: they survive restarts, and all workers of a host share them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from service_utils.fallbacks.packing import Packed, packed, unpacked
from service_utils.policies.checks import require_count
from service_utils.policies.fallback.lasting import Lasting
from service_utils.storage import Database, Durability

__all__ = ["SQLiteAnswers"]

_COMPONENT = "last_good_answers"
_SECRET = "secret"
_GONE = "gone"
_ROW = 200  # bytes of a row besides the answer, roughly
_SWEEP = 32  # rows that one change clears away at most, beside making room
_PATIENCE = 1.0  # seconds a caller may wait for another writer

_TABLES = """
CREATE TABLE answer_settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    cache TEXT NOT NULL,
    key BLOB NOT NULL,
    kind TEXT NOT NULL,
    head TEXT NOT NULL,
    body BLOB NOT NULL,
    size INTEGER NOT NULL,
    began REAL NOT NULL,
    at REAL NOT NULL,
    expires REAL NOT NULL,
    UNIQUE (cache, key)
);
CREATE INDEX answers_by_age ON answers (at);
CREATE INDEX answers_by_expiry ON answers (expires);
CREATE TABLE answers_cleared (cache TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE answer_totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO answer_totals VALUES (0, 0);
CREATE TRIGGER answers_came AFTER INSERT ON answers BEGIN
    UPDATE answer_totals SET entries = entries + 1, bytes = bytes + new.size;
END;
CREATE TRIGGER answers_went AFTER DELETE ON answers BEGIN
    UPDATE answer_totals SET entries = entries - 1, bytes = bytes - old.size;
END;
CREATE TRIGGER answers_changed AFTER UPDATE OF size ON answers BEGIN
    UPDATE answer_totals SET bytes = bytes + new.size - old.size;
END;
"""

_SCRIPTS: Sequence[str] = (_TABLES,)

# What began later stays, and what is gone where both are of one moment; but not what comes from a future that
# a clock has since come back from.
_PUT = """
INSERT INTO answers (cache, key, kind, head, body, size, began, at, expires)
VALUES (:cache, :key, :kind, :head, :body, :size, :began, :at, :expires)
ON CONFLICT (cache, key) DO UPDATE SET
    kind = excluded.kind, head = excluded.head, body = excluded.body, size = excluded.size,
    began = excluded.began, at = excluded.at, expires = excluded.expires
WHERE excluded.began > answers.began OR answers.at > excluded.at
    OR (excluded.began = answers.began AND excluded.kind = 'gone')
"""


class SQLiteAnswers:
    """Keeps the answers of :class:`~service_utils.policies.fallback.StaleCache` objects in a file.

    ::

        answers = SQLiteAnswers("var/answers.db")
        prices = StaleCache(ttl=10, stale_for=86_400, name="prices", store=answers)

    The file and its ``-wal`` and ``-shm`` are for their owner alone (0600). In it are: of responses the
    status, the headers less cookies and whatever sounds like a credential, the address less its query, and
    the body; of other answers their JSON; by hashed keys, so that nobody's credentials can be read there.
    What is deleted leaves the file when its place is used again.

    A commit survives the crash of the process; a power failure may take the last ones, which can be fetched
    again. The file is opened when it is first needed. Errors are the cache's to survive: it warns once and
    goes on with its memory. For any number of threads and processes; a forked child opens the file anew.

    Args:
        path: The file; it may hold other tables of this package.
        max_entries: Answers kept at most; the oldest make room.
        max_bytes: Bytes they take at most. The file is somewhat larger. What is longer is not kept.
        secret: The key of the hashes, 16 to 64 bytes. By default one is made and kept in the file: then who
            may read that may try out credentials of which he suspects that an answer belongs to them.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 256 * 2**20,
        secret: bytes | None = None,
    ) -> None:
        if not isinstance(path, str | Path) or not str(path) or "\0" in str(path):
            raise ValueError(f"path={path!r}: must be the path of a file")
        require_count("max_entries", max_entries)
        require_count("max_bytes", max_bytes)
        if secret is not None and not isinstance(secret, bytes):
            raise TypeError("secret: must be bytes")
        if secret is not None and not 16 <= len(secret) <= 64:
            raise ValueError(f"secret: must be 16 to 64 bytes, not {len(secret)}")
        self.path = Path(path).absolute()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._given = secret
        self._secret = secret
        self._database: Database | None = None

    def __repr__(self) -> str:
        return f"SQLiteAnswers({str(self.path)!r})"

    def secret(self) -> bytes:
        """See :class:`~service_utils.policies.fallback.AnswerStore`.

        Raises:
            StorageError: The file cannot be used.
        """
        secret = self._secret
        if secret is None:
            with self._opened().write() as connection:
                connection.execute(
                    "INSERT OR IGNORE INTO answer_settings VALUES (?, ?)", (_SECRET, os.urandom(32))
                )
                secret = _secret_in(connection) or b""
            self._secret = secret
        return secret

    def find(self, cache: str, key: bytes) -> Lasting | None:
        """See :class:`~service_utils.policies.fallback.AnswerStore`.

        Raises:
            StorageError: The file cannot be used.
        """
        with self._opened().read() as connection:
            if self._is_other_file(connection):
                return None
            cleared = connection.execute(
                "SELECT at FROM answers_cleared WHERE cache = ?", (cache,)
            ).fetchone()
            row = connection.execute(
                "SELECT kind, head, body, began, at FROM answers WHERE cache = ? AND key = ?", (cache, key)
            ).fetchone()
        if row is not None:  # what has been cleared is not there any more
            kind, head, body, began, at = row
            return (
                Lasting(None, began, at, gone=True) if kind == _GONE else _read(kind, head, body, began, at)
            )
        return None if cleared is None else Lasting(None, cleared[0], cleared[0], gone=True)

    def keep(self, cache: str, key: bytes, answer: Lasting, expires: float) -> None:
        """See :class:`~service_utils.policies.fallback.AnswerStore`.

        Raises:
            StorageFull: There is no room on the disk.
            StorageError: The file cannot be used.
        """
        kept = packed(answer.answer)
        if kept is not None and kept.size + _ROW > self._max_bytes:
            kept = None
        with self._opened().write() as connection:
            if self._is_other_file(connection):
                return
            if kept is None:  # what is there is older, and true no longer
                connection.execute(
                    "DELETE FROM answers WHERE cache = ? AND key = ? AND began < ? AND kind != ?",
                    (cache, key, answer.began, _GONE),
                )
            elif not _is_cleared(connection, cache, answer):
                _put(connection, cache, key, kept, (answer.began, answer.at, expires))
                self._make_room(connection, answer.at)

    def forget(self, cache: str, key: bytes | None, at: float, expires: float) -> None:
        """See :class:`~service_utils.policies.fallback.AnswerStore`.

        Raises:
            StorageFull: There is no room on the disk.
            StorageError: The file cannot be used.
        """
        with self._opened().write() as connection:
            if key is None:
                connection.execute("DELETE FROM answers WHERE cache = ?", (cache,))
                connection.execute("INSERT OR REPLACE INTO answers_cleared VALUES (?, ?)", (cache, at))
            elif not self._is_other_file(connection):
                _put(connection, cache, key, Packed(_GONE, "", b""), (at, at, expires))
                self._make_room(connection, at)

    def counts(self) -> tuple[int, int]:
        """How many rows there are, and how many bytes.

        Raises:
            StorageError: The file cannot be used.
        """
        with self._opened().read() as connection:
            entries, size = connection.execute("SELECT entries, bytes FROM answer_totals").fetchone()
        return entries, size

    def close(self) -> None:
        """Close the file. It is opened again when it is needed."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _opened(self) -> Database:
        """The file. Two threads may come at once: then one opens it in vain."""
        database = self._database
        if database is None:
            database = Database(self.path, durability=Durability.NORMAL, busy_timeout=_PATIENCE)
            try:
                database.migrate(_COMPONENT, _SCRIPTS)
            except BaseException:
                database.close()
                raise
            self._database = database
        return database

    def _is_other_file(self, connection: sqlite3.Connection) -> bool:
        """Whether somebody has put another file in the place of the one whose secret we know."""
        if self._given is not None or _secret_in(connection) == self._secret:
            return False
        self._secret = None
        return True

    def _make_room(self, connection: sqlite3.Connection, now: float) -> None:
        connection.execute(
            "DELETE FROM answers WHERE id IN"
            " (SELECT id FROM answers WHERE expires <= ? ORDER BY expires LIMIT ?)",
            (now, _SWEEP),
        )
        while True:
            entries, size = connection.execute("SELECT entries, bytes FROM answer_totals").fetchone()
            if entries <= self._max_entries and size <= self._max_bytes:
                return
            connection.execute("DELETE FROM answers WHERE id = (SELECT id FROM answers ORDER BY at LIMIT 1)")


def _read(kind: str, head: str, body: bytes, began: float, at: float) -> Lasting | None:
    try:
        return Lasting(unpacked(Packed(kind, head, body)), began, at)
    except ValueError:  # of a release that knows another kind
        return None


def _put(
    connection: sqlite3.Connection, cache: str, key: bytes, kept: Packed, times: tuple[float, float, float]
) -> None:
    began, at, expires = times
    row = {
        "cache": cache,
        "key": key,
        "kind": kept.kind,
        "head": kept.head,
        "body": kept.body,
        "size": kept.size + _ROW,
        "began": began,
        "at": at,
        "expires": expires,
    }
    connection.execute(_PUT, row)


def _is_cleared(connection: sqlite3.Connection, cache: str, answer: Lasting) -> bool:
    """Whether all answers have been forgotten since this one was asked for."""
    row = connection.execute("SELECT at FROM answers_cleared WHERE cache = ?", (cache,)).fetchone()
    if row is None or row[0] < answer.began:
        return False
    if row[0] <= answer.at:
        return True
    # In the future: the clock has been put back since, and that would hold for too long.
    connection.execute("UPDATE answers_cleared SET at = ? WHERE cache = ?", (answer.began - 1e-3, cache))
    return False


def _secret_in(connection: sqlite3.Connection) -> bytes | None:
    row = connection.execute("SELECT value FROM answer_settings WHERE name = ?", (_SECRET,)).fetchone()
    return None if row is None else row[0]
