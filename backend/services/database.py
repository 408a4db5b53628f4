"""One SQLite file shared by many threads and processes: WAL, a busy time-out, pooled connections."""

from __future__ import annotations

import sqlite3
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

__all__ = ["Database", "naming"]

BUSY_SECONDS = 4.0
"""How long a statement waits for another writer; shorter than the callers' own time-outs."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what SQLite says of it, which is only what is wrong."""
    try:
        yield
    except sqlite3.Error as error:
        raise type(error)(f"{path}: {error}") from error


def _close_all(connections: deque[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()


class Database:
    """A SQLite file with its schema; may be used from any thread, and by several processes at once.

    Args:
        path: The file; its folder is made when missing.
        schema: Statements that may be run again (``CREATE … IF NOT EXISTS``).
        synchronous: ``FULL`` keeps every commit through a power failure, ``NORMAL`` through a crash of the
            process only, which is enough for data that can be made again.

    Raises:
        sqlite3.DatabaseError: The file is no database, or cannot be opened.
    """

    def __init__(self, path: Path, schema: str, *, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> None:
        self._path = path
        self._synchronous = synchronous
        self._idle: deque[sqlite3.Connection] = deque()
        # An app that is dropped without a word leaves no connection behind.
        weakref.finalize(self, _close_all, self._idle).atexit = False
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path), closing(self._open()) as connection:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.executescript(schema)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment of the database for the whole block, and blocks no writer."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection that is the only writer; committed at the end of the block, undone when it raises.

        Raises:
            sqlite3.OperationalError: Another writer held the database for too long, or the disk failed.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def close(self) -> None:
        """Close the idle connections; the database may be used again afterwards."""
        _close_all(self._idle)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self._take()
        try:
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            connection.close()  # rolls back, and a connection that failed once is not trusted again
            raise
        self._idle.append(connection)

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def _open(self) -> sqlite3.Connection:
        # A pooled connection is used by one thread at a time, though not always by the same.
        connection = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        return connection
