"""Warnings of a store: said by whoever holds no lock, for what hears them may do anything."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.integrations.shared_memory.layout import SERVICES
from service_utils.integrations.shared_memory.locks import lock_file, unlock_file
from service_utils.integrations.shared_memory.segment import Files
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.store import StoreUnavailable
from tests.integrations.shared_memory.processes import until

SOON = 5.0  # seconds, for a busy machine


class Shipping(logging.Handler):
    """Has another thread change something in the store for each warning, and waits for it.

    As one does that ships what is logged by a client of ours.
    """

    def __init__(self, store: SharedMemoryStore) -> None:
        super().__init__(logging.WARNING)
        self.store = store
        self.shipped: list[str] = []
        self.stuck = False

    def emit(self, record: logging.LogRecord) -> None:
        """Wait until another thread has changed it."""
        text = record.getMessage()
        if "hared state " not in text:
            return
        self.shipped.append(text)
        thread = threading.Thread(target=self._ship, daemon=True)
        thread.start()
        thread.join(SOON)
        self.stuck = self.stuck or thread.is_alive()

    def _ship(self) -> None:
        with suppress(StoreUnavailable):
            self.store.post("shipped", str(len(self.shipped)).encode())


@pytest.fixture
def shipping(store: SharedMemoryStore) -> Iterator[Shipping]:
    """A handler that needs the store of a test."""
    handler = Shipping(store)
    store.post("shipped", b"0")
    logging.getLogger("service_utils").addHandler(handler)
    yield handler
    logging.getLogger("service_utils").removeHandler(handler)


def test_no_room(store: SharedMemoryStore, shipping: Shipping) -> None:
    """Whoever finds no place says so when the file is no longer locked."""
    for number in range(SERVICES + 1):
        store.cell(f"service-{number}")
        CircuitBreaker(f"service-{number}", store=store).force_open("taken")
    assert until(lambda: shipping.shipped, SOON)
    assert "no room" in shipping.shipped[0]
    assert not shipping.stuck


def test_a_file_that_is_locked(path: Path, store: SharedMemoryStore, shipping: Shipping) -> None:
    """Neither that nor that it is over is said with the store's own lock."""
    segment = Files(path).find()
    assert lock_file(segment.descriptor, SOON)
    breaker = CircuitBreaker("billing", store=store)
    breaker.force_open("alone")
    assert until(lambda: shipping.shipped, SOON)
    assert "has it locked" in shipping.shipped[0]
    unlock_file(segment.descriptor)
    segment.close()
    assert until(lambda: shipping.shipped[1:], SOON)
    assert "in use again" in shipping.shipped[1]
    assert not shipping.stuck


def test_a_store_that_cannot_begin(tmp_path: Path, shipping: Shipping) -> None:
    """Also what is said of another store at its very first use."""
    (tmp_path / "no-directory").write_text("a file")
    with_nothing = SharedMemoryStore(tmp_path / "no-directory" / "state")
    try:
        CircuitBreaker("billing", store=with_nothing).force_open("alone")
        assert until(lambda: shipping.shipped, SOON)
        assert "cannot be used" in shipping.shipped[0]
    finally:
        with_nothing.close()
    assert not shipping.stuck
