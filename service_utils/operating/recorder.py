"""What keeps a history: it hears of changes, and counts the calls at regular moments."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from service_utils.clock import SYSTEM, Clock, wait_for
from service_utils.events import CircuitChanged, DegradationChanged, Event, subscribe
from service_utils.forks import guard, in_child
from service_utils.operating.history import Change, ChangeKind, History, Sample
from service_utils.policies.checks import require_seconds
from service_utils.registry import ServiceRegistry
from service_utils.sharing import host_counts

__all__ = ["Recorder"]

_logger = logging.getLogger("service_utils")

HOST = "host"
_WAITING = 1000  # changes that wait to be kept while the history cannot be written


class Recorder:
    """Keeps a history of a registry's services, between :meth:`start` and :meth:`stop`.

    Each process keeps the changes that began in it. Where the counts of all processes add up (clients with a
    ``SharedMemoryStore``) only the one for which ``leads()`` holds takes samples of the sums; elsewhere each
    takes its own. A listener never writes: a thread does. May be used from any thread; a forked child goes on
    with a thread of its own if there was one.

    Args:
        registry: Whose services.
        history: Where to keep it.
        interval: Seconds between two samples.
        leads: Whether this process is the one that takes samples of what all share.
        clock: Where the time comes from.

    Raises:
        ValueError: ``interval`` is not above 0.
    """

    ignores_refusals = True
    ignores_rejections = True

    def __init__(
        self,
        registry: ServiceRegistry,
        history: History,
        *,
        interval: float = 5.0,
        leads: Callable[[], bool] = lambda: True,
        clock: Clock = SYSTEM,
    ) -> None:
        require_seconds("interval", interval, zero=False)
        self._registry = registry
        self._history = history
        self._interval = interval
        self._leads = leads
        self._clock = clock
        self._waiting: deque[Change] = deque(maxlen=_WAITING)
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._failing = False
        self._lock = threading.RLock()
        guard(self)
        in_child(self._begin_in_child)

    def wants_routine(self) -> bool:
        """Calls that go well are none of its business."""
        return False

    def __call__(self, event: Event) -> None:
        """Remember a change that began in this process, to be kept soon."""
        change = self._change_of(event)
        if change is not None:
            self._waiting.append(change)
            self._bell.put(None)

    def _change_of(self, event: Event) -> Change | None:
        if isinstance(event, CircuitChanged) and not event.elsewhere and self._is_ours(event):
            return Change(
                at=self._clock.now().timestamp(),
                kind=ChangeKind.CIRCUIT,
                name=event.name,
                service=event.service,
                from_state=event.from_state.value,
                to_state=event.to_state.value,
                reason=event.reason or "",
            )
        if isinstance(event, DegradationChanged) and not event.elsewhere:
            return Change(
                at=self._clock.now().timestamp(),
                kind=ChangeKind.DEGRADATION,
                name=event.name,
                service=event.service,
                from_state=event.from_level,
                to_state=event.to_level,
                reason=event.reason or "",
            )
        return None

    def _is_ours(self, event: CircuitChanged) -> bool:
        return event.name in self._registry or event.name in self._registry.circuit_breakers()

    # -- keeping --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Keep what is waiting, and take a sample of each service."""
        self._keep(self._samples())

    def flush(self) -> None:
        """Keep what is waiting."""
        self._keep([])

    def _keep(self, samples: list[Sample]) -> None:
        changes = []
        while self._waiting:
            changes.append(self._waiting.popleft())
        if not changes and not samples:
            return
        try:
            self._history.add(changes, samples)
            self._failing = False
        except Exception as error:  # whatever it is, the next time may go well
            self._waiting.extendleft(reversed(changes))
            if not self._failing:
                self._failing = True
                _logger.warning("The history of the services cannot be kept: %s", error)

    def _samples(self) -> list[Sample]:
        at = self._clock.now().timestamp()
        taken = []
        for client in self._registry.clients():
            shared = host_counts(client.store) is not None
            if shared and not self._leads():
                continue
            counted = client.get_status()["requests"]
            taken.append(
                Sample(
                    at=at,
                    name=client.name,
                    member=HOST if shared else str(os.getpid()),
                    total=counted["total"],
                    failed=counted["failed"],
                    rejected=counted["rejected"],
                    retried=counted["retried"],
                )
            )
        return taken

    # -- the thread -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Keep the history from now on, in a daemon thread; does nothing while it runs already.

        Raises:
            RuntimeError: The system gives us no more threads.
        """
        with self._lock:
            if self._unsubscribe is not None:
                return
            self._unsubscribe = subscribe(self)
            self._bell = SimpleQueue()
            thread = threading.Thread(
                target=self._run, args=(self._bell,), name="service-history", daemon=True
            )
            self._thread = thread
        thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End it; what is waiting is kept first."""
        with self._lock:
            unsubscribe, self._unsubscribe = self._unsubscribe, None
            thread, self._thread = self._thread, None
        if unsubscribe is None:
            return
        unsubscribe()
        self._bell.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        self.flush()

    def _run(self, bell: SimpleQueue[None]) -> None:
        next_sample = self._clock.monotonic()
        while self._unsubscribe is not None and bell is self._bell:
            now = self._clock.monotonic()
            if now >= next_sample:
                next_sample = now + self._interval
                self.tick()
            else:
                self.flush()
            wait_for(_heard(bell), max(next_sample - self._clock.monotonic(), 0.0), self._clock)

    def _begin_in_child(self) -> None:
        """The parent's thread is not here, and what waits for it is the parent's to keep."""
        self._waiting.clear()
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            unsubscribe()
            self.start()


def _heard(bell: SimpleQueue[None]) -> Callable[[float], bool]:
    def heard(seconds: float) -> bool:
        try:
            bell.get(timeout=seconds)
        except Empty:
            return False
        return True

    return heard
