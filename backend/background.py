"""What the backend does besides answering: working off dead letters, and knowing how degraded it is."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from flask import Flask

from service_utils.dead_letters import DeadLetterWorker
from service_utils.degradation import DegradationMonitor
from service_utils.forks import guard

__all__ = ["Background"]


@dataclass(eq=False)
class Background:
    """Threads of this process. They are begun by its first request, or before by :meth:`start`.

    A process that loads the app and then forks its workers (gunicorn ``--preload``) serves no request, and so
    each worker has threads of its own.

    Attributes:
        worker: Sends kept letters again.
        monitor: Says how degraded the backend is.
    """

    worker: DeadLetterWorker
    monitor: DegradationMonitor
    _begun_in: int | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        guard(self)

    def begin_with_requests(self, app: Flask) -> None:
        """Have the first request of each process begin it."""

        def begin() -> None:
            if self._begun_in != os.getpid():
                self.start()

        app.before_request(begin)

    def start(self) -> None:
        """Begin, if that is not done in this process."""
        with self._lock:
            if self._begun_in == os.getpid():
                return
            self.worker.start()
            self.monitor.start()
            self._begun_in = os.getpid()

    def stop(self) -> None:
        """End: letters in hand are finished or given back."""
        self._begun_in = None
        self.worker.stop()
        self.monitor.stop()
