"""A waitress server that runs in a thread of the test and is closed without a race."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from waitress import wasyncore

PATIENCE = 10.0


@contextmanager
def in_thread(server: Any) -> Iterator[None]:
    """Let the server answer in the block.

    Its descriptors are closed when its thread has ended: closed earlier, the one that wakes the thread might
    be written to when it is another file's already.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            wasyncore.loop(timeout=PATIENCE, map=server._map, count=1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.task_dispatcher.shutdown()
        stop.set()
        server.trigger.pull_trigger()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        wasyncore.close_all(server._map)
