"""Counting in multiprocess mode: one for the whole process, since all write into the same files."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial

from service_utils.events import AttemptStarted, CircuitState, Event, subscribe
from service_utils.forks import guard, in_child
from service_utils.integrations.prometheus.counting import Counts
from service_utils.integrations.prometheus.worker_values import WorkerValues
from service_utils.registry import ServiceRegistry, default_registry
from service_utils.sharing import host_counts

__all__ = ["WorkerCounts"]


class WorkerCounts:
    """What a worker counts and writes down, however many applications it has.

    As a listener it is subscribed once, from the first application that joins to the last that leaves.

    Attributes:
        counts: What happens.
    """

    ignores_refusals = True

    _only: WorkerCounts | None = None
    _making = threading.RLock()

    def __init__(self) -> None:
        self.counts = Counts()
        self._values = WorkerValues()
        self._registries: dict[object, Callable[[], ServiceRegistry | None]] = {}
        self._takes_slots: dict[str, bool] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._lock = threading.RLock()
        guard(self)
        in_child(self.write_circuits)

    @classmethod
    def of_process(cls) -> WorkerCounts:
        """The one of this process."""
        with cls._making:
            if cls._only is None:
                cls._only = cls()
            return cls._only

    def _renew_in_child(self) -> None:
        self._values.renew()

    def wants_routine(self) -> bool:
        """Calls that go well are counted, too."""
        return True

    def join(self, registry: ServiceRegistry | None) -> Callable[[], None]:
        """Count from now on, also for an application with this registry; returns what ends that.

        Args:
            registry: Whose circuits and bulkheads are written down; None for the process's own registry.
        """
        key = object()
        with self._lock:
            self._registries = {**self._registries, key: _reference(registry)}
            if self._unsubscribe is None:
                self._unsubscribe = subscribe(self)

        def leave() -> None:
            with self._lock:
                self._registries = {who: each for who, each in self._registries.items() if who is not key}
                if not self._registries and self._unsubscribe is not None:
                    self._unsubscribe()
                    self._unsubscribe = None

        return leave

    def __call__(self, event: Event) -> None:
        """Count it, and write down what it changes."""
        self.counts(event)
        if not isinstance(event, AttemptStarted) or (event.number == 1 and self._has_slots(event.name)):
            self.counts.write(self._values, event)

    def write_circuits(self) -> None:
        """Write down circuits that are open here and were so before this process was forked."""
        for registry in self._living():
            for name, breaker in registry.circuit_breakers().items():
                if breaker.store is None and breaker.state is not CircuitState.CLOSED:
                    self.counts.write(partial(self._values.circuit_is, name), breaker.state)

    def _living(self) -> Iterator[ServiceRegistry]:
        for reference in self._registries.values():
            registry = reference()
            if registry is not None:
                yield registry

    def _has_slots(self, name: str) -> bool:
        """Whether a client has a bulkhead, and no store that knows how many of its calls are under way."""
        known = self._takes_slots.get(name)
        if known is None:
            clients = [each for registry in self._living() if (each := registry.get(name)) is not None]
            known = any(each.bulkhead is not None and host_counts(each.store) is None for each in clients)
            if clients:
                self._takes_slots[name] = known
        return known


def _reference(registry: ServiceRegistry | None) -> Callable[[], ServiceRegistry | None]:
    return default_registry if registry is None else weakref.ref(registry)
