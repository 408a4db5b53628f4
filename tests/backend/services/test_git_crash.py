"""The git service as a process of its own, killed in the middle of snapshots."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from dulwich.repo import Repo

TOKEN = "a-token-for-this-test"
ROOT = Path(__file__).resolve().parents[3]


class Process:
    """``python -m backend.services.git`` on a port of its choice."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "git"
        self.projects = folder / "projects"
        self.project = self.projects / "p1"
        self.project.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> None:
        folders = ["--data", str(self.data), "--projects", str(self.projects)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend.services.git", "--port", "0", *folders],
            cwd=self.projects,
            env={**os.environ, "INTERNAL_SERVICE_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
        assert found is not None, f"the service did not start: {line!r}"
        self.port = int(found.group(1))

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def snapshot(self, message: str) -> str:
        answer = requests.post(
            f"http://127.0.0.1:{self.port}/snapshot/p1",
            json={"message": message},
            headers={"X-INTERNAL-TOKEN": TOKEN},
            timeout=30,
        )
        answer.raise_for_status()
        sha: str = answer.json()["sha"]
        return sha

    def history(self) -> list[str]:
        url = f"http://127.0.0.1:{self.port}/history/p1?limit=1000"
        entries = requests.get(url, headers={"X-INTERNAL-TOKEN": TOKEN}, timeout=30).json()
        return [entry["sha"] for entry in entries]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    service = Process(tmp_path)
    service.start()
    yield service
    assert service.process is not None
    if service.process.poll() is None:
        service.end(signal.SIGKILL)


def test_kill_9_in_the_middle_of_snapshots_leaves_a_repository_that_works(service: Process) -> None:
    """Killed at random moments, the service goes on where it was: no answered snapshot is lost."""
    chance = random.Random(20)
    answered: list[str] = []
    for spell in range(6):
        for number in range(30):
            (service.project / f"{spell}-{number}.txt").write_text(f"{spell} {number}\n" * 50)
        answered.append(service.snapshot(f"before {spell}"))
        for number in range(200):
            (service.project / f"{spell}+{number}.txt").write_text(f"more {spell} {number}\n")
        killer = threading.Timer(chance.uniform(0.0, 0.2), service.end, [signal.SIGKILL])
        killer.start()
        try:
            answered.append(service.snapshot(f"killed {spell}"))
        except requests.RequestException:
            pass  # as meant
        finally:
            killer.join()
        service.start()
    answered.append(service.snapshot("last"))
    assert set(answered) <= set(service.history())
    check_repository(service.data / "repos" / "p1.git", service.project)


def check_repository(path: Path, project: Path) -> None:
    """Every commit of the branch is whole, and the last one holds the files."""
    with Repo(str(path)) as repo:
        for entry in repo.get_walker():
            for item in repo.object_store.iter_tree_contents(entry.commit.tree):
                assert item.sha is not None
                repo.object_store[item.sha].check()
        tree = repo[repo.head()].tree  # type: ignore[attr-defined]
        assert {item.path.decode() for item in repo.object_store.iter_tree_contents(tree)} == {
            file.name for file in project.iterdir()
        }
    if shutil.which("git") is not None:
        subprocess.run(["git", "--git-dir", str(path), "fsck", "--full"], check=True, capture_output=True)


def test_two_processes_on_one_repository_wait_for_each_other(service: Process) -> None:
    """Two services on the same folders make one straight history together."""
    other = Process(service.data.parent)
    other.start()
    try:

        def change_and_snapshot(number: int) -> str:
            (service.project / f"{number}.txt").write_text(str(number))
            return (service if number % 2 else other).snapshot(f"number {number}")

        with ThreadPoolExecutor(8) as pool:
            shas = set(pool.map(change_and_snapshot, range(30)))
        shas.add(service.snapshot("last"))
        assert shas == set(other.history())
    finally:
        other.end(signal.SIGKILL)
    check_repository(service.data / "repos" / "p1.git", service.project)


def test_sigterm_ends_the_service_cleanly(service: Process) -> None:
    """On SIGTERM the service stops with code 0."""
    assert service.end(signal.SIGTERM) == 0


def test_a_data_folder_that_cannot_be_made_ends_the_start_with_one_line(tmp_path: Path) -> None:
    """When the data folder's place is taken by a file, the start ends with one clear line and code 1."""
    taken = tmp_path / "taken"
    taken.write_text("a file")
    done = subprocess.run(
        [sys.executable, "-m", "backend.services.git", "--port", "0", "--data", str(taken)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(taken) in line
