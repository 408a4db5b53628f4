"""MemoryDeadLetters: for tests, and for letters that may die with the process."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service_utils.dead_letters.errors import DeadLetterQueueFull
from service_utils.dead_letters.letter import DeadLetter, Lease, LetterStatus
from service_utils.dead_letters.store import (
    Delivered,
    Died,
    Limits,
    PutBack,
    Retried,
    Selection,
    Settlement,
    is_due,
    lease_holds,
)
from service_utils.forks import guard

__all__ = ["MemoryDeadLetters"]


@dataclass(slots=True)
class _Kept:
    letter: DeadLetter
    token: int | None = None
    leased_at: float = 0.0
    expires_at: float = 0.0

    def leased(self, now: float) -> bool:
        return self.token is not None and lease_holds(self.leased_at, self.expires_at, now)

    def shown(self, now: float) -> DeadLetter:
        status = LetterStatus.LEASED if self.leased(now) else self.letter.status
        return dataclasses.replace(self.letter, status=status)

    def void(self) -> None:
        self.token = None


class MemoryDeadLetters:
    """Keeps letters in this process. They are gone with it; a forked child begins with none.

    May be used from any thread. See :class:`~service_utils.dead_letters.store.DeadLetterStore` for the
    methods.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._renew_in_child()
        guard(self)

    def _renew_in_child(self) -> None:
        # The parent delivers its letters itself; a child that kept copies would deliver them, too.
        self._letters: dict[str, _Kept] = {}  # in the order in which they came
        self._bytes = 0
        self._tokens = 0
        self._totals: Counter[str] = Counter()

    def add(self, letters: Sequence[DeadLetter], limits: Limits) -> None:
        """See :class:`DeadLetterStore`."""
        size = sum(letter.size for letter in letters)
        with self._lock:
            count = len(self._letters) + len(letters)
            if count > limits.max_letters:
                raise DeadLetterQueueFull(
                    f"max_letters={limits.max_letters}: there would be {count} letters", "max_letters"
                )
            if self._bytes + size > limits.max_bytes:
                raise DeadLetterQueueFull(
                    f"max_bytes={limits.max_bytes}: there would be {self._bytes + size} bytes", "max_bytes"
                )
            for letter in letters:
                self._letters[letter.id] = _Kept(letter)
            self._bytes += size
            self._totals["added"] += len(letters)

    def lease(self, service: str, *, now: float, seconds: float, limit: int) -> list[Lease]:
        """See :class:`DeadLetterStore`."""
        leases: list[Lease] = []
        with self._lock:
            for kept in self._next_locked(service, now):
                if len(leases) == limit:
                    break
                self._tokens += 1
                kept.token, kept.leased_at, kept.expires_at = self._tokens, now, now + seconds
                leases.append(Lease(letter=kept.shown(now), token=self._tokens, expires_at=now + seconds))
        return leases

    def _next_locked(self, service: str, now: float) -> Iterator[_Kept]:
        """The pending letters of a service that may be leased, oldest first."""
        own = [
            kept
            for kept in self._letters.values()
            if kept.letter.service == service and kept.letter.status is LetterStatus.PENDING
        ]
        if any(kept.leased(now) for kept in own):
            return
        for kept in own:
            if not is_due(kept.letter.next_attempt_at, now):
                return
            yield kept

    def extend(self, lease: Lease, expires_at: float) -> bool:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            kept = self._held_locked(lease)
            if kept is None:
                return False
            kept.expires_at = expires_at
            return True

    def settle(self, lease: Lease, settlement: Settlement) -> bool:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            kept = self._held_locked(lease)
            if kept is None:
                return False
            kept.void()
            if isinstance(settlement, Delivered):
                self._remove_locked(kept)
                self._totals["delivered"] += 1
            else:
                before = kept.letter.size
                kept.letter = _settled(kept.letter, settlement)
                self._bytes += kept.letter.size - before
                self._totals["died"] += isinstance(settlement, Died)
            return True

    def _held_locked(self, lease: Lease) -> _Kept | None:
        kept = self._letters.get(lease.letter.id)
        return kept if kept is not None and kept.token == lease.token else None

    def _remove_locked(self, kept: _Kept) -> None:
        del self._letters[kept.letter.id]
        self._bytes -= kept.letter.size

    def waiting(self, now: float) -> dict[str, int]:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            pending = Counter(
                kept.letter.service
                for kept in self._letters.values()
                if kept.letter.status is LetterStatus.PENDING
            )
            return {
                service: count
                for service, count in pending.items()
                if next(self._next_locked(service, now), None) is not None
            }

    def get(self, letter_id: str, now: float) -> DeadLetter | None:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            kept = self._letters.get(letter_id)
            return None if kept is None else kept.shown(now)

    def list(self, selection: Selection, *, limit: int, after: str | None, now: float) -> list[DeadLetter]:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            found = list(self._selected_locked(selection, now))
            ids = list(self._letters)
        if after is not None:
            if after not in ids:
                return []
            behind = set(ids[ids.index(after) + 1 :])
            found = [letter for letter in found if letter.id in behind]
        return found[:limit]

    def _selected_locked(self, selection: Selection, now: float) -> Iterator[DeadLetter]:
        for kept in self._letters.values():
            letter = kept.shown(now)
            if selection.service is not None and letter.service != selection.service:
                continue
            if selection.status is not None and letter.status is not selection.status:
                continue
            if selection.since is not None and letter.created_at < selection.since:
                continue
            if selection.before is None or letter.created_at < selection.before:
                yield letter

    def requeue(self, letter_id: str | None, selection: Selection, now: float) -> int:
        """See :class:`DeadLetterStore`."""
        count = 0
        with self._lock:
            for letter in list(self._selected_locked(selection, now)):
                if letter.status is LetterStatus.LEASED or letter_id not in (None, letter.id):
                    continue
                kept = self._letters[letter.id]
                kept.void()
                kept.letter = dataclasses.replace(
                    kept.letter, status=LetterStatus.PENDING, attempts=0, next_attempt_at=now
                )
                count += 1
        return count

    def purge(self, selection: Selection, now: float, limit: int) -> Sequence[DeadLetter]:
        """See :class:`DeadLetterStore`."""
        purged: list[DeadLetter] = []
        with self._lock:
            for letter in list(self._selected_locked(selection, now)):
                if letter.status is LetterStatus.LEASED or len(purged) == limit:
                    continue
                self._remove_locked(self._letters[letter.id])
                purged.append(dataclasses.replace(letter, body=None, last_response=None))
            self._totals["purged"] += len(purged)
        return purged

    def stats(self, now: float) -> dict[str, Any]:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            letters = [kept.shown(now) for kept in self._letters.values()]
            totals = {name: self._totals[name] for name in ("added", "delivered", "died", "purged")}
            size = self._bytes
        services: dict[str, dict[str, int]] = {}
        for letter in letters:
            counts = services.setdefault(letter.service, {status.value: 0 for status in LetterStatus})
            counts[letter.status.value] += 1
        return {
            "letters": len(letters),
            **{each.value: sum(counts[each.value] for counts in services.values()) for each in LetterStatus},
            "bytes": size,
            "oldest_created_at": letters[0].created_at if letters else None,
            "services": dict(sorted(services.items())),
            "totals": totals,
        }

    def close(self) -> None:
        """See :class:`DeadLetterStore`."""


def _settled(letter: DeadLetter, settlement: Retried | PutBack | Died) -> DeadLetter:
    if isinstance(settlement, PutBack):
        return dataclasses.replace(letter, next_attempt_at=settlement.next_attempt_at)
    tried = dataclasses.replace(
        letter,
        attempts=letter.attempts + 1,
        last_error=settlement.error,
        last_status=settlement.status,
    )
    if isinstance(settlement, Retried):
        return dataclasses.replace(tried, next_attempt_at=settlement.next_attempt_at)
    return dataclasses.replace(tried, status=LetterStatus.DEAD, last_response=settlement.response)
