"""One lock per project, across threads and processes, that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.services.git.errors import ProjectBusyError
from service_utils.clock import SYSTEM, Clock

__all__ = ["held"]

_POLL_SECONDS = 0.01


@contextmanager
def held(path: Path, *, timeout: float, clock: Clock = SYSTEM) -> Iterator[None]:
    """Hold the lock file during the block; it is created if missing and never deleted.

    It is asked for again and again instead of waited for: a blocking ``flock`` has no time-out, and threads
    that wait for a stuck snapshot without one would in the end be all the threads there are, for all
    projects.

    Args:
        path: The lock file.
        timeout: Seconds to wait at most.
        clock: Counts them.

    Raises:
        ProjectBusyError: Others held it for all that time.
    """
    # Each holder has a descriptor of its own: flock then keeps threads apart just as it does processes.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for(descriptor, clock.monotonic() + timeout, clock)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, end: float, clock: Clock) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.monotonic() >= end:
                raise ProjectBusyError("other snapshots of this project are still running") from None
            clock.sleep(_POLL_SECONDS)
        else:
            return
