"""Idempotency records in the memory of one process: for tests, and for what a restart may forget."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from service_utils.clock import Clock
from service_utils.forks import guard
from service_utils.idempotency.record import (
    KEEP_SECONDS,
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
from service_utils.idempotency.store import StoreFull
from service_utils.policies.checks import checked_clock, require_count

__all__ = ["MemoryIdempotency"]

_EXPIRED_PER_BEGIN = 2  # each key adds one record at most, so two catch up with any backlog


@dataclass(slots=True)
class _Record:
    question: Question
    since: float
    running: bool = True
    answer: Answer | None = None
    expires_at: float = 0.0

    @property
    def size(self) -> int:
        return 0 if self.answer is None else len(self.answer.body or b"")


class MemoryIdempotency:
    """An :class:`~service_utils.idempotency.store.IdempotencyStore` of one process.

    A restart forgets everything, so that a repeat after it runs again; other processes know nothing of it. A
    forked child begins with a copy, in which whatever the parent was running is unknown.

    Args:
        max_records: Keys that are kept at most. Beyond it new ones are refused, for dropping a record
            before its time would let its repeat run again.
        max_bytes: Bytes of bodies that are kept at most; a body for which there is no room is not kept.
        clock: Its ``now()`` decides what has expired.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """

    def __init__(
        self, *, max_records: int = 100_000, max_bytes: int = 64 * 2**20, clock: Clock | None = None
    ) -> None:
        require_count("max_records", max_records)
        require_count("max_bytes", max_bytes)
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._clock = checked_clock(clock)
        self._records: dict[str, _Record] = {}
        # In the order in which they will expire, as long as all are kept for the same time.
        self._answered: dict[str, None] = {}
        self._bytes = 0
        self._lock = threading.RLock()
        guard(self)

    def __repr__(self) -> str:
        return f"MemoryIdempotency({len(self._records)} records)"

    def begin(self, question: Question) -> Began:
        """See the protocol.

        Raises:
            StoreFull: There are ``max_records`` that have not expired.
        """
        now = self._now()
        with self._lock:
            self._expire_locked(now, _EXPIRED_PER_BEGIN)
            record = self._records.get(question.record_id)
            if record is not None and self._has_expired(record, now):
                self._drop_locked(question.record_id)
                record = None
            if record is not None:
                return _state(record, question)
            if len(self._records) >= self._max_records:
                raise StoreFull(f"max_records={self._max_records} idempotency records are kept already")
            self._records[question.record_id] = _Record(question, now)
        return Started()

    def finish(self, question: Question, answer: Answer, keep_for: float) -> bool:
        """See the protocol."""
        expires_at = self._now() + keep_for
        with self._lock:
            record = self._own_locked(question.record_id, question.token)
            if record is None:
                return False
            self._keep_locked(record, answer, expires_at)
        return True

    def forget(self, question: Question) -> bool:
        """See the protocol."""
        with self._lock:
            if self._own_locked(question.record_id, question.token) is None:
                return False
            self._drop_locked(question.record_id)
        return True

    def leave(self, question: Question) -> None:
        """See the protocol."""
        with self._lock:
            record = self._own_locked(question.record_id, question.token)
            if record is not None:
                record.running = False

    def take_over(self, question: Question, broken_off: int) -> bool:
        """See the protocol."""
        now = self._now()
        with self._lock:
            record = self._own_locked(question.record_id, broken_off)
            if record is None or record.running or record.question.fingerprint != question.fingerprint:
                return False
            self._records[question.record_id] = _Record(question, now)
        return True

    def settle(
        self, record_id: str, token: int, answer: Answer | None, keep_for: float = KEEP_SECONDS
    ) -> bool:
        """See the protocol."""
        expires_at = self._now() + keep_for
        with self._lock:
            record = self._own_locked(record_id, token)
            if record is None or record.running:
                return False
            if answer is None:
                self._drop_locked(record_id)
            else:
                self._keep_locked(record, answer, expires_at)
        return True

    def list_unknown(self, limit: int = 100) -> list[UnknownRecord]:
        """See the protocol."""
        with self._lock:
            found = [each for each in self._records.values() if each.answer is None and not each.running]
        found.sort(key=lambda record: record.since)
        return [_for_people(record) for record in found[:limit]]

    def purge(self) -> int:
        """See the protocol."""
        now = self._now()
        with self._lock:
            return self._expire_locked(now, len(self._answered))

    def close(self) -> None:
        """Nothing is open."""

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _own_locked(self, record_id: str, token: int) -> _Record | None:
        """The record that this execution has not yet answered."""
        record = self._records.get(record_id)
        if record is None or record.answer is not None or record.question.token != token:
            return None
        return record

    def _keep_locked(self, record: _Record, answer: Answer, expires_at: float) -> None:
        if self._bytes + len(answer.body or b"") > self._max_bytes:
            answer = Answer(answer.status, answer.headers, None)
        record.answer, record.expires_at, record.running = answer, expires_at, False
        self._bytes += record.size
        self._answered[record.question.record_id] = None

    def _drop_locked(self, record_id: str) -> None:
        self._bytes -= self._records.pop(record_id).size
        self._answered.pop(record_id, None)

    def _expire_locked(self, now: float, most: int) -> int:
        oldest = [name for _, name in zip(range(most), self._answered, strict=False)]
        expired = [name for name in oldest if self._has_expired(self._records[name], now)]
        for name in expired:
            self._drop_locked(name)
        return len(expired)

    def _has_expired(self, record: _Record, now: float) -> bool:
        return record.answer is not None and record.expires_at <= now

    def _renew_in_child(self) -> None:
        for record in self._records.values():
            record.running = False


def _state(record: _Record, question: Question) -> Began:
    """What a record says to somebody who asks again."""
    if record.question.fingerprint != question.fingerprint:
        return Mismatch()
    if record.answer is not None:
        return Replay(record.answer)
    return Running() if record.running else Unknown(record.question.token, record.since)


def _for_people(record: _Record) -> UnknownRecord:
    asked = record.question
    return UnknownRecord(asked.record_id, asked.token, asked.caller, asked.method, asked.path, record.since)
