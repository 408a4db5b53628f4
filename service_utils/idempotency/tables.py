"""The table of idempotency records, and the statements that read and change it within a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from service_utils.idempotency.record import (
    Answer,
    Began,
    Mismatch,
    Question,
    Replay,
    Running,
    Started,
    Unknown,
    UnknownRecord,
)

__all__ = [
    "COMPONENT",
    "SCRIPTS",
    "Row",
    "answer_row",
    "drop_expired",
    "find",
    "forget",
    "insert",
    "state",
    "take_over",
    "unanswered",
]

COMPONENT = "idempotency"

_FIRST = """
CREATE TABLE idempotency_records (
    id TEXT PRIMARY KEY NOT NULL,
    fingerprint BLOB NOT NULL,
    caller TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    token INTEGER NOT NULL,
    began_at REAL NOT NULL,
    status INTEGER,
    headers TEXT,
    body BLOB,
    expires_at REAL,
    CHECK ((status IS NULL) = (expires_at IS NULL)),
    CHECK ((status IS NULL) = (headers IS NULL))
);
CREATE INDEX idempotency_by_expiry ON idempotency_records (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idempotency_unanswered ON idempotency_records (began_at) WHERE status IS NULL;
"""

SCRIPTS = (_FIRST,)

_COLUMNS = "id, fingerprint, caller, method, path, token, began_at"


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of a key; ``answer`` is None until there is one."""

    fingerprint: bytes
    token: int
    began_at: float
    answer: Answer | None


def find(connection: sqlite3.Connection, record_id: str, now: float) -> Row | None:
    """The record, unless its time is over."""
    found = connection.execute(
        "SELECT fingerprint, token, began_at, status, headers, body FROM idempotency_records"
        " WHERE id = ? AND (expires_at IS NULL OR expires_at > ?)",
        (record_id, now),
    ).fetchone()
    if found is None:
        return None
    fingerprint, token, began_at, status, headers, body = found
    if status is None:
        return Row(fingerprint, token, began_at, None)
    pairs = tuple((name, value) for name, value in json.loads(headers))
    return Row(fingerprint, token, began_at, Answer(status, pairs, body))


def state(row: Row | None, question: Question, is_held: Callable[[int], bool]) -> Began:
    """What the record says to somebody who asks.

    Whether its execution lives must be found out in a transaction that writes: so it cannot answer and leave
    between the two looks.
    """
    if row is None:
        return Started()
    if row.fingerprint != question.fingerprint:
        return Mismatch()
    if row.answer is not None:
        return Replay(row.answer)
    return Running() if is_held(row.token) else Unknown(row.token, row.began_at)


def insert(connection: sqlite3.Connection, question: Question, now: float) -> None:
    """Write a record without an answer, in place of one whose time is over."""
    connection.execute(
        f"INSERT OR REPLACE INTO idempotency_records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            question.record_id,
            question.fingerprint,
            question.caller,
            question.method,
            question.path,
            question.token,
            now,
        ),
    )


def answer_row(
    connection: sqlite3.Connection, record_id: str, token: int, answer: Answer, expires_at: float
) -> bool:
    """Write the answer of the execution that has the record."""
    written = connection.execute(
        "UPDATE idempotency_records SET status = ?, headers = ?, body = ?, expires_at = ?"
        " WHERE id = ? AND token = ? AND status IS NULL",
        (answer.status, json.dumps(answer.headers), answer.body, expires_at, record_id, token),
    )
    return written.rowcount == 1


def forget(connection: sqlite3.Connection, record_id: str, token: int) -> bool:
    """Delete the record that the execution has and has not answered."""
    deleted = connection.execute(
        "DELETE FROM idempotency_records WHERE id = ? AND token = ? AND status IS NULL", (record_id, token)
    )
    return deleted.rowcount == 1


def take_over(connection: sqlite3.Connection, question: Question, broken_off: int, now: float) -> bool:
    """Hand the unanswered record of one execution to another."""
    updated = connection.execute(
        "UPDATE idempotency_records SET token = ?, began_at = ?"
        " WHERE id = ? AND fingerprint = ? AND token = ? AND status IS NULL",
        (question.token, now, question.record_id, question.fingerprint, broken_off),
    )
    return updated.rowcount == 1


def unanswered(connection: sqlite3.Connection) -> list[UnknownRecord]:
    """All records without an answer, oldest first, those that are running among them."""
    rows = connection.execute(
        "SELECT id, token, caller, method, path, began_at FROM idempotency_records"
        " WHERE status IS NULL ORDER BY began_at, id"
    )
    return [UnknownRecord(*row) for row in rows]


def drop_expired(connection: sqlite3.Connection, now: float, most: int) -> int:
    """Delete the records whose time is over, so many at most, and tell how many."""
    deleted = connection.execute(
        "DELETE FROM idempotency_records WHERE id IN (SELECT id FROM idempotency_records"
        " WHERE expires_at IS NOT NULL AND expires_at <= ? ORDER BY expires_at LIMIT ?)",
        (now, most),
    )
    return deleted.rowcount
