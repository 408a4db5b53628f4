"""Sixteen processes share circuits while they are killed one after the other, at any moment of any write."""

from __future__ import annotations

import json
import os
import random
import secrets
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service_utils.integrations.shared_memory.layout import Damaged
from service_utils.integrations.shared_memory.segment import Files
from tests.torture.books import Diaries, complaints
from tests.torture.deaths import FOLDING, JOINING, WRITING
from tests.torture.processes import Process, gang, until
from tests.torture.services import NOTE, SERVICES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is shared so needs Linux")

_SECONDS = float(os.environ.get("TORTURE_SECONDS") or 2.5)
_SEED = int(os.environ.get("TORTURE_SEED") or secrets.randbelow(10**6))
_LONG = 60.0
_READS = 10_000_000  # of a long storm
# The other tests of a suite want something of the processors, too.
_WORKERS, _CHECKERS = (16, 3) if _SECONDS > 10 else (6, 1)
_KILLS_A_SECOND = 4.0
_UP_WITHIN = 20.0
_PAUSE = 0.006  # seconds, at most, between two things a worker does


@dataclass
class Storm:
    """Workers that are killed and replaced."""

    folder: Path
    processes: list[Process]
    rolls: random.Random
    workers: list[Process] = field(default_factory=list)
    deaths: int = 0
    unexpected: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "state"

    def diaries(self) -> list[Path]:
        return sorted(self.folder.glob("*.diary"))

    def start(self, *, doomed: bool) -> None:
        """Start a worker, perhaps one that will kill itself at some step."""
        number = len(self.processes)
        order: dict[str, Any] = {
            "path": str(self.path),
            "diary": str(self.folder / f"{number}.diary"),
            "seed": self.rolls.random(),
            "pause": _PAUSE,
            "parent": os.getpid(),
            "point": None,
        }
        if doomed:
            point = self.rolls.choice((*WRITING, *JOINING, *FOLDING))
            late = self.rolls.randrange(25) if point in WRITING else 0
            order |= {"point": point, "after": late}
        self.add(Process("worker", order, self.folder / f"{number}.log"), self.workers)

    def add(self, process: Process, among: list[Process]) -> None:
        self.processes.append(process)
        among.append(process)

    def kill(self) -> None:
        """``kill -9`` to one of them, and another one in its place."""
        victim = self.rolls.choice(self.workers)
        victim.kill()
        self._bury(victim)
        self.start(doomed=self.rolls.random() < 0.5)

    def replace_the_dead(self) -> None:
        """Another one in the place of each that has killed itself."""
        for each in [worker for worker in self.workers if not worker.lives()]:
            self._bury(each)
            self.start(doomed=self.rolls.random() < 0.5)

    def kill_all(self) -> None:
        """The end."""
        for each in self.workers[:]:
            each.kill()
            self._bury(each)

    def _bury(self, worker: Process) -> None:
        self.workers.remove(worker)
        self.deaths += 1
        said = worker.log.read_text()
        if worker.ended_by() != -9 or "Traceback" in said:
            self.unexpected.append(f"{worker.log.name} ended by {worker.ended_by()}: {said[-2000:]}")
        worker.bury()

    def has_begun(self) -> bool:
        """Whether all records are there."""
        try:
            segment = Files(self.path).find()
        except (OSError, Damaged):
            return False
        segment.close()
        names = {place.name().decode() for place in (*segment.places, *segment.notes)}
        return names >= {*SERVICES, NOTE}


@pytest.mark.timeout(60 + 3 * _SECONDS)
def test_nothing_is_torn_lost_or_stuck(tmp_path: Path) -> None:
    """Every read is whole, no trip is lost, no two probe at once, no calls vanish, and all goes on after."""
    print(f"TORTURE_SEED={_SEED}")
    with gang() as processes:
        storm = Storm(tmp_path, processes, random.Random(_SEED))
        for _ in range(_WORKERS):
            storm.start(doomed=False)
        assert until(storm.has_begun, _UP_WITHIN), [each.log.read_text() for each in processes]
        readers: list[Process] = []
        for number in range(_CHECKERS):
            order = {"path": str(storm.path)}
            storm.add(Process("checker", order, tmp_path / f"reader {number}"), readers)
        nonce = Files(storm.path).find().header.nonce
        _rage(storm)
        for each in readers:
            each.hush()
        seen = [each.hear() for each in readers]
        storm.kill_all()
        storm.add(Process("survivor", {"path": str(storm.path)}, tmp_path / "survivor"), [])
        survivor = processes[-1].hear()
    diaries = Diaries.read(storm.diaries())
    wrong = storm.unexpected + complaints(diaries, storm.deaths, seen, survivor)
    summary = _summary(storm, diaries, seen, survivor)
    print(summary)
    assert not wrong, "\n".join([f"TORTURE_SEED={_SEED}", summary, *wrong[:40]])
    assert {each["nonce"] for each in seen} == {nonce}
    assert sum(len(each) for each in diaries.leases.values())
    if _SECONDS >= _LONG:
        assert sum(each["reads"] for each in seen) >= _READS
        assert len(diaries.points) > 1


def _rage(storm: Storm) -> None:
    ends = time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        until(lambda: False, storm.rolls.expovariate(_KILLS_A_SECOND))
        storm.kill()
        storm.replace_the_dead()


def _summary(storm: Storm, diaries: Diaries, seen: list[Any], survivor: Any) -> str:
    """In figures, for people."""
    trips = {name: sum(each.state == "open" for each in diaries.writes[name]) for name in SERVICES}
    inside = sum(diaries.points.values())
    return (
        f"{storm.deaths} deaths, {inside} of them at a chosen step: {dict(diaries.points)}; "
        f"{sum(each['reads'] for each in seen)} reads of {sum(each['numbers'] for each in seen)} numbers, "
        f"{sum(len(each['wrong']) for each in seen)} of them torn or wrong; "
        f"{sum(map(len, diaries.writes.values()))} changes, to open {trips}, "
        f"{sum(map(len, diaries.leases.values()))} leases, {sum(diaries.calls.values())} calls, "
        f"store away {diaries.away} times; reader's CPU {[round(each['cpu'], 1) for each in seen]}; "
        f"afterwards {json.dumps({name: survivor[name]['close again'] for name in SERVICES})} s"
    )
