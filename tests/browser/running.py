"""A backend with its services, and somebody who uses it."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import requests

from tests.backend.commands import Command, fresh_environ, url

ADMIN = "the-admin-token-of-this-run"


class Running:
    """All parts as processes, with data of their own."""

    def __init__(self, folder: Path, stack: ExitStack, *arguments: str, **settings: str) -> None:
        self.environ = {
            **fresh_environ(folder),
            "ADMIN_TOKEN": ADMIN,
            "BACKGROUND_WORK": "true",
            "API_RETRY_BASE_DELAY": "0.01",
            "CHROMA_RECOVERY_TIMEOUT": "4",
            "CHROMA_FAILURE_THRESHOLD": "2",
            **settings,
        }
        self._folder, self._stack = folder, stack
        self._parts = 0
        self.command = self.start(*arguments)
        self.command.wait_for("Ctrl-C stops everything.")
        self.status = url(self.environ, "/status")

    def start(self, *arguments: str) -> Command:
        self._parts += 1
        command = Command(self.environ, self._folder / f"out{self._parts}", *arguments)
        self._stack.callback(command.close)
        return command

    def search(self) -> str:
        asked = {"project_id": "demo", "query": "refunds"}
        answer = requests.post(url(self.environ, "/v1/api/search"), json=asked, timeout=30)
        assert answer.status_code == 200, answer.text
        source: str = answer.json()["source"]
        return source

    def kill(self, name: str) -> None:
        os.kill(self.command.pids[name], signal.SIGKILL)

    def level(self) -> str:
        """How degraded the backend is."""
        headers = {"Authorization": f"Bearer {ADMIN}"}
        answer = requests.get(
            url(self.environ, "/admin/reliability/degradation"), headers=headers, timeout=30
        )
        level: str = answer.json()["level"]
        return level
