"""``python -m tests.torture.worker <json>``: one who calls three services until it is killed.

What it has been told by the store, and what it counts, it writes into a file of its own, one line each::

    call SERVICE                              a call is about to be counted as finished
    write SERVICE VERSION GENERATION STATE OPENED BEGUN TOLD      it has changed a record
    lease SERVICE GENERATION TOKEN GRANTED EXPIRES                it may probe
    report SERVICE TOKEN AT                   it is about to say how that went
    away SERVICE                              the store could not be used
    dying POINT                               it is about to kill itself
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.policies.breaker import CircuitBreaker, Permit
from service_utils.policies.permit import Report
from service_utils.policies.record import Asking, CircuitRecord, Lease
from service_utils.policies.store import StoreUnavailable
from service_utils.status import CallCounters
from tests.torture.deaths import Death
from tests.torture.services import NOTE, OVERRULED, SERVICES

_LATE = 0.003  # so long after its lease is over a hanging probe says something


class Diary:
    """Writes lines, each whole as soon as the call returns."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


class Watched(SharedMemoryStore):
    """A store that keeps a diary of what its user has been told."""

    def __init__(self, path: str, diary: Diary) -> None:
        super().__init__(path)
        self._diary = diary

    def change(self, name: str, step: Callable[[CircuitRecord], CircuitRecord]) -> CircuitRecord:
        before: list[CircuitRecord] = []

        def watched(record: CircuitRecord) -> CircuitRecord:
            before[:] = [record]
            return step(record)

        begun = time.monotonic()
        try:
            after = super().change(name, watched)
        except StoreUnavailable:
            self._diary.note("away", name)
            raise
        if after.version != before[0].version:
            told = time.monotonic()
            state = after.state.value
            self._diary.note("write", name, after.version, after.generation, state, after.opened, begun, told)
        return after

    def lease_probe(self, name: str, asking: Asking) -> tuple[CircuitRecord, Lease | None]:
        record, lease = super().lease_probe(name, asking)
        if lease is not None:
            granted = time.monotonic()
            self._diary.note("lease", name, record.generation, lease.token, granted, lease.expires_at)
        return record, lease

    def report(self, name: str, token: int, report: Report, asking: Asking) -> CircuitRecord:
        self._diary.note("report", name, token, time.monotonic())
        return super().report(name, token, report, asking)


class Worker:
    """Calls, fails, probes and overrules at random."""

    def __init__(self, path: str, diary: Diary, rolls: random.Random) -> None:
        self._diary = diary
        self._random = rolls
        self._store = Watched(path, diary)
        self._breakers = {
            name: CircuitBreaker(name, config, store=self._store) for name, config in SERVICES.items()
        }
        self._counters = {name: CallCounters(name, self._store) for name in SERVICES}

    def act(self) -> None:
        """Do something."""
        name = self._random.choice(list(SERVICES))
        deed = self._random.random()
        if deed < 0.80:
            self._call(name, Outcome.SUCCESS)
        elif deed < 0.94:
            for _ in range(SERVICES[name].failure_threshold):
                self._call(name, Outcome.FAILURE)
        elif deed < 0.97:
            self._post()
        else:
            self._hold_or_overrule(name)

    def _call(self, name: str, outcome: Outcome) -> None:
        breaker, counters = self._breakers[name], self._counters[name]
        counters.began()
        try:
            permit = breaker.acquire()
        except CircuitOpenError:
            self._diary.note("call", name)
            counters.rejected()
            return
        if permit.half_open:
            outcome = self._probe(permit)
        breaker.record(permit, outcome)
        self._diary.note("call", name)
        counters.finished(outcome, [0.001], None, time.monotonic())

    def _probe(self, permit: Permit) -> Outcome:
        """Some probes fail, some come to nothing, and some hang until it is too late."""
        expires, hangs = permit.expires_at, self._random.random() < 0.15
        while hangs and expires is not None and time.monotonic() < expires + _LATE:
            time.sleep(_LATE)
        return self._random.choices((Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED), (6, 3, 1))[0]

    def _post(self) -> None:
        text = str(self._random.random()).encode() * self._random.randint(1, 15)
        try:
            self._store.post(NOTE, hashlib.sha256(text).digest() + text)
        except StoreUnavailable:
            self._diary.note("away", NOTE)

    def _hold_or_overrule(self, name: str) -> None:
        breaker, deed = self._breakers[name], self._random.random()
        if deed < 0.3:
            breaker.hold_open(breaker.generation, 0.02)
        elif deed < 0.4:
            breaker.recover(breaker.generation)
        elif deed < 0.5:
            breaker.pause(time.monotonic() + 0.01, 0.01)
        elif name in OVERRULED:
            if deed < 0.65:
                breaker.force_open("the worker says so")
            elif deed < 0.7:
                breaker.disable("the worker says so")
            else:
                breaker.reset()


def main(order: dict[str, Any]) -> None:
    """Live until killed; the diary's first line comes when all has been made."""
    diary = Diary(Path(order["diary"]))
    rolls = random.Random(order["seed"])
    if order["point"] is not None:
        death = Death(order["point"], order["after"], lambda point: diary.note("dying", point))
        death.lay()
        death.armed = True
    worker = Worker(order["path"], diary, rolls)
    print("{}", flush=True)
    while os.getppid() == order["parent"]:
        worker.act()
        time.sleep(rolls.uniform(0.0, order["pause"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
