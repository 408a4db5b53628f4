"""Trays: the letters of a process by service, so that nobody has to look through all of them."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from service_utils.dead_letters.letter import DeadLetter, LetterStatus
from service_utils.dead_letters.store import Selection, is_due, lease_holds

__all__ = ["Kept", "Trays"]


@dataclass(slots=True, eq=False)
class Kept:
    """A letter in its place.

    Attributes:
        letter: The letter, never with the status ``LEASED``.
        place: The later it came, the larger.
        hold: Token, beginning and end of its last lease; None after that was settled.
    """

    letter: DeadLetter
    place: int
    hold: tuple[int, float, float] | None = None

    def leased(self, now: float) -> bool:
        """Whether a lease of it holds."""
        return self.hold is not None and lease_holds(self.hold[1], self.hold[2], now)

    def shown(self, now: float) -> DeadLetter:
        """The letter with its status at a moment."""
        return dataclasses.replace(self.letter, status=self._status(now))

    def is_of(self, selection: Selection, now: float) -> bool:
        """Whether it fulfils all that is asked for."""
        letter = self.letter
        return (
            (selection.service is None or letter.service == selection.service)
            and (selection.status is None or self._status(now) is selection.status)
            and (selection.since is None or letter.created_at >= selection.since)
            and (selection.before is None or letter.created_at < selection.before)
        )

    def _status(self, now: float) -> LetterStatus:
        return LetterStatus.LEASED if self.leased(now) else self.letter.status


@dataclass(slots=True)
class _Tray:
    """The letters of one service, each under its id, and those that are or were leased once more."""

    # Ordered dictionaries: a plain one takes longer to find its first key the more were removed before it.
    pending: OrderedDict[str, Kept] = field(default_factory=OrderedDict)
    dead: OrderedDict[str, Kept] = field(default_factory=OrderedDict)
    held: dict[str, Kept] = field(default_factory=dict)
    last: int = -1  # the largest place that a pending one ever had
    in_order: bool = True  # the pending ones

    def leased(self, now: float) -> int:
        return sum(kept.leased(now) for kept in self.held.values())


class Trays:
    """Letters by service and status. Not for several threads at once.

    Attributes:
        letters: How many there are.
        bytes: How large they are together.
    """

    def __init__(self, letters: Iterable[Kept]) -> None:
        self.letters = 0
        self.bytes = 0
        self._trays: dict[str, _Tray] = {}
        for kept in letters:
            self.put(kept)
            if kept.hold is not None:
                self.hold(kept)

    def put(self, kept: Kept) -> None:
        """Put a letter in."""
        letter = kept.letter
        tray = self._trays.setdefault(letter.service, _Tray())
        if letter.status is LetterStatus.DEAD:
            tray.dead[letter.id] = kept
        else:
            tray.pending[letter.id] = kept
            tray.in_order = tray.in_order and kept.place > tray.last
            tray.last = max(tray.last, kept.place)
        self.letters += 1
        self.bytes += letter.size

    def take(self, kept: Kept) -> None:
        """Take a letter out."""
        letter = kept.letter
        tray = self._trays[letter.service]
        (tray.dead if letter.status is LetterStatus.DEAD else tray.pending).pop(letter.id)
        tray.held.pop(letter.id, None)
        self.letters -= 1
        self.bytes -= letter.size
        if not tray.pending and not tray.dead:
            del self._trays[letter.service]

    def change(self, old: Kept, new: Kept) -> None:
        """Put a letter where it was before, as it is now."""
        if old.letter.status is new.letter.status is LetterStatus.PENDING:
            tray = self._trays[new.letter.service]
            tray.pending[new.letter.id] = new
            tray.held.pop(new.letter.id, None)
            self.bytes += new.letter.size - old.letter.size
        else:
            self.take(old)
            self.put(new)

    def hold(self, kept: Kept) -> None:
        """Note that a letter has been leased."""
        self._trays[kept.letter.service].held[kept.letter.id] = kept

    def in_hand(self, service: str, now: float) -> bool:
        """Whether a lease of a service holds."""
        tray = self._trays.get(service)
        return tray is not None and tray.leased(now) > 0

    def next(self, service: str, now: float) -> Iterator[Kept]:
        """The letters of a service that may be leased, oldest first."""
        tray = self._trays.get(service)
        if tray is None or tray.leased(now):
            return
        if not tray.in_order:
            tray.pending = OrderedDict(sorted(tray.pending.items(), key=lambda item: item[1].place))
            tray.in_order = True
        for kept in tray.pending.values():
            if not is_due(kept.letter.next_attempt_at, now):
                return
            yield kept

    def waiting(self, now: float) -> dict[str, int]:
        """The services that have letters which may be leased, and how many pending ones each has."""
        return {
            service: len(tray.pending)
            for service, tray in self._trays.items()
            if next(self.next(service, now), None) is not None
        }

    def counts(self, now: float) -> dict[str, dict[str, int]]:
        """How many there are in each status, by service."""
        counts = {}
        for service, tray in sorted(self._trays.items()):
            leased = tray.leased(now)
            counts[service] = {
                LetterStatus.PENDING.value: len(tray.pending) - leased,
                LetterStatus.LEASED.value: leased,
                LetterStatus.DEAD.value: len(tray.dead),
            }
        return counts
