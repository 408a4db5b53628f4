"""Idempotency records in a SQLite file, for all processes of a host."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from service_utils.clock import Clock
from service_utils.idempotency import tables
from service_utils.idempotency.holds import Holds
from service_utils.idempotency.record import KEEP_SECONDS, Answer, Began, Question, Started, UnknownRecord
from service_utils.policies.checks import checked_clock, require_count
from service_utils.storage import Database, StorageError

__all__ = ["SQLiteIdempotency", "SharedTransaction"]

_EXPIRED_PER_BEGIN = 2  # each key adds one record at most, so two catch up with any backlog
_EXPIRED_PER_PURGE = 500  # so that no other writer waits long


class SQLiteIdempotency:
    """An :class:`~service_utils.idempotency.store.IdempotencyStore` in a file that other tables may share.

    Records are committed before the route runs and after it. Which executions are alive the operating system
    says, by locks on a file beside the database (``<name>-holds``); so a record whose process was killed is
    unknown at once, and one whose process hangs is running for as long as it hangs. All processes must run on
    one host.

    Where the route's effect is in the same file, :meth:`in_transaction` does better.

    Args:
        database: Where the records are kept.
        clock: Its ``now()`` decides what has expired.

    Raises:
        TypeError: An argument is of another kind.
        StorageError: The table cannot be made.
    """

    def __init__(self, database: Database, *, clock: Clock | None = None) -> None:
        if not isinstance(database, Database):
            raise TypeError(f"database={database!r}: must be a service_utils.storage.Database")
        self._database = database
        self._clock = checked_clock(clock)
        path = database.path.resolve()  # whatever symbolic links lead to it, there is one lock file
        self._holds_path = path.with_name(f"{path.name}-holds")
        self._holds = Holds.of(self._holds_path)
        database.migrate(tables.COMPONENT, tables.SCRIPTS)

    def __repr__(self) -> str:
        return f"SQLiteIdempotency({self._database!r})"

    def in_transaction(self) -> SharedTransaction:
        """The same records for routes whose effect is in this database: committed together with it."""
        return SharedTransaction(self)

    def begin(self, question: Question) -> Began:
        """See the protocol.

        Raises:
            StorageError: The file cannot be written at the moment.
        """
        replay = self._answered(question)
        if replay is not None:
            return replay
        with self._naming_holds():
            self._holds.hold(question.token)
        with self._database.write() as connection:
            now = self._now()
            tables.drop_expired(connection, now, _EXPIRED_PER_BEGIN)
            began = self._state(connection, question, now)
            if isinstance(began, Started):
                tables.insert(connection, question, now)
        return began

    def finish(self, question: Question, answer: Answer, keep_for: float) -> bool:
        """See the protocol.

        Raises:
            StorageError: The answer cannot be kept.
        """
        with self._database.write() as connection:
            expires_at = self._now() + keep_for
            return tables.answer_row(connection, question.record_id, question.token, answer, expires_at)

    def forget(self, question: Question) -> bool:
        """See the protocol.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._database.write() as connection:
            return tables.forget(connection, question.record_id, question.token)

    def leave(self, question: Question) -> None:
        """See the protocol."""
        self._holds.let_go(question.token)

    def take_over(self, question: Question, broken_off: int) -> bool:
        """See the protocol.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._naming_holds():
            self._holds.hold(question.token)
        with self._database.write() as connection:
            if self._is_held(broken_off):
                return False
            return tables.take_over(connection, question, broken_off, self._now())

    def settle(
        self, record_id: str, token: int, answer: Answer | None, keep_for: float = KEEP_SECONDS
    ) -> bool:
        """See the protocol.

        Raises:
            StorageError: The file cannot be written.
        """
        with self._database.write() as connection:
            if self._is_held(token):
                return False
            if answer is None:
                return tables.forget(connection, record_id, token)
            return tables.answer_row(connection, record_id, token, answer, self._now() + keep_for)

    def list_unknown(self, limit: int = 100) -> list[UnknownRecord]:
        """See the protocol.

        Raises:
            StorageError: The file cannot be used.
        """
        require_count("limit", limit)
        with self._database.write() as connection:  # see tables.state
            found = tables.unanswered(connection)
            unknown = (record for record in found if not self._is_held(record.token))
            return [record for record, _ in zip(unknown, range(limit), strict=False)]

    def purge(self) -> int:
        """See the protocol.

        Raises:
            StorageError: The file cannot be written.
        """
        total = 0
        while True:
            with self._database.write() as connection:
                dropped = tables.drop_expired(connection, self._now(), _EXPIRED_PER_PURGE)
            total += dropped
            if dropped < _EXPIRED_PER_PURGE:
                return total

    def close(self) -> None:
        """Close the database's connections."""
        self._database.close()

    def _answered(self, question: Question) -> Began | None:
        """What a repeat is told whose answer is kept already; it need not wait for those who write."""
        with self._database.read() as connection:
            row = tables.find(connection, question.record_id, self._now())
        if row is None or row.answer is None:
            return None
        return tables.state(row, question, self._is_held)

    def _state(self, connection: sqlite3.Connection, question: Question, now: float) -> Began:
        return tables.state(tables.find(connection, question.record_id, now), question, self._is_held)

    def _is_held(self, token: int) -> bool:
        with self._naming_holds():
            return self._holds.is_held(token)

    def _now(self) -> float:
        return self._clock.now().timestamp()

    @contextlib.contextmanager
    def _naming_holds(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path: Path = self._holds_path
            raise StorageError(f"{path}: {error.strerror}", path) from error


class SharedTransaction:
    """Records that are committed together with what the route writes into the same database, or not at all.

    The route runs within the transaction, on :attr:`connection`. A crash, at whatever moment, leaves neither
    record nor effect, so the key is free; a repeat that comes while the first is at it waits for its commit.
    Nothing is ever running or unknown here, save what :class:`SQLiteIdempotency` itself began.

    The file has one writer at a time. So this is for routes that are quick and call nobody.
    """

    def __init__(self, store: SQLiteIdempotency) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"{self._store!r}.in_transaction()"

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of the transaction in which the route of this moment runs. Not to be committed.

        Raises:
            RuntimeError: None is running here.
        """
        running = _running.get()
        if running is None or running[0] is not self:
            raise RuntimeError("the connection is there only while a route with this store runs")
        return running[1]

    @contextlib.contextmanager
    def begin(self, question: Question) -> Iterator[Began]:
        """The transaction; undone when the block raises. In it, :meth:`finish` keeps the answer.

        Raises:
            StorageError: The file cannot be written, or another writer held it for too long.
        """
        store = self._store
        answered = store._answered(question)
        if answered is not None:
            yield answered
            return
        with store._database.write() as connection:
            now = store._now()
            tables.drop_expired(connection, now, _EXPIRED_PER_BEGIN)
            before = _running.set((self, connection))
            try:
                yield store._state(connection, question, now)
            finally:
                _running.reset(before)

    def take_over(self, question: Question, broken_off: int) -> bool:
        """Within the block: whether an unknown record may be run again. It is this transaction's then."""
        return tables.forget(self.connection, question.record_id, broken_off)

    def settle(self, record_id: str, token: int, answer: Answer, keep_for: float) -> bool:
        """Within the block: say what the answer of an unknown execution was."""
        expires_at = self._store._now() + keep_for
        return tables.answer_row(self.connection, record_id, token, answer, expires_at)

    def finish(self, question: Question, answer: Answer, keep_for: float) -> None:
        """Within the block: keep the answer, if what the route wrote is kept."""
        now = self._store._now()
        tables.insert(self.connection, question, now)
        tables.answer_row(self.connection, question.record_id, question.token, answer, now + keep_for)

    @contextlib.contextmanager
    def undoing(self) -> Iterator[None]:
        """Within the block: undo what is written here when it raises an ``Exception``, and that alone."""
        connection = self.connection
        connection.execute("SAVEPOINT idempotent_route")
        try:
            yield
        except Exception:
            if connection.in_transaction:  # SQLite itself undoes everything after some errors
                connection.execute("ROLLBACK TO idempotent_route")
                connection.execute("RELEASE idempotent_route")
            raise
        connection.execute("RELEASE idempotent_route")


_running: ContextVar[tuple[SharedTransaction, sqlite3.Connection] | None] = ContextVar(
    "service_utils_shared_transaction", default=None
)
