"""Metrics: what this process has counted and how things are, as Prometheus reads it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service_utils.degradation import DegradationMonitor
from service_utils.events import subscribe
from service_utils.forks import guard
from service_utils.health import HealthChecker
from service_utils.integrations.prometheus.counting import Counts, counted_by_many
from service_utils.integrations.prometheus.states import Letters, States
from service_utils.integrations.prometheus.worker_counts import WorkerCounts
from service_utils.integrations.prometheus.worker_values import OfAllWorkers, read_files
from service_utils.registry import ServiceRegistry, default_registry

__all__ = ["Metrics"]

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics(Collector):
    """The metrics of a process or, with prometheus_client in multiprocess mode, of all workers of a server.

    What happens is counted from :meth:`listen` on, for all clients of the process, whatever registry they are
    in: an event does not say. How things are (circuits, slots, level, dead letters, health) is looked up in
    the objects given here at the moment of :meth:`exposition`. Both for any number of threads.

    Without multiprocess mode each ``Metrics`` counts for itself, and a forked child begins at zero. In
    multiprocess mode all of a process count into the same files.

    It is a collector of prometheus_client, too: ``REGISTRY.register(metrics)`` adds it to a page that an
    application has already. That is not for multiprocess mode, where :meth:`exposition` has all there is.

    Args:
        registry: Whose circuits and bulkheads are shown; None for the process's own registry.
        degradation: Whose level is shown; None for none.
        dead_letters: Whose numbers are shown; None for none.
        health: Whose last results are shown, without running a check; None for none.
        besides: A registry of prometheus_client with metrics of your own, to be shown on the same page.
            In multiprocess mode they are there without it.

    Raises:
        TypeError: An argument is of a wrong type.
    """

    def __init__(
        self,
        registry: ServiceRegistry | None = None,
        *,
        degradation: DegradationMonitor | None = None,
        dead_letters: Letters | None = None,
        health: HealthChecker | None = None,
        besides: CollectorRegistry | None = None,
    ) -> None:
        _check("registry", registry, ServiceRegistry)
        _check("degradation", degradation, DegradationMonitor)
        _check("health", health, HealthChecker)
        _check("besides", besides, CollectorRegistry)
        if dead_letters is not None and not callable(getattr(dead_letters, "stats", None)):
            raise TypeError(f"dead_letters={dead_letters!r}: must have a method stats()")
        self._registry = registry
        self._besides = besides
        self._states = States(
            registry=default_registry if registry is None else lambda: registry,
            degradation=degradation,
            dead_letters=dead_letters,
            health=health,
        )
        self._lock = threading.RLock()
        self._end: weakref.finalize[..., Any] | None = None
        self._by_workers = WorkerCounts.of_process() if counted_by_many() else None
        self._counts = Counts() if self._by_workers is None else self._by_workers.counts
        guard(self)

    # -- counting -------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Count what happens from now on, until :meth:`stop` or the end of this object; twice is once."""
        with self._lock:
            if self._end is None:
                # Bound to what counts and not to this, so that an app that is dropped is gone.
                self._end = weakref.finalize(self, self._subscription())
                self._end.atexit = False

    def _subscription(self) -> Callable[[], None]:
        if self._by_workers is None:
            return subscribe(self._counts)
        return self._by_workers.join(self._registry)

    def stop(self) -> None:
        """Count no more. What has been counted is still shown."""
        with self._lock:
            end, self._end = self._end, None
        if end is not None:
            end()

    @property
    def listening(self) -> bool:
        """Whether it counts."""
        return self._end is not None

    # -- showing --------------------------------------------------------------------------------------

    def exposition(self, accept_header: str | None = None) -> tuple[bytes, str]:
        """All metrics, in the format that is asked for.

        Args:
            accept_header: The ``Accept`` of the request; OpenMetrics if it wants that, else the classic text.

        Returns:
            The body and its content type.
        """
        try:
            encode, content_type = choose_encoder(accept_header or "")
        except Exception:  # a version that is none, in a header that anybody may send
            encode, content_type = choose_encoder("")
        page = CollectorRegistry()
        page.register(self)
        return encode(page), content_type

    def describe(self) -> list[Metric]:
        """Nothing: what there is is known when it is collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, one after the other."""
        health = self._states.health
        self._counts.expect(self._states.registry().names(), () if health is None else health.names())
        if self._by_workers is not None:
            yield from self._collect_of_all(self._by_workers)
            return
        yield from self._counts.collect()
        yield from self._states.collect(None)
        if self._besides is not None:
            yield from self._besides.collect()

    def _collect_of_all(self, by_workers: WorkerCounts) -> Iterator[Metric]:
        metrics = read_files(Path(os.environ[_FOLDER]))
        workers = OfAllWorkers(metrics)
        yield from metrics.values()
        yield from self._states.collect(workers)


def _check(name: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name}={value!r}: must be a {kind.__name__}")
