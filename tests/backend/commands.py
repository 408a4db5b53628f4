"""``python -m backend`` as a process of its own, for tests of it and of what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from backend.run.parts import free_ports
from tests.backend.waiting import eventually

ROOT = Path(__file__).parents[2]
NAMES = ("chroma", "filesystem", "billing", "git", "backend")
START_WITHIN = 50.0
END_WITHIN = 20.0


class Command:
    """A ``python -m backend`` under way, and what it has said so far."""

    def __init__(self, environ: Mapping[str, str], out: Path, *arguments: str) -> None:
        self._out = out
        self._file: IO[bytes] = out.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend", *arguments],
            cwd=ROOT,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        return self._out.read_text("utf-8")

    @property
    def pids(self) -> dict[str, int]:
        """The parts' process ids, as they were printed."""
        return {
            name: int(pid)
            for name, pid in re.findall(r"^  (\w+) +http\S+ +pid (\d+)$", self.output, re.MULTILINE)
        }

    def wait_for(self, text: str, within: float = START_WITHIN) -> None:
        try:
            eventually(lambda: text in self.output or self.process.poll() is not None, within)
        finally:
            assert text in self.output, self.output

    def wait(self) -> int:
        return self.process.wait(END_WITHIN)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._file.close()


def fresh_environ(folder: Path) -> dict[str, str]:
    """An environment with free ports and an empty folder for data."""
    ports = free_ports(len(NAMES))
    urls = {
        f"{name.upper()}_SERVER_URL": f"http://127.0.0.1:{port}"
        for name, port in zip(NAMES, ports, strict=True)
    }
    port = urls.pop("BACKEND_SERVER_URL").rpartition(":")[2]
    return {**os.environ, **urls, "BACKEND_PORT": port, "VAR_DIR": str(folder / "var")}


def url(environ: Mapping[str, str], path: str) -> str:
    """An address of the backend in that environment."""
    return f"http://127.0.0.1:{environ['BACKEND_PORT']}{path}"
