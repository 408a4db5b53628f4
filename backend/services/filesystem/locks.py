"""Locks by name, between the threads of a process and between processes."""

from __future__ import annotations

import fcntl
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from backend.services.common import Refusal
from service_utils.clock import SYSTEM, Clock

__all__ = ["NamedLocks"]

_STRIPES: Final = 64
_LOOK_AGAIN: Final = 0.005


class NamedLocks:
    """At most one holder of a name at a time. A killed process holds nothing: the system lets its locks go.

    Names share 64 lock files by their checksum, so a holder must never wait for a second name.

    Args:
        folder: Where the lock files are; made when missing.
        patience: How many seconds to wait for another holder.
        clock: What waits.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: Path, *, patience: float = 5.0, clock: Clock = SYSTEM) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._patience = patience
        self._clock = clock
        # Threads queue here in turn; only one of them competes with the other processes.
        self._threads = [threading.Lock() for _ in range(_STRIPES)]

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Hold the name for the block.

        Raises:
            Refusal: 503 when another holder did not let go in time.
        """
        stripe = zlib.crc32(name.encode()) % _STRIPES
        give_up = self._clock.monotonic() + self._patience
        if not self._threads[stripe].acquire(timeout=self._patience):
            raise _busy()
        try:
            # A descriptor of its own each time: such locks belong to the open file, not to the process.
            descriptor = os.open(
                self._folder / f"{stripe:02}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                self._lock(descriptor, give_up)
                yield
            finally:
                os.close(descriptor)
        finally:
            self._threads[stripe].release()

    def _lock(self, descriptor: int, give_up: float) -> None:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock.monotonic() >= give_up:
                    raise _busy() from None
                self._clock.sleep(_LOOK_AGAIN)
            else:
                return


def _busy() -> Refusal:
    return Refusal(503, "the file is being written by others", headers={"Retry-After": "1"})
