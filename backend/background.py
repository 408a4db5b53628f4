"""What the backend does besides answering: working off dead letters, knowing how degraded it is, and
keeping the history that operators see."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from flask import Flask

from service_utils.dead_letters import DeadLetterWorker
from service_utils.degradation import DegradationMonitor
from service_utils.forks import guard
from service_utils.operating import Recorder
from service_utils.sharing import HostLeader

__all__ = ["Background"]


@dataclass(eq=False)
class Background:
    """Threads of this process. They are begun by its first request, or before by :meth:`start`.

    A process that loads the app and then forks its workers (gunicorn ``--preload``) serves no request, and so
    each worker has threads of its own. Where the workers share their state, only the one that leads the host
    sends letters again; each knows the level, but only the leader finds it out.

    Attributes:
        worker: Sends kept letters again.
        monitor: Says how degraded the backend is.
        leader: Says which process leads; None where there is no other.
        recorder: Keeps the history of the services for operators.
    """

    worker: DeadLetterWorker
    monitor: DegradationMonitor
    leader: HostLeader | None = None
    recorder: Recorder | None = None
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
            self.monitor.start()
            if self.recorder is not None:
                self.recorder.start()
            self._begun_in = os.getpid()  # before it stands: it may be chosen at once
            if self.leader is None:
                self.worker.start()
            else:
                self.leader.stand(self._take_over, self.worker.stop)

    def _take_over(self) -> None:
        if self._begun_in is not None:
            self.worker.start()

    def stop(self) -> None:
        """End: letters in hand are finished or given back."""
        self._begun_in = None
        self.worker.stop()
        self.monitor.stop()
        if self.recorder is not None:
            self.recorder.stop()
