"""DeadLetterStore: what a place must be able to do to keep dead letters, as intents.

A store never looks at a clock and never decides: times and limits are handed in. What it promises is that
each method happens wholly or not at all, whichever thread, process or host calls it at the same time, and
that what :meth:`DeadLetterStore.add` has taken is still there after a crash (if the store outlives it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from service_utils.dead_letters.letter import DeadLetter, Lease, LetterStatus

__all__ = [
    "CLOCKS_DIFFER_BY",
    "DAY",
    "LEASED_AT_ONCE",
    "DeadLetterStore",
    "Delivered",
    "Died",
    "Letters",
    "Limits",
    "PutBack",
    "Retried",
    "Selection",
    "Settlement",
    "is_due",
    "lease_holds",
]

DAY: Final = 86_400.0

CLOCKS_DIFFER_BY: Final = 5.0
"""Seconds; more than two processes of a host ever do."""

LEASED_AT_ONCE: Final = 32 * 2**20
"""Bytes after which a batch of leases ends: a worker must have them all in memory."""

Letters: TypeAlias = list[DeadLetter]

_LONGEST_WAIT = DAY + 60.0  # a letter that is to wait longer was given its time by a clock that has jumped


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a queue holds.

    Attributes:
        max_letters: So many letters, dead ones too.
        max_bytes: So many bytes, as :attr:`DeadLetter.size` counts them.
    """

    max_letters: int
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which letters are meant: those that fulfil all that is given.

    Attributes:
        service: Of this service or type.
        status: In this status.
        before: Kept before this moment.
        since: Kept at this moment or later.
    """

    service: str | None = None
    status: LetterStatus | None = None
    before: float | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """It has arrived: it leaves the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """It was tried in vain: one attempt more, and it waits."""

    next_attempt_at: float
    error: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """It was not tried: it waits, and no attempt is counted."""

    next_attempt_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """It rests until a person decides: one attempt more, and why."""

    error: str | None = None
    status: int | None = None
    response: bytes | None = field(default=None, repr=False)


Settlement = Delivered | Retried | PutBack | Died


class DeadLetterStore(Protocol):
    """Keeps letters. Every method may be called from any thread, and after a fork in the child too.

    Letters of one service are in the order in which they were added, whatever the clocks said then. Times are
    seconds since 1970 on the wall clock, which may jump: no time may make a letter wait for ever, or let two
    leases of it hold.
    """

    def add(self, letters: Sequence[DeadLetter], limits: Limits) -> None:
        """Keep letters durably: all of them, or none.

        Raises:
            DeadLetterQueueFull: There would be more than the limits allow, or there is no room.
            StorageError: They could not be kept.
        """
        ...

    def lease(self, service: str, *, now: float, seconds: float, limit: int) -> list[Lease]:
        """Lease the oldest letters of a service.

        A service's letters are in one hand at a time: while any lease of the service holds there is nothing
        to be had. A letter that still has to wait ends the list, for those behind it must not overtake it;
        dead ones are passed over. A lease that has run out is void from the moment its letter is leased anew.
        A batch ends before the letter that would make it larger than :data:`LEASED_AT_ONCE`, but has at least
        one.

        Args:
            service: Whose letters.
            now: The time.
            seconds: For how long.
            limit: How many at most.
        """
        ...

    def extend(self, lease: Lease, *, now: float, seconds: float) -> bool:
        """Hold a lease for so many seconds from now.

        Returns:
            False when it is void; then another may have the letter. So is one that has run out while another
            has letters of the same service: they would go out side by side.
        """
        ...

    def settle(self, lease: Lease, settlement: Settlement) -> bool:
        """Say what became of a letter, and give it back. A void lease does nothing: then False."""
        ...

    def waiting(self, now: float) -> dict[str, int]:
        """The services of which :meth:`lease` would give letters now, and how many pending ones each has."""
        ...

    def get(self, letter_id: str, now: float) -> DeadLetter | None:
        """The letter, or None."""
        ...

    def list(self, selection: Selection, *, limit: int, after: str | None, now: float) -> Letters:
        """Letters in the order in which they were added.

        Args:
            selection: Which ones.
            limit: How many at most.
            after: The id of the last letter of the page before, or None. If that letter has gone meanwhile,
                the page begins where it would be by its id.
            now: The time, to tell which ones are leased.
        """
        ...

    def requeue(self, letter_id: str | None, selection: Selection, now: float) -> int:
        """Have letters tried again at once, with all their attempts before them. Leased ones are left alone.

        Args:
            letter_id: Only this one; None for all of the selection.
            selection: Which ones.
            now: The time.

        Returns:
            How many.
        """
        ...

    def purge(self, selection: Selection, now: float, limit: int) -> Letters:
        """Remove letters for good, the oldest first, but none that is leased. Returns them without bodies."""
        ...

    def stats(self, now: float) -> dict[str, Any]:
        """Numbers, JSON-ready: see :meth:`service_utils.dead_letters.queue.DeadLetterQueue.stats`."""
        ...

    def close(self) -> None:
        """Let go of what is open. The store may be used again afterwards."""
        ...


def is_due(next_attempt_at: float, now: float) -> bool:
    """Whether a letter may be tried now."""
    return next_attempt_at <= now or next_attempt_at > now + _LONGEST_WAIT


def lease_holds(leased_at: float, expires_at: float, now: float) -> bool:
    """Whether a lease is still good; one given in the future was given by a clock that has jumped."""
    return leased_at <= now + CLOCKS_DIFFER_BY and now < expires_at
