"""What the tests of shared memory have in common: a path of their own, stores that are closed, children."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service_utils.integrations.shared_memory import SharedMemoryStore
from tests.integrations.shared_memory.processes import Child, Orders

MakeStore = Callable[[], SharedMemoryStore]
MakeChild = Callable[[Orders], Child]

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]  # what is shared so needs Linux


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the stores of a test meet."""
    return tmp_path / "state"


@pytest.fixture
def make_store(path: Path) -> Iterator[MakeStore]:
    """Makes one more member each time; all of them leave when the test is over."""
    with ExitStack() as stores:

        def make() -> SharedMemoryStore:
            store = SharedMemoryStore(path)
            stores.callback(store.close)
            return store

        yield make


@pytest.fixture
def store(make_store: MakeStore) -> SharedMemoryStore:
    """One member."""
    return make_store()


@pytest.fixture
def other(make_store: MakeStore) -> SharedMemoryStore:
    """Another one."""
    return make_store()


@pytest.fixture
def make_child() -> Iterator[MakeChild]:
    """Makes forked children that do what they are asked to; all of them are ended after the test."""
    with ExitStack() as children:

        def make(orders: Orders) -> Child:
            child = Child(orders)
            children.callback(child.end)
            return child

        yield make


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores look after their file and after the dead at each round."""
    monkeypatch.setattr("service_utils.integrations.shared_memory.store._LOOK_EVERY", 0.01)
    monkeypatch.setattr("service_utils.integrations.shared_memory.store._FOLD_EVERY", 0.01)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What has been logged of shared state so far: level and words."""

    def read() -> list[str]:
        found = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        return [line for line in found if "hared state " in line]

    return read
