"""Two members of one mapped file do what every store of breakers has to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service_utils.integrations.shared_memory import SharedMemoryStore
from tests.policies.store_contract import Members, StoreContract


class TestSharedMemoryStore(StoreContract):
    @pytest.fixture
    def members(self, tmp_path: Path) -> Iterator[Members]:
        one, other = SharedMemoryStore(tmp_path / "circuits"), SharedMemoryStore(tmp_path / "circuits")
        yield one, other
        one.close()
        other.close()
