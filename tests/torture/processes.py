"""Processes that a test starts, and ends by their number; none outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["Process", "gang", "until"]

_ROOT = Path(__file__).parents[2]
_PATIENCE = 30.0
_PAUSE = 0.005


class Process:
    """One interpreter that runs a module of this folder; it is given one JSON object and answers with lines.

    Args:
        module: Such as ``worker``.
        order: What it is told.
        log: Where its standard error goes.
    """

    def __init__(self, module: str, order: dict[str, Any], log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.torture.{module}", json.dumps(order)],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "COVERAGE_PROCESS_START": ""},
            )
        self.pid = self._process.pid

    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """``kill -9``; it is gone when this returns."""
        if self.lives():
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait(_PATIENCE)

    def ended_by(self) -> int:
        """How it ended, as :mod:`subprocess` tells it; it is waited for."""
        return self._process.wait(_PATIENCE)

    def say(self, words: Any) -> None:
        """Send it a line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()

    def hush(self) -> None:
        """End what it is told: a sign for it to come to its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def hear(self) -> Any:
        """The next line it says.

        Raises:
            RuntimeError: It has died; what it had to say about that is in the message.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            raise RuntimeError(f"{self.log.name}: {self.log.read_text()[-3000:]}")
        return json.loads(line)

    def bury(self) -> None:
        """End it, and close the pipes."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def gang() -> Iterator[list[Process]]:
    """A list for processes; all that is in it when the block is left is ended."""
    processes: list[Process] = []
    try:
        yield processes
    finally:
        for process in processes:
            process.bury()


def until(condition: Callable[[], Any], within: float) -> Any:
    """What the condition returns as soon as that is true; its last word when so many seconds are over."""
    ends = time.monotonic() + within
    while True:
        found = condition()
        if found or time.monotonic() >= ends:
            return found
        time.sleep(_PAUSE)
