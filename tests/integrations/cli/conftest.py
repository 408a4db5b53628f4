"""Apps to operate on, and the commands of operators."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waitress.server import create_server

from tests.in_thread import in_thread
from tests.integrations.flask.operating import TOKEN, Operated, operated

ROOT = Path(__file__).parents[3]

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    """An app that is served, and that commands without ``--url`` and ``--token-file`` find."""
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN)
    with operated() as parts:
        server = create_server(parts.app, host="127.0.0.1", port=0, threads=2)
        with in_thread(server):
            monkeypatch.setenv("SERVICE_UTILS_URL", f"http://127.0.0.1:{server.effective_port}")
            yield parts


@pytest.fixture
def program() -> Program:
    """``python -m service_utils``, or with ``shell`` a line of a shell in which ``$COMMAND`` is that."""

    def run(*arguments: str, shell: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service_utils"]
        return subprocess.run(
            [*command, *arguments] if shell is None else ["bash", "-c", f"set -o pipefail; {shell}"],
            cwd=ROOT,
            env={**os.environ, "COMMAND": " ".join(command), **environ},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=50,
            check=False,
        )

    return run
