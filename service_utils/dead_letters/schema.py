"""The tables of SQLiteDeadLetters, and how a letter lies in them."""

# ruff: noqa: S608 - the statements are put together from words of this module only

from __future__ import annotations

import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

from service_utils.dead_letters.letter import DeadLetter, LetterStatus
from service_utils.dead_letters.store import CLOCKS_DIFFER_BY, Selection, lease_holds

__all__ = [
    "ADD",
    "ADD_BODY",
    "HEAD",
    "LEASED",
    "MIGRATIONS",
    "NO_LEASE",
    "TOTALS",
    "WHOLE",
    "condition",
    "letter_of",
    "row_of",
    "storable",
]

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

# Bodies have a table of their own: SQLite writes a row anew when a lease changes it, and they may be large.
_VERSION_3: Final = """
CREATE TABLE dead_letter_bodies (
    seq INTEGER PRIMARY KEY REFERENCES dead_letters (seq) ON DELETE CASCADE,
    body BLOB NOT NULL
);
INSERT INTO dead_letter_bodies SELECT seq, body FROM dead_letters WHERE body IS NOT NULL;
ALTER TABLE dead_letters DROP COLUMN body;
"""

MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3)

TOTALS: Final = ("added", "delivered", "died", "purged")

_WRITTEN = (
    "id, kind, service, method, path, headers, idempotency_key, request_id, status, attempts, max_retries, "
    "created_at, next_attempt_at, last_error, last_status"
)
ADD: Final = f"INSERT INTO dead_letters ({_WRITTEN}, size) VALUES ({', '.join('?' * 16)})"
ADD_BODY: Final = "INSERT INTO dead_letter_bodies (seq, body) VALUES (?, ?)"
HEAD: Final = f"SELECT {_WRITTEN}, lease_token, leased_at, lease_expires, size FROM dead_letters"
WHOLE: Final = (
    f"SELECT {_WRITTEN}, lease_token, leased_at, lease_expires, size, last_response, body "
    "FROM dead_letters LEFT JOIN dead_letter_bodies USING (seq)"
)
LEASED: Final = (
    f"(lease_token IS NOT NULL AND leased_at <= :now + {CLOCKS_DIFFER_BY} AND lease_expires > :now)"
)
NO_LEASE: Final = "lease_token = NULL, leased_at = NULL, lease_expires = NULL"


def row_of(letter: DeadLetter) -> tuple[object, ...]:
    """The values for :data:`ADD`."""
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
        storable(letter.last_error),
        letter.last_status,
        letter.size,
    )


def letter_of(row: Sequence[Any], now: float) -> DeadLetter:
    """The letter in a row of :data:`WHOLE`, or without its contents in one of :data:`HEAD`."""
    token, leased_at, lease_expires = row[15:18]
    leased = token is not None and lease_holds(leased_at, lease_expires, now)
    last_response, body = row[19:] or (None, None)
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
        last_response=last_response,
        body=body,
    )


def storable(text: str | None) -> str | None:
    """A text without what SQLite would refuse: half characters, as in names of files that are no UTF-8."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def condition(selection: Selection, now: float) -> tuple[str, dict[str, Any]]:
    """What stands after WHERE for a selection, and the values of its names; ``:now`` is one in any case."""
    parts: list[str] = ["1"]
    values: dict[str, Any] = {"now": now}
    if selection.service is not None:
        parts.append("service = :service")
        values["service"] = selection.service
    if selection.status is LetterStatus.LEASED:
        parts.append(LEASED)
    elif selection.status is not None:
        parts.append(f"status = '{selection.status.value}' AND NOT {LEASED}")
    if selection.before is not None:
        parts.append("created_at < :before")
        values["before"] = selection.before
    if selection.since is not None:
        parts.append("created_at >= :since")
        values["since"] = selection.since
    return " AND ".join(parts), values
