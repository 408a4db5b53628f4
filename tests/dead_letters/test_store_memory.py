"""MemoryDeadLetters."""

from __future__ import annotations

import pytest

from service_utils.dead_letters import MemoryDeadLetters
from tests.forked import in_child

from .store_contract import LIMITS, NOW, StoreContract, letter


class TestMemoryDeadLetters(StoreContract):
    """The contract."""

    @pytest.fixture
    def store(self) -> MemoryDeadLetters:
        return MemoryDeadLetters()


def test_a_forked_child_has_letters_of_its_own() -> None:
    """What the parent keeps in memory the parent delivers; a child would do it a second time."""
    store = MemoryDeadLetters()
    store.add([letter()], LIMITS)
    assert in_child(lambda: store.stats(NOW)["letters"]) == 0
    assert store.stats(NOW)["letters"] == 1
