"""Workers as processes of their own: side by side on one file, told to stop, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service_utils.client import ResilientServiceClient
from service_utils.dead_letters import DeadLetterQueue, DeadLetterWorker, SQLiteDeadLetters
from service_utils.registry import ServiceRegistry
from service_utils.testing import Answer, FakeClock, FaultServer, RecordedRequest

from .workshop import PATIENCE, until

ROOT = Path(__file__).parents[2]
SERVICES = ("billing", "git", "filesystem", "chroma")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "letters.sqlite3"


@pytest.fixture
def queue(path: Path) -> Iterator[DeadLetterQueue]:
    queue = DeadLetterQueue(SQLiteDeadLetters(path))
    yield queue
    queue.close()


@contextmanager
def worker(path: Path, server: FaultServer, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A worker's process, which is gone at the end of the block."""
    clients = [word for name in SERVICES for word in ("--client", f"{name}={server.url}")]
    command = [sys.executable, "-m", "service_utils", "dead-letters", "run", "--file", str(path), *clients]
    # Its log goes nowhere: a pipe that nobody reads would hold it up when it is full.
    process = subprocess.Popen(
        [*command, "--interval", "0.02", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "INTERNAL_SERVICE_TOKEN": "of-the-day"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """What a process says after it was sent a signal."""
    process.send_signal(number)
    return process.communicate(timeout=PATIENCE)[0]


def test_two_processes_send_a_thousand_letters_exactly_once_each(
    path: Path, queue: DeadLetterQueue, fault_server: FaultServer
) -> None:
    """No letter is sent twice and none is left over, and each service gets its own in order."""
    letters = [
        {"service": SERVICES[number % 4], "method": "POST", "path": f"/{SERVICES[number % 4]}/{number}"}
        for number in range(1000)
    ]
    with worker(path, fault_server) as one, worker(path, fault_server) as other:
        for each in (one, other):
            assert each.stdout is not None
            assert each.stdout.readline().startswith("Working off dead letters")
        queue.add_many(letters)
        until(lambda: queue.stats()["letters"] == 0)
        said = [told(each, signal.SIGTERM) for each in (one, other)]
        codes = [one.returncode, other.returncode]

    requests = fault_server.requests
    assert len(requests) == 1000
    assert Counter(request.headers["Idempotency-Key"] for request in requests).most_common(1)[0][1] == 1
    assert {request.headers["X-INTERNAL-TOKEN"] for request in requests} == {"of-the-day"}
    for service in SERVICES:
        order = [
            int(each.path.rpartition("/")[2]) for each in requests if each.path.startswith(f"/{service}/")
        ]
        assert order == sorted(order)
    assert codes == [0, 0]
    delivered = [int(text.partition("Done: ")[2].partition(" delivered")[0]) for text in said]
    assert sum(delivered) == 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_finishes_the_letter_in_hand(
    number: signal.Signals, path: Path, queue: DeadLetterQueue, fault_server: FaultServer
) -> None:
    """Told to stop, it begins no further letter, and says what it has done."""
    for step in range(3):
        queue.add("git", "POST", f"/{step}")
    fault_server.hold()
    with worker(path, fault_server) as process:
        fault_server.wait_for_requests(1, PATIENCE)
        process.send_signal(number)
        until(lambda: queue.stats()["pending"] == 2)
        fault_server.release()
        out, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0
    assert out.splitlines()[-1] == "Done: 1 delivered, 0 retried, 0 dead, 2 skipped, 0 lost."
    assert [each.path for each in queue.list()] == ["/1", "/2"]


def test_a_killed_worker_leaves_its_letter_to_the_next(
    path: Path, queue: DeadLetterQueue, fault_server: FaultServer
) -> None:
    """After kill -9 in the middle of a request the lease runs out, and a receiver that honours the key
    sees one effect."""
    effects: set[str] = set()
    done = threading.Event()

    def honour(request: RecordedRequest) -> Answer:
        effects.add(request.headers["Idempotency-Key"])
        done.set()
        return Answer(201)

    fault_server.handler = honour
    queue.add("git", "POST", "/only")
    fault_server.hold()
    with worker(path, fault_server) as process:
        fault_server.wait_for_requests(1, PATIENCE)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
    fault_server.release()
    assert done.wait(PATIENCE)
    assert queue.stats()["leased"] == 1

    registry = ServiceRegistry()
    clock = FakeClock(now=datetime.now(UTC))
    with ResilientServiceClient(fault_server.url, name="git", registry=registry, token_provider=None):
        successor = DeadLetterWorker(queue, registry, clock=clock)
        assert successor.run_once()["leased"] == 0
        clock.set_now(datetime.now(UTC) + timedelta(seconds=61))
        assert successor.run_once()["delivered"] == 1

    assert len(fault_server.requests) == 2
    assert len(effects) == 1
    assert queue.stats()["letters"] == 0
