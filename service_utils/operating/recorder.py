"""What keeps a history: it hears of changes, and counts the calls at regular moments."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
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
    with a thread of its own if there was one. The thread does not keep the recorder alive.

    Args:
        registry: Whose services, or a function that is asked each time.
        history: Where to keep it.
        interval: Seconds between two samples.
        leads: Whether this process is the one that takes samples of what all share.
        clock: Where the time comes from.

    Raises:
        ValueError: ``interval`` is not above 0.
    """

    def __init__(
        self,
        registry: ServiceRegistry | Callable[[], ServiceRegistry],
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
        self._spell: _Spell | None = None
        self._failing = False
        self._lock = threading.RLock()
        guard(self)
        in_child(self._begin_in_child)

    def note(self, event: Event) -> bool:
        """Remember a change that began in this process, to be kept soon. Returns whether it was one."""
        change = self._change_of(event)
        if change is not None:
            self._waiting.append(change)
        return change is not None

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

    @property
    def _services(self) -> ServiceRegistry:
        return self._registry() if callable(self._registry) else self._registry

    def _is_ours(self, event: CircuitChanged) -> bool:
        return event.name in self._services.circuit_breakers()

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
        for client in self._services.clients():
            shared = host_counts(client.store) is not None
            if shared and not self._leads():
                continue
            try:
                counted = client.get_status()["requests"]
            except Exception:  # whoever looks at its status is told why
                _logger.debug("[%s] get_status() failed", client.service_name, exc_info=True)
                continue
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

    @property
    def running(self) -> bool:
        """Whether it keeps the history: between :meth:`start` and :meth:`stop`."""
        spell = self._spell
        return spell is not None and not spell.ended

    def start(self) -> None:
        """Keep the history from now on, in a daemon thread; does nothing while it runs already.

        Raises:
            RuntimeError: The system gives us no more threads.
        """
        spell = _Spell(self, self._clock, self._interval)
        try:
            with self._lock:
                if self.running:
                    return
                self._spell = spell
            spell.begin()
        except BaseException:
            spell.end()
            raise

    def stop(self, timeout: float = 5.0) -> None:
        """End it; what is waiting is kept first.

        Args:
            timeout: Seconds to wait for the thread.
        """
        with self._lock:
            spell, self._spell = self._spell, None
        if spell is not None:
            spell.end()
            spell.join(timeout)
            self.flush()

    def _begin_in_child(self) -> None:
        """The parent's thread is not here, and what waits for it is the parent's to keep."""
        self._waiting.clear()
        was_running, spell, self._spell = self.running, self._spell, None
        if spell is not None:
            spell.end()
        if was_running:
            self.start()


class _Spell:
    """From ``start()`` to ``stop()``: a subscription and a thread, which do not keep the recorder alive."""

    ignores_refusals = True
    ignores_rejections = True

    def __init__(self, recorder: Recorder, clock: Clock, interval: float) -> None:
        self._recorder = weakref.ref(recorder, lambda _: self.end())
        self._clock = clock
        self._interval = interval
        self._next_sample = clock.monotonic()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self.ended = False

    def begin(self) -> None:
        self._unsubscribe = subscribe(self)
        self._thread = threading.Thread(target=self._run, name="service-history", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.ended = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._bell.put(None)

    def join(self, timeout: float) -> None:
        thread = self._thread
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def wants_routine(self) -> bool:
        """Calls that go well are none of its business."""
        return False

    def __call__(self, event: Event) -> None:
        recorder = self._recorder()
        if recorder is not None and recorder.note(event):
            self._bell.put(None)

    def _run(self) -> None:
        try:
            while (wait := self._round()) is not None:
                wait_for(self._heard, wait, self._clock)
        finally:
            self.end()

    def _round(self) -> float | None:
        """Keep what there is. Returns the seconds until the next time, or None to end."""
        recorder = None if self.ended else self._recorder()
        if recorder is None:
            return None
        now = self._clock.monotonic()
        if now >= self._next_sample:
            self._next_sample = now + self._interval
            recorder.tick()
        else:
            recorder.flush()
        return max(self._next_sample - self._clock.monotonic(), 0.0)

    def _heard(self, seconds: float) -> bool:
        with contextlib.suppress(Empty):
            self._bell.get(timeout=seconds)
            return True
        return False
