"""``python -m tests.torture.dying '{}'``: for each order a child that dies at a point of what it does.

It says ``{"ready": true}``, then answers each line of standard input with what became of the child.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from service_utils.calls import Outcome
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.record import Trip
from service_utils.status import CallCounters
from tests.torture.deaths import WRITING, Death

_DIES_WITHIN = 5.0


def main() -> None:
    """Carry orders out until there are no more."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                _be(json.loads(line))
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


def _be(order: dict[str, Any]) -> None:
    service, point = order["service"], order.get("point")
    if point is None:
        stores = [SharedMemoryStore(order["path"]) for _ in range(order["slots"])]
        for store in stores:
            _count(store, service, order["calls"])
        os.kill(os.getpid(), signal.SIGKILL)
    store = SharedMemoryStore(order["path"])
    death = Death(point, 0, lambda _: None)
    death.lay()
    if point in WRITING:
        known = store.read(service)
        death.armed, death.thread = True, threading.get_ident()
        now = time.monotonic()
        store.trip(service, known.version, Trip("by one who dies", now, now + 60.0, 1))
        return
    death.armed = True
    store.read(service)
    time.sleep(_DIES_WITHIN)  # the store's thread does it soon, and then nobody comes back from here


def _count(store: SharedMemoryStore, service: str, calls: int) -> None:
    counters = CallCounters(service, store)
    store.read(service)
    for _ in range(calls):
        counters.began()
        counters.finished(Outcome.SUCCESS, [0.01], None, time.monotonic())


if __name__ == "__main__":
    main()
