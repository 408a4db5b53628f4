"""``python -m tests.torture.survivor <json>``: comes when all others are dead, and gets all going again.

It says of each service how long it took to close its circuit, to trip it and to close it by a probe; and what
the host has counted, before and after the dead have been added up.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.integrations.shared_memory.members import Members
from service_utils.integrations.shared_memory.segment import Files
from service_utils.policies.breaker import CircuitBreaker
from service_utils.status import CallCounters, Word
from tests.torture.processes import until
from tests.torture.services import SERVICES

_WITHIN = 5.0


def main(order: dict[str, Any]) -> None:
    """Say it."""
    path = Path(order["path"])
    before = {name: _counted(path, name) for name in SERVICES}
    store = SharedMemoryStore(path)
    counters = [CallCounters(name, store) for name in SERVICES]
    said: dict[str, Any] = {name: _get_going(name, store) for name in SERVICES}
    said["before"] = before
    said["versions"] = {name: store.read(name).version for name in SERVICES}
    until(lambda: all(_is_folded(path, name) for name in SERVICES), _WITHIN)
    said["folded"] = all(_is_folded(path, name) for name in SERVICES)
    said["after"] = {name: _counted(path, name) for name in SERVICES}
    said["workers"] = [len(host.workers) for name in SERVICES if (host := store.host(name)) is not None]
    print(json.dumps(said), flush=True)
    del counters


def _get_going(name: str, store: SharedMemoryStore) -> dict[str, Any]:
    breaker = CircuitBreaker(name, SERVICES[name], store=store)
    record = store.read(name)
    said: dict[str, Any] = {"state": record.state.value, "version": record.version, "opened": record.opened}
    said["generation"] = record.generation
    if breaker.state in (CircuitState.FORCED_OPEN, CircuitState.DISABLED):
        breaker.reset()
    said["close"] = _close(breaker)
    for _ in range(SERVICES[name].failure_threshold):
        breaker.record(breaker.acquire(), Outcome.FAILURE)
    said["tripped"] = store.read(name).state is CircuitState.OPEN
    said["close again"] = _close(breaker)
    return said


def _close(breaker: CircuitBreaker) -> float | None:
    """Probe until it is closed; the seconds it took, or None if it would not."""
    began = time.monotonic()

    def closed() -> bool:
        with contextlib.suppress(CircuitOpenError):
            breaker.record(breaker.acquire(), Outcome.SUCCESS)
        return breaker.state is CircuitState.CLOSED

    return time.monotonic() - began if until(closed, _WITHIN) else None


def _rows(path: Path, name: str) -> list[Any]:
    segment = Files(path).find()
    try:
        index = [place.name().decode() for place in segment.places].index(name)
        return [words for words, _ in Members(segment).rows(index)[0]]
    finally:
        segment.close()


def _is_folded(path: Path, name: str) -> bool:
    """Whether there is nothing left but what is folded, and our own row."""
    return len(_rows(path, name)) <= 2


def _counted(path: Path, name: str) -> dict[str, int]:
    rows = _rows(path, name)
    return {
        "begun": sum(words[Word.BEGUN] for words in rows),
        "total": sum(words[Word.TOTAL] for words in rows),
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
