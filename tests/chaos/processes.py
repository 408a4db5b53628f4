"""Processes that can be killed and started again in a moment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from service_utils.clock import SYSTEM
from service_utils.policies.deadline import Deadline

HOST = "127.0.0.1"
_UP_WITHIN = 30.0
_ROOT = Path(__file__).parents[2]


class Hatchery:
    """See :mod:`tests.chaos.hatchery`. Leaving the ``with`` block ends all its processes."""

    def __init__(self, environ: dict[str, str], logs: Path) -> None:
        self._logs = logs
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.hatchery"],
            cwd=_ROOT,
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ready = False

    def order(self, **order: Any) -> dict[str, Any]:
        """Have an order carried out; the answer."""
        assert self._process.stdin is not None
        with self._lock:
            if not self._ready:
                self._ready = self._answer() == {"ready": True}
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def log(self, name: str) -> Path:
        """Where a process writes what it has to say."""
        return self._logs / f"{name}.log"

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the hatchery has died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


class Mortal:
    """A process that is started as often as it is killed, at one port if it has one.

    Args:
        hatchery: Where it comes from.
        name: Of its log file.
        target: ``module:function`` that it is.
        arguments: Its command line, where ``{port}`` stands for its port.
        environ: What it has in its environment besides.
        listens: Whether it is up when it accepts connections.
    """

    def __init__(
        self,
        hatchery: Hatchery,
        name: str,
        target: str,
        arguments: Sequence[str] = (),
        *,
        environ: dict[str, str] | None = None,
        listens: bool = True,
    ) -> None:
        self.name = name
        self.kills = 0
        self._hatchery = hatchery
        self._listens = listens
        # Bound, never listening: while the process is dead, nobody else gets its port.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((HOST, 0))
        self.port: int = self._reserved.getsockname()[1]
        self._order = {
            "name": name,
            "target": target,
            "arguments": [each.format(port=self.port) for each in arguments],
            "environ": environ or {},
            "log": str(hatchery.log(name)),
        }
        self.pid = 0

    def start(self) -> None:
        """Start it (again)."""
        self.pid = self._hatchery.order(**self._order)["pid"]

    def wait_until_up(self) -> None:
        """Return when it accepts connections.

        Raises:
            TimeoutError: It does not; its log says more.
        """
        within = Deadline.after(_UP_WITHIN)
        while self._listens and not _accepts(self.port):
            if within.expired:
                said = self._hatchery.log(self.name).read_text()[-2000:]
                raise TimeoutError(f"{self.name} is not up after {_UP_WITHIN} s: {said}")
            SYSTEM.sleep(0.02)

    def kill(self) -> None:
        """``kill -9``; it is gone when this returns."""
        self._hatchery.order(kill=self.pid)
        self.kills += 1

    def kill_a_child(self, number: int) -> bool:
        """``kill -9`` to one of its own children; whether there was one."""
        children = [int(each) for each in _children(self.pid)]
        if not children:
            return False
        os.kill(children[number % len(children)], signal.SIGKILL)
        self.kills += 1
        return True

    def close(self) -> None:
        """Give the port back."""
        self._reserved.close()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
