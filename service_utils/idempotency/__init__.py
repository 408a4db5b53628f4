"""The receiving side of idempotency keys: what was asked under a key, and what was answered to it.

A store keeps one record per key. The decorator for Flask routes is
:func:`service_utils.integrations.flask.idempotency.idempotent`.
"""

from service_utils.idempotency.keys import fingerprint_of, parse_key, record_id
from service_utils.idempotency.memory import MemoryIdempotency
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
    is_kept,
    new_token,
)
from service_utils.idempotency.sqlite import SharedTransaction, SQLiteIdempotency
from service_utils.idempotency.store import IdempotencyStore, StoreError, StoreFull

__all__ = [
    "Answer",
    "Began",
    "IdempotencyStore",
    "MemoryIdempotency",
    "Mismatch",
    "Question",
    "Replay",
    "Running",
    "SQLiteIdempotency",
    "SharedTransaction",
    "Started",
    "StoreError",
    "StoreFull",
    "Unknown",
    "UnknownRecord",
    "fingerprint_of",
    "is_kept",
    "new_token",
    "parse_key",
    "record_id",
]
