"""Kept answers: a repeated key gets the first answer again.

The record of a key is written in the transaction that has the effect. Either both exist or neither does,
whenever the process dies; and a repeat that runs at the same time waits for the first one's transaction, then
finds its record.
"""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel

from backend.services.billing.transaction import SECOND, Answer, Transaction

__all__ = ["KEPT_SECONDS", "fingerprint", "keep", "kept_answer", "prune"]

KEPT_SECONDS = 30 * 24 * 3600


def fingerprint(body: BaseModel) -> str:
    """A digest of what a request means: defaults count as if written out, spacing counts for nothing."""
    text = json.dumps(body.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def kept_answer(tx: Transaction, scope: str, key: str, digest: str) -> Answer | None:
    """The first answer to this key in this scope, 422 if its request had another body, None for a new key."""
    row = tx.execute(
        "SELECT fingerprint, status, body FROM answers WHERE scope = ? AND key = ? AND created_at > ?",
        scope,
        key,
        _oldest(tx),
    ).fetchone()
    if row is None:
        return None
    first_digest, status, body = row
    if first_digest != digest:
        return Answer(422, {"detail": "this Idempotency-Key was first used with another body"})
    return Answer(status, json.loads(body), replayed=True)


def keep(tx: Transaction, scope: str, key: str, digest: str, answer: Answer) -> None:
    """Keep the answer to a new key; one that was kept for too long makes room."""
    tx.execute(
        "INSERT OR REPLACE INTO answers (scope, key, fingerprint, status, body, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        scope,
        key,
        digest,
        answer.status,
        json.dumps(answer.body, ensure_ascii=False),
        tx.now,
    )


def prune(tx: Transaction) -> None:
    """Drop at most two records that are too old.

    Each write adds one, so two per write catch up with any backlog, and none ever pays for a great clean-up.
    """
    tx.execute(
        "DELETE FROM answers WHERE rowid IN"
        " (SELECT rowid FROM answers WHERE created_at <= ? ORDER BY created_at LIMIT 2)",
        _oldest(tx),
    )


def _oldest(tx: Transaction) -> int:
    return tx.now - KEPT_SECONDS * SECOND
