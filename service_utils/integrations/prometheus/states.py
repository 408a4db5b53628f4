"""What is, looked up when somebody asks: circuits, slots, the level, dead letters, health."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from service_utils.client import ResilientServiceClient
from service_utils.degradation import DegradationMonitor
from service_utils.events import CircuitState
from service_utils.health import HealthChecker
from service_utils.integrations.prometheus import names
from service_utils.integrations.prometheus.family import MOST
from service_utils.integrations.prometheus.names import OTHER, Spec
from service_utils.integrations.prometheus.worker_values import BY_SEVERITY, HEALTH, OfAllWorkers
from service_utils.policies.breaker import CircuitBreaker
from service_utils.registry import ServiceRegistry
from service_utils.sharing import host_counts

__all__ = ["Letters", "States"]

_logger = logging.getLogger("service_utils")

_STATUSES = ("pending", "leased", "dead")


class Letters(Protocol):
    """Whose numbers are shown: a :class:`~service_utils.dead_letters.DeadLetterQueue`."""

    def stats(self) -> dict[str, Any]:
        """With ``services``: numbers by status, by service."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Looks at the living objects; nothing is kept and nothing is run.

    Attributes:
        registry: Whose circuits and bulkheads; asked anew each time.
        degradation: The monitor, or None.
        dead_letters: The queue, or None.
        health: The checker, or None. Its last results are shown; no check is run.
    """

    registry: Callable[[], ServiceRegistry]
    degradation: DegradationMonitor | None = None
    dead_letters: Letters | None = None
    health: HealthChecker | None = None

    def collect(self, workers: OfAllWorkers | None) -> Iterator[Metric]:
        """One metric after the other; what cannot be found out at the moment is left out, and logged.

        Args:
            workers: What all workers have written down; None where this process speaks for itself alone.
        """
        for look in (self._circuits, self._slots, self._level, self._letters, self._checks):
            try:
                yield from look(workers)
            except Exception:
                _logger.exception("A metric cannot be found out at the moment")

    def _circuits(self, workers: OfAllWorkers | None) -> list[Metric]:
        metric = _gauge(names.CIRCUIT_STATE)
        for name, breaker in list(self.registry().circuit_breakers().items())[:MOST]:
            found = _state(name, breaker, workers)
            for state in CircuitState:
                metric.add_metric([name, state.value], float(state is found))
        return [metric]

    def _slots(self, workers: OfAllWorkers | None) -> list[Metric]:
        metric = _gauge(names.BULKHEAD_IN_FLIGHT)
        for client in self.registry().clients()[:MOST]:
            if client.bulkhead is not None:
                metric.add_metric([client.name], _slots_of(client, workers))
        return [metric]

    def _level(self, workers: OfAllWorkers | None) -> list[Metric]:
        monitor = self.degradation
        if monitor is None:
            return []
        level = int(monitor.level)
        if workers is not None and not monitor.shared:
            level = max(level, workers.worst_level(monitor.name))
        return [GaugeMetricFamily(names.DEGRADATION_LEVEL.name, names.DEGRADATION_LEVEL.help, level)]

    def _letters(self, workers: OfAllWorkers | None) -> list[Metric]:
        if self.dead_letters is None:
            return []
        kept = {name: {} for name in self.registry().names()} | self.dead_letters.stats()["services"]
        metric = _gauge(names.DLQ_MESSAGES)
        for service, numbers in _bounded(kept).items():
            for status in _STATUSES:
                metric.add_metric([service, status], numbers.get(status, 0))
        return [metric]

    def _checks(self, workers: OfAllWorkers | None) -> list[Metric]:
        if self.health is None:
            return []
        found = {name: HEALTH[each.status.value] for name, each in self.health.last().checks.items()}
        if workers is not None:  # whichever worker has looked last
            known = set(self.health.names())
            found |= {name: value for name, value in workers.health.items() if name in known}
        metric = _gauge(names.HEALTH_STATUS)
        for name, value in list(found.items())[:MOST]:
            metric.add_metric([name], value)
        return [metric]


def _gauge(spec: Spec) -> GaugeMetricFamily:
    return GaugeMetricFamily(spec.name, spec.help, labels=spec.labels)


def _state(name: str, breaker: CircuitBreaker, workers: OfAllWorkers | None) -> CircuitState:
    state = breaker.state
    if workers is None or breaker.store is not None:
        return state
    return max(state, workers.worst_state(name), key=BY_SEVERITY.index)


def _slots_of(client: ResilientServiceClient, workers: OfAllWorkers | None) -> float:
    bulkhead = client.bulkhead
    assert bulkhead is not None
    if workers is None:
        return float(bulkhead.get_status()["in_flight"])
    store = host_counts(client.store)
    host = None if store is None else store.host(client.name)
    if host is None:
        return workers.slots(client.name)
    # Of the calls under way in a worker as many hold a slot as there are slots; the rest are waiting for one.
    most = bulkhead.config.max_concurrent
    return float(sum(min(worker.in_flight, most) for worker in host.workers))


def _bounded(services: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """As many as may be, and the rest in one: the types of messages are whatever somebody has put in."""
    most = MOST // len(_STATUSES)
    if len(services) <= most:
        return services
    ordered = list(services.items())
    rest = [numbers for _, numbers in ordered[most - 1 :]]
    other = {status: sum(numbers.get(status, 0) for numbers in rest) for status in _STATUSES}
    return dict(ordered[: most - 1]) | {OTHER: other}
