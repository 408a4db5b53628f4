"""Driving workers: contenders in processes of their own, on one core, that take turns."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.common import rounds_of
from benchmarks.machine import ROOT, cores, environment, only_on

Name = TypeVar("Name")

PATIENCE = 120.0  # seconds for one turn, before a contender is taken for dead


class Failed(Exception):
    """A contender could not do what it was told."""


@dataclass(frozen=True)
class Contender:
    """Who takes part, and where it runs.

    Attributes:
        name: As its module knows it.
        module: Has a function `make`; see worker.py.
        arguments: For that function, behind the name.
        python: The interpreter of its environment; empty for ours.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    python: str = ""

    def command(self) -> list[str]:
        """What starts a worker with it."""
        python = self.python or sys.executable
        return [python, "-m", "benchmarks.worker", self.module, self.name, *self.arguments]


class Worker:
    """A contender's process.

    Args:
        contender: Who runs in it.
        seed: Of the hashes; another one gives the process another layout.

    Raises:
        Failed: It cannot run here.
    """

    def __init__(self, contender: Contender, seed: int = 0) -> None:
        self.name = contender.name
        with only_on(cores()[0]):
            self._process = subprocess.Popen(
                contender.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
                env=environment(PYTHONHASHSEED=str(seed)),
            )
        try:
            hello = self._answer()
        except BaseException:
            self.end()
            raise
        self.kinds: list[str] = hello["kinds"]
        self.versions: dict[str, str] = hello["versions"]

    def run(self, kind: str, count: int) -> float:
        """Do something so many times. Returns the seconds of CPU for one.

        Raises:
            Failed: It did not work.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{kind} {count}\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(f"{self.name}: has ended") from None
        return float(self._answer()["cpu"]) / count

    def end(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _answer(self) -> dict[str, Any]:
        output = self._process.stdout
        assert output is not None
        # One line is asked for at a time, so none can be waiting in Python's own buffer.
        if not select.select([output], [], [], PATIENCE)[0]:
            self._process.kill()
            raise Failed(f"{self.name}: no answer within {PATIENCE:.0f} s")
        line = output.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended without a word"}
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer


@contextlib.contextmanager
def workers(
    contenders: Sequence[Contender], seed: int, tell: Callable[[str], None]
) -> Iterator[dict[str, Worker]]:
    """A worker for each contender that can run here; `tell` hears about the others."""
    running: dict[str, Worker] = {}
    try:
        for each in contenders:
            try:
                running[each.name] = Worker(each, seed)
            except Failed as error:
                tell(str(error))
        yield running
    finally:
        for worker in running.values():
            worker.end()


def measure(
    tasks: Mapping[Name, tuple[Worker, str]],
    *,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
) -> dict[Name, list[float]]:
    """Let all take turns, on one core, one after the other.

    Args:
        tasks: By the name of the result: who does it, and what kind of thing.
        rounds: How often each takes its turn.
        seconds: How much CPU one turn is to take, about.
        tell: Hears about those that fail; they are left out.

    Returns:
        The seconds of CPU for one, turn by turn, under the names of the tasks.
    """
    turns: dict[Name, Callable[[], float]] = {}
    for name, (worker, kind) in tasks.items():
        try:
            worker.run(kind, 5)  # imports at first use, the first connection
            turns[name] = _turn(worker, kind, max(5, round(seconds / worker.run(kind, 20))))
        except Failed as error:
            tell(str(error))
    return rounds_of(rounds, turns)


def _turn(worker: Worker, kind: str, count: int) -> Callable[[], float]:
    def turn() -> float:
        worker.run(kind, max(2, count // 10))  # the caches are full of the previous contender
        return worker.run(kind, count)

    return turn
