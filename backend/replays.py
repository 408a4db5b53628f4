"""Answers to requests that carried an ``Idempotency-Key``, kept so that a repeat gets the first answer again.

One row per key. A *run* is one go at the request: a run that failed for certain is abandoned, and the next
one is a new logical request with keys of its own. A run whose process died keeps its number: what it did at
the other services is found again under its keys.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.services.common import Refusal
from service_utils.storage import Database

__all__ = ["ReplayStore", "Turn"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replays (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    run INTEGER NOT NULL,
    busy_until REAL NOT NULL,
    kept_until REAL NOT NULL,
    reply TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replays_by_age ON replays (kept_until);
"""
_LOCK_WAIT = 5.0
_KEPT = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What a request may do now.

    Attributes:
        run: Its number; part of the keys of all calls it makes.
        reply: The answer of an earlier run, or None when this one has to find it.
        resumed: Whether the run is one whose process died, or failed while it was looking for what that one
            had done: nobody knows what came of it.
    """

    run: int
    reply: dict[str, Any] | None
    resumed: bool = False


class ReplayStore:
    """Kept answers in one SQLite file, which several processes may share.

    Args:
        path: The file; it and its folder are made when they are not there.
        lease: Seconds after which a run that neither finished nor was abandoned counts as dead.
        now: The time of day in seconds, the same for all processes.

    Raises:
        sqlite3.Error: The file cannot be made or is no database.
    """

    def __init__(self, path: Path, *, lease: float, now: Callable[[], float] = time.time) -> None:
        self._database = Database(path, busy_timeout=_LOCK_WAIT)
        self._database.migrate("replays", [_SCHEMA])
        self._lease = lease
        self._now = now

    def begin(self, key: str, fingerprint: str) -> Turn:
        """Start a run, or get the answer of the one that finished.

        Args:
            key: Of the request, already scoped by user and route.
            fingerprint: Of its body.

        Raises:
            Refusal: 409 with Retry-After while another run is under way; 422 when the key came with another
                body.
        """
        now = self._now()
        with self._database.write() as db:
            db.execute("DELETE FROM replays WHERE kept_until < ?", (now,))
            row = db.execute(
                "SELECT fingerprint, run, busy_until, reply FROM replays WHERE key = ?", (key,)
            ).fetchone()
            turn = Turn(0, None) if row is None else _turn(row, fingerprint, now)
            if turn.reply is None:
                db.execute(
                    "INSERT OR REPLACE INTO replays VALUES (?, ?, ?, ?, ?, NULL)",
                    (key, fingerprint, turn.run, now + self._lease, now + _KEPT),
                )
        return turn

    def finish(self, key: str, reply: dict[str, Any]) -> None:
        """Keep the answer."""
        with self._database.write() as db:
            db.execute("UPDATE replays SET reply = ?, busy_until = 0 WHERE key = ?", (json.dumps(reply), key))

    def let_go(self, key: str) -> None:
        """Let the same run be gone on with: something may have come of it."""
        with self._database.write() as db:
            db.execute(
                "UPDATE replays SET busy_until = MIN(busy_until, ?) WHERE key = ? AND reply IS NULL",
                (self._now(), key),
            )

    def abandon(self, key: str) -> None:
        """Let the request be made anew: nothing came of this run for certain."""
        with self._database.write() as db:
            db.execute(
                "UPDATE replays SET run = run + 1, busy_until = 0 WHERE key = ? AND reply IS NULL", (key,)
            )


def _turn(row: tuple[str, int, float, str | None], fingerprint: str, now: float) -> Turn:
    known, run, busy_until, reply = row
    if known != fingerprint:
        raise Refusal(422, "this Idempotency-Key was used with another body", field="Idempotency-Key")
    if reply is None and busy_until > now:
        seconds = str(max(1, math.ceil(min(busy_until - now, 5))))
        raise Refusal(409, "a request with this key is being worked on", headers={"Retry-After": seconds})
    # An abandoned run leaves 0 behind; any other time is that of a run that came to no end.
    resumed = reply is None and busy_until > 0
    return Turn(run, None if reply is None else json.loads(reply), resumed)
