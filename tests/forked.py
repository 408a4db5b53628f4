"""Children made by ``os.fork`` for tests: each says one thing through a pipe and is gone, or is ended."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

PATIENCE = 20.0  # real seconds; a child that hangs takes longer


def in_child(work: Callable[[], Any]) -> Any:
    """What the work returns in a forked child; its ``Exception`` is raised here.

    Raises:
        TimeoutError: The child said nothing for too long. It has been killed.
    """
    reading, writing = os.pipe()
    tracer = sys.gettrace()
    sys.settrace(None)  # coverage has a lock of its own, which another thread may hold at this moment
    with warnings.catch_warnings():
        # That other threads run is what these tests are about.
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _report(work, writing)
    sys.settrace(tracer)
    os.close(writing)
    try:
        said = _read(reading)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    result, error = pickle.loads(said)
    if error is not None:
        raise error
    return result


def _report(work: Callable[[], Any], writing: int) -> None:
    """In the child: do the work, say what came of it, and be gone without the parent's clean-up."""
    threading.settrace(None)  # type: ignore[arg-type]  # threads of the child, too, go without coverage's lock
    try:
        try:
            said = pickle.dumps((work(), None))
        except BaseException as error:
            said = pickle.dumps((None, error))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(said)
    finally:
        os._exit(0)


def _read(reading: int) -> bytes:
    pieces, until = [], time.monotonic() + PATIENCE
    while True:
        ready, _, _ = select.select([reading], [], [], max(until - time.monotonic(), 0.0))
        if not ready:
            raise TimeoutError("the forked child hangs")
        piece = os.read(reading, 65536)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
