"""``python -m tests.torture.reader <json>``: reads one circuit until it has seen the last of its spells.

It says which versions it saw, each with the spell it belongs to, in the order in which it saw them.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.store import StoreUnavailable

_WITHIN = 30.0


def main(order: dict[str, Any]) -> None:
    """Say ``ready``, wait for a word, then say what was seen."""
    store, name, last = SharedMemoryStore(order["path"]), order["service"], order["last"]
    ends, reads, away = time.monotonic() + _WITHIN, 0, 0
    seen: list[tuple[int, int, str | None]] = []
    while time.monotonic() < ends and (not seen or seen[-1][1] < last):
        try:
            record = store.read(name)
        except StoreUnavailable:  # where many processes have few cores
            away += 1
            continue
        reads += 1
        if not seen or record.version != seen[-1][0]:
            seen.append((record.version, record.generation, record.reason))
        if reads == 1:
            print('"ready"', flush=True)
            sys.stdin.readline()
    print(json.dumps({"reads": reads, "away": away, "seen": seen}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
