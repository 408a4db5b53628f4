"""Locks between threads and between processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from backend.services.common import Refusal
from backend.services.filesystem.locks import NamedLocks

COUNT = """
import pathlib, sys
from backend.services.filesystem.locks import NamedLocks
locks = NamedLocks(pathlib.Path(sys.argv[1]), patience=40)
number = pathlib.Path(sys.argv[2])
for _ in range(100):
    with locks.holding("number"):
        number.write_text(str(int(number.read_text()) + 1))
"""
HOLD = """
import pathlib, sys
from backend.services.filesystem.locks import NamedLocks
with NamedLocks(pathlib.Path(sys.argv[1])).holding("name"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_thread_at_a_time(tmp_path: Path) -> None:
    """Of many threads one at a time holds a name."""
    locks = NamedLocks(tmp_path)
    held = 0

    def work(_: int) -> None:
        nonlocal held
        with locks.holding("name"):
            held += 1
            assert held == 1
            threading.Event().wait(0.001)
            held -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(64)))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """Processes that count in one file lose no step."""
    number = tmp_path / "number"
    number.write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "locks"), str(number)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(50) for process in processes] == [0] * 4
    assert number.read_text() == "400"


def test_other_names_do_not_wait(tmp_path: Path) -> None:
    """A name is no obstacle to another one."""
    locks = NamedLocks(tmp_path, patience=0.05)
    with locks.holding("a"), locks.holding("b"):
        pass


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Start a process that holds the name until it is killed."""
    with ExitStack() as stack:

        def start(folder: Path) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", HOLD, str(folder)]
            holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(holder)
            stack.callback(holder.kill)
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            return holder

        yield start


def test_patience_ends(tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    """Whoever waits too long for another process gets a 503 with Retry-After."""
    hold(tmp_path)
    with pytest.raises(Refusal) as refused, NamedLocks(tmp_path, patience=0.05).holding("name"):
        pass
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})


def test_patience_ends_within_one_process(tmp_path: Path) -> None:
    """The same for threads that share their locks; the name is free again afterwards."""
    locks = NamedLocks(tmp_path, patience=0.05)
    with locks.holding("name"), pytest.raises(Refusal), locks.holding("name"):
        pass
    with locks.holding("name"):
        pass


def test_the_dead_hold_nothing(tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    """A killed process lets go of what it held."""
    holder = hold(tmp_path)
    holder.kill()
    holder.wait()
    with NamedLocks(tmp_path, patience=0.05).holding("name"):
        pass
