"""How many letters a second go into the dead letters' file, and out of it again.

    python -m benchmarks.dead_letters

Every letter (1 KiB of body) is on the disk when ``add`` returns: SQLite with ``synchronous=FULL``. For
comparison the same in memory, and the disk alone: as many bytes written and synchronised as by one commit.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from service_utils.dead_letters import DeadLetterQueue, MemoryDeadLetters, SQLiteDeadLetters
from service_utils.dead_letters.store import Delivered

SECONDS = 2.0
BATCH = 500
BODY = b"x" * 1024
LETTER = {"service": "git", "method": "POST", "path": "/snapshot/p1", "body": BODY}


def rate(work: Callable[[], int]) -> float:
    """Letters a second, of as many rounds as fit into the time."""
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SECONDS:
        done += work()
    return done / passed


def add_one(queue: DeadLetterQueue) -> Callable[[], int]:
    def work() -> int:
        queue.add(**LETTER)
        return 1

    return work


def add_batch(queue: DeadLetterQueue) -> Callable[[], int]:
    def work() -> int:
        return len(queue.add_many([LETTER] * BATCH))

    return work


def work_off(queue: DeadLetterQueue) -> Callable[[], int]:
    """Lease twenty, deliver them one by one, as the worker does."""

    def work() -> int:
        leases = queue.store.lease("git", now=time.time(), seconds=60.0, limit=20)
        for lease in leases:
            queue.store.settle(lease, Delivered())
        return len(leases)

    return work


def bare_disk(folder: Path) -> Callable[[], int]:
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT)

    def work() -> int:
        os.write(descriptor, BODY * 12)
        os.fdatasync(descriptor)
        return 1

    return work


def stats_of_many(queue: DeadLetterQueue) -> float:
    """Milliseconds that stats() takes with as many letters as a queue holds by default."""
    missing = 100_000 - queue.stats()["letters"]
    small = {"service": "git", "method": "POST", "path": "/a"}
    while missing > 0:
        missing -= len(queue.add_many([small] * min(missing, 5000)))
    began = time.perf_counter()
    for _ in range(20):
        queue.stats()
    return (time.perf_counter() - began) / 20 * 1000


def main() -> None:
    logging.getLogger("service_utils").setLevel(logging.ERROR)  # a line per letter is not what is measured
    with (
        tempfile.TemporaryDirectory(dir=".") as name,
        closing(SQLiteDeadLetters(Path(name) / "letters.sqlite3")) as store,
    ):
        queue = DeadLetterQueue(store, max_letters=10**6)
        memory = DeadLetterQueue(MemoryDeadLetters(), max_letters=10**7, max_bytes=2**33)
        print(f"a write and a sync of the bare disk: {rate(bare_disk(Path(name))):8.0f} a second")
        print(f"SQLite, one by one:                  {rate(add_one(queue)):8.0f} letters a second")
        print(f"SQLite, batches of {BATCH}:              {rate(add_batch(queue)):8.0f} letters a second")
        print(f"SQLite, leased and delivered:        {rate(work_off(queue)):8.0f} letters a second")
        print(f"memory, one by one:                  {rate(add_one(memory)):8.0f} letters a second")
        print(f"stats() of 100,000 letters:          {stats_of_many(queue):8.2f} ms")


if __name__ == "__main__":
    main()
