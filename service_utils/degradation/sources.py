"""Where a monitor's snapshots come from: the circuits of a registry and the results of health checks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from service_utils.degradation.conditions import Snapshot
from service_utils.degradation.rules import DegradationRules
from service_utils.events import CircuitState
from service_utils.policies.breaker import CircuitBreaker

__all__ = ["Circuits", "HealthSource", "Sources"]

_logger = logging.getLogger("service_utils")


class Circuits(Protocol):
    """Where circuits come from: a :class:`~service_utils.registry.ServiceRegistry`, or anything like it."""

    def circuit_breakers(self) -> Mapping[str, CircuitBreaker]:
        """All breakers by the name of their service."""
        ...


class HealthSource(Protocol):
    """Where the results of health checks come from: whatever has a ``check_all()``."""

    def check_all(self) -> Any:
        """Results by name, or an object or mapping whose ``checks`` are that.

        A result is a status (``healthy``, ``degraded``, ``unhealthy``), or an object or mapping whose
        ``status`` is one.
        """
        ...


class Sources:
    """Asks both. For any number of threads.

    Args:
        registry: Where the circuits come from.
        health: Where the results come from, or None.
        rules: Whose names must be known to either; else a warning says so, once.

    Raises:
        TypeError: ``registry`` or ``health`` lacks its method.
    """

    __slots__ = ("_health", "_registry", "_results", "_rules", "unknown")

    def __init__(self, registry: Circuits, health: HealthSource | None, rules: DegradationRules) -> None:
        if not callable(getattr(registry, "circuit_breakers", None)):
            raise TypeError(f"registry={registry!r}: must be a ServiceRegistry")
        if health is not None and not callable(getattr(health, "check_all", None)):
            raise TypeError(f"health={health!r}: must have a method check_all()")
        self._registry = registry
        self._health = health
        self._rules = rules
        self._results: Mapping[str, str] = {}
        self.unknown: frozenset[str] = frozenset()

    def ask_health(self) -> None:
        """Have the checks run. While they cannot be asked their last results count; that is logged."""
        if self._health is None:
            return
        try:
            self._results = _statuses(self._health.check_all())
        except Exception:
            _logger.exception("Health cannot be asked; what it last said counts for the degradation level")

    def take_health(self, results: Mapping[str, str]) -> None:
        """Take what another process has been told, in the place of asking."""
        self._results = results

    def snapshot(self) -> Snapshot:
        """How things stand now, by the last results of health checks."""
        circuits = {name: _state_of(each) for name, each in self._registry.circuit_breakers().items()}
        snapshot = Snapshot(circuits, self._results)
        self._warn_of_unknown(snapshot)
        return snapshot

    def _warn_of_unknown(self, snapshot: Snapshot) -> None:
        """Tell of names that nobody has registered: rules that rest on them can never hold."""
        unknown = self._rules.services - snapshot.circuits.keys()
        if snapshot.health or self._health is None:
            unknown |= self._rules.checks - snapshot.health.keys()
        new, self.unknown = unknown - self.unknown, unknown
        if new:
            text = "Degradation rules name %s, but there is no such service or health check"
            _logger.warning(text, ", ".join(sorted(new)))


def _state_of(breaker: CircuitBreaker) -> CircuitState:
    """Its state, half open also where it would let the next call through."""
    state = breaker.state
    if state is CircuitState.OPEN and breaker.retry_after() is None:
        return CircuitState.HALF_OPEN
    return state


def _statuses(report: Any) -> dict[str, str]:
    checks = _member("checks", report)
    return {str(name): _word(_member("status", result)) for name, result in checks.items()}


def _member(name: str, whole: Any) -> Any:
    """The key or attribute of that name, or the thing itself where it has none."""
    return whole.get(name, whole) if isinstance(whole, Mapping) else getattr(whole, name, whole)


def _word(status: Any) -> str:
    return str(getattr(status, "value", status)).lower()
