"""Values that belong to one worker, where several are asked as one (multiprocess mode).

What the workers of a host share (circuits with a store, levels with notes, dead letters in a file) is looked
up by whichever of them is scraped. What they do not share each of them writes down when it changes, in files
of prometheus_client; of these count the ones whose process lives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from service_utils.degradation import DegradationLevel
from service_utils.events import (
    AttemptStarted,
    CallFinished,
    CircuitChanged,
    CircuitState,
    DegradationChanged,
    Event,
    HealthChecked,
)
from service_utils.integrations.prometheus import names
from service_utils.integrations.prometheus.family import Family
from service_utils.integrations.prometheus.names import Spec

__all__ = ["BY_SEVERITY", "HEALTH", "OfAllWorkers", "WorkerValues", "read_files"]

BY_SEVERITY = (
    CircuitState.CLOSED,
    CircuitState.DISABLED,
    CircuitState.HALF_OPEN,
    CircuitState.OPEN,
    CircuitState.FORCED_OPEN,
)
"""The states of a circuit, the worst last."""

HEALTH = {"healthy": 1.0, "degraded": 0.5, "unhealthy": 0.0}

_SEVERITY = Spec(name="circuit_breaker_severity", help="The state of a worker's circuit as a number")
_LEVEL = Spec(name="system_degradation_level", help=names.DEGRADATION_LEVEL.help, labels=("name",))
_LIVE_GAUGE = re.compile(r"gauge_live[a-z]+_(\d+)\.db")


def _gauge(spec: Spec, mode: Any) -> Family[Gauge]:
    return Family(spec, Gauge(spec.name, spec.help, spec.labels, registry=None, multiprocess_mode=mode))


class WorkerValues:
    """Writes down what this worker does not share with the others. Not for several threads at once."""

    def __init__(self) -> None:
        self._severity = _gauge(_SEVERITY, "livemax")
        self._in_flight = _gauge(names.BULKHEAD_IN_FLIGHT, "livesum")
        self._level = _gauge(_LEVEL, "livemax")
        self._health = _gauge(names.HEALTH_STATUS, "livemostrecent")
        self._in_slots: dict[str, int] = {}  # by client

    def renew(self) -> None:
        """Begin in a forked child, where no call is under way."""
        self._in_slots = {}

    def __call__(self, event: Event) -> None:
        """Write down what it changes, if anything. An ``AttemptStarted`` means that a slot is taken."""
        if isinstance(event, AttemptStarted):
            self._set_slots(event.name, 1)
        elif isinstance(event, CallFinished):
            if event.record.attempts and self._in_slots.get(event.name):
                self._set_slots(event.name, -1)
        elif isinstance(event, CircuitChanged):
            self.circuit_is(event.name, event.to_state)
        elif isinstance(event, DegradationChanged):
            self._level.of(event.name).set(DegradationLevel.parse(event.to_level))
        elif isinstance(event, HealthChecked):
            self._health.of(event.check).set(HEALTH[event.status])

    def circuit_is(self, name: str, state: CircuitState) -> None:
        """Write down the state of a circuit."""
        self._severity.of(name).set(BY_SEVERITY.index(state))

    def _set_slots(self, name: str, more: int) -> None:
        self._in_slots[name] = slots = self._in_slots.get(name, 0) + more
        self._in_flight.of(name).set(slots)


class OfAllWorkers:
    """What the living workers have written down, put together.

    Args:
        metrics: All metrics of the files, by name; those that are read here are taken out.
    """

    def __init__(self, metrics: dict[str, Metric]) -> None:
        self._severities = _values(metrics.pop(_SEVERITY.name, None), "service")
        self._slots = _values(metrics.pop(names.BULKHEAD_IN_FLIGHT.name, None), "service")
        self._levels = _values(metrics.pop(_LEVEL.name, None), "name")
        self.health: Mapping[str, float] = _values(metrics.pop(names.HEALTH_STATUS.name, None), "check")

    def worst_state(self, name: str) -> CircuitState:
        """The most severe state that a circuit has in one of them."""
        return BY_SEVERITY[int(self._severities.get(name, 0))]

    def slots(self, name: str) -> float:
        """How many slots of a client's bulkheads are taken in all of them."""
        return self._slots.get(name, 0.0)

    def worst_level(self, name: str) -> int:
        """The worst level of degradation in one of them."""
        return int(self._levels.get(name, 0))


def _values(metric: Metric | None, label: str) -> dict[str, float]:
    return {} if metric is None else {each.labels[label]: each.value for each in metric.samples}


def read_files(folder: Path) -> dict[str, Metric]:
    """What all processes have written into a folder of prometheus_client: the sums, and live values."""
    files = [str(each) for each in _usable(folder.glob("*.db"))]
    merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return {each.name: each for each in merged}


def _usable(files: Iterable[Path]) -> Iterable[Path]:
    """All but those of processes that were killed before they wrote anything, or whose values died with them.

    gunicorn tells of a dead worker (see :mod:`service_utils.integrations.prometheus.gunicorn`), but somewhat
    later, and not where nobody has configured it.
    """
    for file in files:
        of_living = _LIVE_GAUGE.fullmatch(file.name)
        if of_living is not None and not _lives(int(of_living[1])):
            continue
        try:
            written = file.stat().st_size > 0
        except FileNotFoundError:  # taken away this very moment
            continue
        if written:
            yield file


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
