"""A part as a child process: its output, its readiness, its end and the reason for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import IO

import requests

from backend.run.parts import Part

__all__ = ["Child", "is_ready"]

_LINES_KEPT = 10
_PROBE_TIMEOUT = 2.0
_OUTPUT_ENDS_WITHIN = 2.0

Say = Callable[[str, str], None]
"""Takes the name of a part and a line of its output."""


class Child:
    """A running part.

    Args:
        part: Which one.
        environ: Its environment.
        production: Whether the backend is to be served by gunicorn.
        lifeline: The reading end of a pipe whose writing end only we hold. The child ends when the pipe does,
            so that nothing is left behind even when this process is killed.
        say: Told every line of its output, in a thread of its own.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self, part: Part, environ: Mapping[str, str], lifeline: int, say: Say, *, production: bool = False
    ) -> None:
        self.part = part
        self._say = say
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)
        command = [sys.executable, "-m", "backend", "--only", part.name, "--port", str(part.port)]
        if production:
            command.append("--production")
        self._process = subprocess.Popen(
            [*command, "--lifeline", str(lifeline)],
            env={**environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lifeline,),
            process_group=0,  # Ctrl-C at the terminal is for us; we stop the children one by one
            text=True,
            errors="replace",
        )
        assert self._process.stdout is not None  # it is a pipe
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def obituary(self) -> str:
        """Why it ended, with the last lines of its output. Only for one that has."""
        self._reader.join(_OUTPUT_ENDS_WITHIN)
        lines = "".join(f"\n    {line}" for line in self._last)
        return f"{self.part.name} (pid {self.pid}) {_cause(self._process.wait())}" + (
            f"; its last words:{lines}" if lines else "; it said nothing"
        )

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self, timeout: float) -> bool:
        """Wait for its end, at most so many seconds. Returns whether it has ended."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(_OUTPUT_ENDS_WITHIN)
        return True

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                text = line.rstrip()
                self._last.append(text)
                self._say(self.part.name, text)


def is_ready(part: Part) -> bool:
    """Whether somebody answers for the part and says that it is ready."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(f"{part.url}/ready", timeout=_PROBE_TIMEOUT).ok
        except requests.RequestException:
            return False


def _cause(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
