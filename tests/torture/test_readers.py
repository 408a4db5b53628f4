"""What one process writes all others read: nothing else, in order, and the last of it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.breaker_config import BreakerConfig
from service_utils.policies.record import Asking
from service_utils.policies.store import StoreUnavailable
from tests.torture.processes import Process, gang

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is shared so needs Linux")

_LONG = bool(os.environ.get("TORTURE_SECONDS"))
_READERS, _VERSIONS = (16, 5000) if _LONG else (6, 1500)


def test_readers_see_what_was_written_in_order_and_the_last_of_it(tmp_path: Path) -> None:
    """Readers of thousands of versions see no other ones, none again, and all of them the last one."""
    store = SharedMemoryStore(tmp_path / "state")
    first = store.read("billing")
    order = {"path": str(tmp_path / "state"), "service": "billing", "last": _VERSIONS}
    written = {first.version: (0, None)}
    with gang() as processes:
        processes += [Process("reader", order, tmp_path / f"{number}.log") for number in range(_READERS)]
        assert [each.hear() for each in processes] == ["ready"] * _READERS
        for each in processes:
            each.say("go")
        for number in range(1, _VERSIONS + 1):
            written[_written(store, f"spell {number}")] = (number, f"spell {number}")
        said = [each.hear() for each in processes]
    store.close()
    assert sorted(written) == list(range(first.version, first.version + _VERSIONS + 1))
    for each in said:
        seen = [tuple(rest) for _, *rest in each["seen"]]
        versions = [version for version, *_ in each["seen"]]
        assert all(one < next_one for one, next_one in pairwise(versions))
        assert seen == [written[version] for version in versions]
        assert versions[-1] == max(written)
    assert max(len(each["seen"]) for each in said) > 2


def _written(store: SharedMemoryStore, reason: str) -> int:
    """Write a version; its number. Where another process has the lock for too long it is tried again."""
    asking = Asking(1, time.monotonic(), BreakerConfig())
    while True:
        with contextlib.suppress(StoreUnavailable):
            return store.override("billing", CircuitState.FORCED_OPEN, reason, asking).version
