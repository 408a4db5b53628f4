"""MemoryDeadLetters: for tests, and for letters that may die with the process."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from service_utils.dead_letters.errors import DeadLetterQueueFull
from service_utils.dead_letters.letter import DeadLetter, Lease, LetterStatus
from service_utils.dead_letters.store import (
    LEASED_AT_ONCE,
    Delivered,
    Died,
    Letters,
    Limits,
    PutBack,
    Retried,
    Selection,
    Settlement,
)
from service_utils.dead_letters.trays import Kept, Trays
from service_utils.forks import guard

__all__ = ["MemoryDeadLetters"]


class MemoryDeadLetters:
    """Keeps letters in this process. They are gone with it; a forked child begins with none.

    May be used from any thread. See :class:`~service_utils.dead_letters.store.DeadLetterStore` for the
    methods.
    """

    # ``_letters`` is the truth, and each letter changes by one assignment. ``_trays`` holds the same letters
    # in a handier order; it is taken away during a change, and made anew if the change was interrupted.

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._renew_in_child()
        guard(self)

    def _renew_in_child(self) -> None:
        # The parent delivers its letters itself; a child that kept copies would deliver them, too.
        self._letters: OrderedDict[str, Kept] = OrderedDict()  # in the order in which they came
        self._trays: Trays | None = Trays(())
        self._places = 0
        self._tokens = 0
        self._totals: Counter[str] = Counter()

    def _take_trays_locked(self) -> Trays:
        """The trays, for a change; they must be put back when it is done."""
        trays = self._look_locked()
        self._trays = None
        return trays

    def _look_locked(self) -> Trays:
        if self._trays is None:
            self._trays = Trays(self._letters.values())
        return self._trays

    # -- adding -------------------------------------------------------------------------------------

    def add(self, letters: Sequence[DeadLetter], limits: Limits) -> None:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            _check_room(self._look_locked(), letters, limits)
            places = range(self._places, self._places + len(letters))
            self._places += len(letters)
            new = {each.id: Kept(each, place) for each, place in zip(letters, places, strict=True)}
            trays = self._take_trays_locked()
            self._letters.update(new)
            for kept in new.values():
                trays.put(kept)
            self._trays = trays
            self._totals["added"] += len(letters)

    # -- working off --------------------------------------------------------------------------------

    def lease(self, service: str, *, now: float, seconds: float, limit: int) -> list[Lease]:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            chosen: list[Kept] = []
            size = 0
            for kept in self._look_locked().next(service, now):
                size += kept.letter.size
                if len(chosen) == limit or (chosen and size > LEASED_AT_ONCE):
                    break
                chosen.append(kept)
            return [self._leased_locked(kept, now, seconds) for kept in chosen]

    def _leased_locked(self, kept: Kept, now: float, seconds: float) -> Lease:
        self._tokens += 1
        trays = self._take_trays_locked()
        kept.hold = (self._tokens, now, now + seconds)
        trays.hold(kept)
        self._trays = trays
        return Lease(letter=kept.shown(now), token=self._tokens, expires_at=now + seconds)

    def extend(self, lease: Lease, *, now: float, seconds: float) -> bool:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            kept = self._held_locked(lease)
            if kept is None:
                return False
            if not kept.leased(now) and self._look_locked().in_hand(lease.letter.service, now):
                return False
            kept.hold = (lease.token, now, now + seconds)
            return True

    def settle(self, lease: Lease, settlement: Settlement) -> bool:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            kept = self._held_locked(lease)
            if kept is None:
                return False
            if isinstance(settlement, Delivered):
                self._remove_locked(kept)
                self._totals["delivered"] += 1
            else:
                self._change_locked(kept, _settled(kept.letter, settlement))
                self._totals["died"] += isinstance(settlement, Died)
            return True

    def _held_locked(self, lease: Lease) -> Kept | None:
        kept = self._letters.get(lease.letter.id)
        return kept if kept is not None and kept.hold is not None and kept.hold[0] == lease.token else None

    def _remove_locked(self, kept: Kept) -> None:
        trays = self._take_trays_locked()
        del self._letters[kept.letter.id]
        trays.take(kept)
        self._trays = trays

    def _change_locked(self, kept: Kept, letter: DeadLetter) -> None:
        """Have a letter as it is now, in nobody's hand."""
        trays = self._take_trays_locked()
        self._letters[letter.id] = new = Kept(letter, kept.place)
        trays.change(kept, new)
        self._trays = trays

    def waiting(self, now: float) -> dict[str, int]:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            return self._look_locked().waiting(now)

    # -- looking and deciding -----------------------------------------------------------------------

    def get(self, letter_id: str, now: float) -> DeadLetter | None:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            kept = self._letters.get(letter_id)
            return None if kept is None else kept.shown(now)

    def list(self, selection: Selection, *, limit: int, after: str | None, now: float) -> Letters:
        """See :class:`DeadLetterStore`."""
        found: Letters = []
        with self._lock:
            place = -1 if after is None else self._place_locked(after)
            for kept in self._letters.values():
                if kept.place > place and kept.is_of(selection, now):
                    found.append(kept.shown(now))
                    if len(found) == limit:
                        break
        return found

    def _place_locked(self, letter_id: str) -> int:
        """Where a letter is; where it would be by its id, if it has gone."""
        kept = self._letters.get(letter_id)
        if kept is not None:
            return kept.place
        return max((kept.place for kept in self._letters.values() if kept.letter.id <= letter_id), default=-1)

    def _free_locked(self, selection: Selection, now: float, only: str | None = None) -> Iterator[Kept]:
        """The letters of a selection that are in nobody's hand."""
        among = tuple(self._letters.values()) if only is None else (self._letters.get(only),)
        for kept in filter(None, among):
            if not kept.leased(now) and kept.is_of(selection, now):
                yield kept

    def requeue(self, letter_id: str | None, selection: Selection, now: float) -> int:
        """See :class:`DeadLetterStore`."""
        count = 0
        with self._lock:
            for kept in self._free_locked(selection, now, letter_id):
                again = dataclasses.replace(
                    kept.letter, status=LetterStatus.PENDING, attempts=0, next_attempt_at=now
                )
                self._change_locked(kept, again)
                count += 1
        return count

    def purge(self, selection: Selection, now: float, limit: int) -> Letters:
        """See :class:`DeadLetterStore`."""
        purged: Letters = []
        with self._lock:
            for kept in self._free_locked(selection, now):
                if len(purged) == limit:
                    break
                self._remove_locked(kept)
                purged.append(dataclasses.replace(kept.letter, body=None, last_response=None))
            self._totals["purged"] += len(purged)
        return purged

    def stats(self, now: float) -> dict[str, Any]:
        """See :class:`DeadLetterStore`."""
        with self._lock:
            trays = self._look_locked()
            services, size = trays.counts(now), trays.bytes
            letters, oldest = len(self._letters), next(iter(self._letters.values()), None)
            totals = {name: self._totals[name] for name in ("added", "delivered", "died", "purged")}
        return {
            "letters": letters,
            **{each.value: sum(counts[each.value] for counts in services.values()) for each in LetterStatus},
            "bytes": size,
            "oldest_created_at": None if oldest is None else oldest.letter.created_at,
            "services": services,
            "totals": totals,
        }

    def close(self) -> None:
        """See :class:`DeadLetterStore`."""


def _check_room(trays: Trays, letters: Sequence[DeadLetter], limits: Limits) -> None:
    count = trays.letters + len(letters)
    if count > limits.max_letters:
        message = f"max_letters={limits.max_letters}: there would be {count} letters"
        raise DeadLetterQueueFull(message, "max_letters")
    size = trays.bytes + sum(letter.size for letter in letters)
    if size > limits.max_bytes:
        message = f"max_bytes={limits.max_bytes}: there would be {size} bytes"
        raise DeadLetterQueueFull(message, "max_bytes")


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
