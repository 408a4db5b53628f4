"""What the tests of shared circuits share: breakers with one store, and ways to a store that can be cut."""

from __future__ import annotations

import weakref
from collections.abc import Callable, MutableSequence
from datetime import datetime
from typing import Any

from service_utils.events import CircuitChanged
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.record import CircuitRecord
from service_utils.policies.store import Cell, Intents, MemoryBreakerStore, StoreUnavailable, Told
from service_utils.testing import FakeClock
from tests.policies.circuits import THRESHOLD, Ear, cooldown, fail, make_breaker

NAME = "chroma"
TRIPPED = f"threshold reached: {THRESHOLD}/{THRESHOLD}"


def share(store: Any, clock: FakeClock, members: int = 2, **options: Any) -> list[CircuitBreaker]:
    """Breakers of one circuit; the first listener of each is an Ear."""
    return [make_breaker(clock, store=store, listeners=[Ear()], **options) for _ in range(members)]


def heard(breaker: CircuitBreaker) -> list[tuple[str, str, str, bool]]:
    """From, to, why and whether it was elsewhere."""
    ear = breaker.listeners[0]
    assert isinstance(ear, Ear)
    return [
        (event.from_state, event.to_state, event.reason, event.elsewhere)
        for event in ear.events
        if isinstance(event, CircuitChanged)
    ]


def states(*breakers: CircuitBreaker) -> set[str]:
    return {each.state.value for each in breakers}


def opened(store: Any, clock: FakeClock, members: int = 2, **options: Any) -> list[CircuitBreaker]:
    """A circuit that the first of them has opened, and whose time is over."""
    breakers = share(store, clock, members, **options)
    fail(breakers[0], breakers[0].config.failure_threshold)
    clock.advance(cooldown(breakers[0]))
    return breakers


class Line(Intents):
    """One member's way to a store. It tells its member of changes when the test says so, from outside.

    Args:
        store: What is at the other end.

    Attributes:
        away: Whether it is cut. Who sets it has nobody told, neither by the cell nor otherwise.
        asked: How often the store has been asked anything.
    """

    def __init__(self, store: MemoryBreakerStore) -> None:
        self.away = False
        self.asked = 0
        self._store = store
        self._cells: dict[str, tuple[Cell, MutableSequence[int]]] = {}
        self._told: list[weakref.WeakMethod[Told]] = []

    def cut(self) -> None:
        """Have the store be away; the member finds out when it asks."""
        self.away = True
        for cell, words in self._cells.values():
            cell.words = list(words)

    def mend(self) -> None:
        """Have the store be there again: the cell changes, and the member is told soon."""
        self.away = False
        for name, (cell, words) in self._cells.items():
            self._store.change(name, lambda record: record._replace())
            cell.words = words
        self.tell()

    def tell(self) -> None:
        """Tell the member that something may have changed, as a store's own thread does."""
        for each in self._told:
            told = each()
            if told is not None:
                told()

    # -- the store ------------------------------------------------------------------------------------

    def cell(self, name: str, told: Told | None = None) -> Cell:
        words = self._store.cell(name).words
        cell = Cell(words)
        assert isinstance(words, MutableSequence)
        self._cells[name] = cell, words
        if told is not None:
            self._told.append(weakref.WeakMethod(told))
        return cell

    def read(self, name: str) -> CircuitRecord:
        self._ask()
        return self._store.read(name)

    def change(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
        self._ask()
        return self._store.change(name, step)

    def ask_in_vain(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
        """In place of :meth:`change`: it can be read, but not changed."""
        raise StoreUnavailable("the line is cut")

    def calendar(self, now: float, today: datetime) -> tuple[float, datetime]:
        return self._store.calendar(now, today)

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("the line is cut")
