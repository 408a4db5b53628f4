"""The filesystem service under kill -9, with callers that repeat what was not answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

LINES = 200
FILES = 3


class Callers:
    """Callers that append lines, each until it is answered, to whichever process is running."""

    def __init__(self) -> None:
        self.service: Any = None
        self.done = 0

    def append(self, number: int) -> None:
        body = {
            "project_id": "p",
            "file_path": f"log-{number % FILES}.md",
            "content": f"<{number}:{'x' * (number * 97 % 3000)}>\n",
            "append": True,
        }
        for _ in range(2000):
            try:
                answer = self.service.post("/save_file", body, Idempotency_Key=f"line-{number}")
            except requests.RequestException:
                threading.Event().wait(0.01)
                continue
            assert answer.status_code == 200, answer.text
            self.done += 1
            return
        raise AssertionError(f"line {number} was never answered")


def test_kill_9_leaves_whole_files(spawn: Callable[..., Any], tmp_path: Path) -> None:
    """Killed again and again while many append, every line is there once and whole, and nothing else."""
    arguments = ("-m", "backend.services.filesystem", "--port", "0", "--data", str(tmp_path))
    callers = Callers()
    callers.service = spawn(*arguments)
    with ThreadPoolExecutor(4) as pool:
        work = pool.map(callers.append, range(LINES))
        for kill in range(6):
            threading.Event().wait(0.03 + 0.02 * kill)
            callers.service.kill()
            callers.service = spawn(*arguments)
        list(work)
    folder = tmp_path / "projects" / "p"
    assert sorted(file.name for file in folder.iterdir()) == [f"log-{n}.md" for n in range(FILES)]
    for n in range(FILES):
        lines = (folder / f"log-{n}.md").read_text().splitlines()
        expected = [f"<{number}:{'x' * (number * 97 % 3000)}>" for number in range(n, LINES, FILES)]
        assert sorted(lines) == sorted(expected)
    assert len(callers.service.get("/projects/p/search", q="x" * 97).json()["results"]) == 1


def test_several_processes_share_the_files(spawn: Callable[..., Any], tmp_path: Path) -> None:
    """Several processes of the service on the same folders append to one file, each line once."""
    arguments = ("-m", "backend.services.filesystem", "--port", "0", "--data", str(tmp_path))
    services = [spawn(*arguments) for _ in range(3)]

    def append(number: int) -> None:
        for service in (services[number % 3], services[(number + 1) % 3]):
            answer = service.post(
                "/save_file",
                {"project_id": "p", "file_path": "log.md", "content": f"{number}\n", "append": True},
                Idempotency_Key=f"line-{number}",
            )
            assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(append, range(60)))
    lines = (tmp_path / "projects" / "p" / "log.md").read_text().split()
    assert sorted(lines, key=int) == [str(number) for number in range(60)]
