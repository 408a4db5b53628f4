"""``python -m tests.torture.caller <json>``: calls a service all the time, and does what it is told besides.

Each line of standard input is an order, answered by a line with the state of its circuit::

    trip      have calls fail until the circuit is open
    reset     close it by hand
    state     nothing
    report    say how the calls went since the last report, in place of the state
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any

import requests

from service_utils import ResilientServiceClient
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import SharedMemoryStore

_TRIES = 20
_MOST_TOLD = 5


class Caller:
    """Calls, and keeps in mind what came of it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._client = ResilientServiceClient(
            order["url"],
            "Billing",
            max_retries=1,
            failure_threshold=2,
            recovery_timeout=60.0,
            store=SharedMemoryStore(order["path"]),
        )
        self._forget()

    def _forget(self) -> None:
        self._calls = self._refused = 0
        self._longest = 0.0
        self._failed: list[str] = []

    def call(self) -> None:
        """Make one call that should go well, as far as the service is concerned."""
        began = time.monotonic()
        try:
            self._client.get("/well")
        except CircuitOpenError:
            self._refused += 1
        except Exception as error:
            self._failed = [*self._failed, repr(error)][:_MOST_TOLD]
        self._calls += 1
        self._longest = max(self._longest, time.monotonic() - began)

    def obey(self, order: str) -> Any:
        """Do as told."""
        if order == "report":
            said = {
                "calls": self._calls,
                "refused": self._refused,
                "longest": self._longest,
                "failed": self._failed,
            }
            self._forget()
            return said
        if order == "trip":
            self._trip()
        if order == "reset":
            self._client.breaker.reset()
        return self._client.breaker.state.value

    def _trip(self) -> None:
        for _ in range(_TRIES):
            if self._client.breaker.state is not CircuitState.CLOSED:
                return
            try:
                self._client.get("/ill")
            except (CircuitOpenError, requests.HTTPError):
                pass
            except Exception as error:
                self._failed = [*self._failed, repr(error)][:_MOST_TOLD]


def main(order: dict[str, Any]) -> None:
    """Call until standard input ends."""
    caller = Caller(order)
    print('"ready"', flush=True)
    heard = b""
    while True:
        caller.call()
        if select.select([0], [], [], order["pause"])[0]:
            more = os.read(0, 4096)
            if not more:
                return
            *orders, heard = (heard + more).split(b"\n")
            for each in orders:
                print(json.dumps(caller.obey(json.loads(each))), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
