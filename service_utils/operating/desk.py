"""The operator's desk: all that people on call can look at and do, in one place.

The admin API, the status page and the commands are faces of it. Whatever is done here is in the audit log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from service_utils.clock import SYSTEM, Clock
from service_utils.dead_letters import DeadLetterQueue
from service_utils.degradation import DegradationMonitor
from service_utils.health import HealthChecker
from service_utils.operating.audit import AuditLog, Operator, one_line
from service_utils.operating.errors import NotOffered, UnknownService
from service_utils.operating.history import History, MemoryHistory
from service_utils.operating.letters import LetterDesk
from service_utils.operating.overview import is_sick, overview_of
from service_utils.operating.report import report_of
from service_utils.operating.settings import settings_of
from service_utils.policies.breaker import CircuitBreaker
from service_utils.registry import ServiceRegistry

__all__ = ["OperatorDesk"]


@dataclass(frozen=True, eq=False, kw_only=True)
class OperatorDesk:
    """What operators look at and do. May be used from any thread; it holds no lock and no state of its own.

    Each act takes who does it and why, and leaves an entry in the audit log, also when it fails.

    Attributes:
        registry: The services. A function is asked each time.
        degradation: The monitor, or None where there is none.
        dead_letters: The queue of dead letters, or None.
        health: The health checks, or None.
        history: What has happened lately.
        audit: Where acts are kept.
        clock: Where the time comes from.
    """

    registry: ServiceRegistry | Callable[[], ServiceRegistry]
    degradation: DegradationMonitor | None = None
    dead_letters: DeadLetterQueue | None = None
    health: HealthChecker | None = None
    history: History = field(default_factory=MemoryHistory)
    audit: AuditLog = field(default_factory=AuditLog)
    clock: Clock = SYSTEM

    # -- looking --------------------------------------------------------------------------------------

    @property
    def services(self) -> ServiceRegistry:
        """The registry of this moment."""
        return self.registry() if callable(self.registry) else self.registry

    def circuits(self) -> dict[str, Any]:
        """All services: ``services`` by name, each as in its status, and ``open``: the names of sick ones."""
        registry = self.services
        found = registry.status()
        for name, breaker in registry.circuit_breakers().items():
            if name not in found:
                found[name] = {"service": name, **breaker.get_stats()}
        sick = [name for name, status in found.items() if is_sick(status)]
        return {"services": found, "open": sick}

    def circuit(self, name: str) -> dict[str, Any]:
        """One service's status.

        Raises:
            UnknownService: There is none of that name.
        """
        breaker = self._breaker(name)
        client = self.services.get(name)
        return client.get_status() if client is not None else {"service": name, **breaker.get_stats()}

    def level(self) -> dict[str, Any]:
        """The level of degradation, why, and how it came there.

        Raises:
            NotOffered: The application has no monitor.
        """
        return self._monitor().get_status()

    def config(self) -> dict[str, Any]:
        """How the services are set up: limits, times and numbers, without addresses' passwords and tokens."""
        return settings_of(self.services, self.degradation)

    def changes(self, limit: int = 100, since: float = 0.0) -> list[dict[str, Any]]:
        """The last changes of state of all services and of the level, latest first."""
        return [each.as_dict() for each in self.history.changes(limit, since)]

    def overview(self) -> dict[str, Any]:
        """What people see first; see :func:`~service_utils.operating.overview.overview_of`."""
        letters = None if self.dead_letters is None else self.dead_letters.stats()
        level = None if self.degradation is None else self.degradation.get_status()
        return overview_of(
            self.circuits()["services"], self.history, self.clock, level=level, letters=letters
        )

    def report(self) -> dict[str, Any]:
        """How reliable the services have been; see :func:`~service_utils.operating.report.report_of`."""
        found = report_of(self.circuits()["services"], self.history, self.clock)
        if self.degradation is not None:
            found["degradation"] = self.degradation.get_status()
        if self.dead_letters is not None:
            found["dead_letters"] = self.dead_letters.stats()
        return {**found, "actions": self.audit.entries(50)}

    # -- acting on circuits ---------------------------------------------------------------------------

    def reset(self, name: str, *, reason: str, by: Operator) -> dict[str, Any]:
        """Close a circuit by hand, and end the pause that its service has asked for. Returns its status.

        Raises:
            UnknownService: There is none of that name.
            ValueError: There is no reason.
        """
        why = one_line("reason", reason)
        with self._audited(by, "circuit.reset", name, why):
            breaker = self._breaker(name)
            client = self.services.get(name)
            if client is not None:
                client.reset()
            else:
                breaker.reset()
        return self.circuit(name)

    def force_open(self, name: str, *, reason: str, by: Operator) -> dict[str, Any]:
        """Open a circuit by hand, until it is reset. Returns its status.

        Raises:
            As :meth:`reset`.
        """
        why = one_line("reason", reason)
        with self._audited(by, "circuit.force_open", name, why):
            self._breaker(name).force_open(why)
        return self.circuit(name)

    def disable(self, name: str, *, reason: str, by: Operator) -> dict[str, Any]:
        """Let all calls through whatever becomes of them, until the circuit is reset. Returns its status.

        Raises:
            As :meth:`reset`.
        """
        why = one_line("reason", reason)
        with self._audited(by, "circuit.disable", name, why):
            self._breaker(name).disable(why)
        return self.circuit(name)

    def probe(self, name: str, *, by: Operator) -> dict[str, Any]:
        """Ask a service's health path now, past its circuit, which learns nothing of it.

        Returns:
            ``name``, ``state``, ``healthy``, ``status`` (of the answer, or None), ``seconds`` and ``error``.

        Raises:
            UnknownService: There is no client of that name.
            NotOffered: It has no health path.
        """
        client = self.services.get(name)
        if client is None:
            raise UnknownService(f"no client is named {name!r}; there are: {self._known()}")
        if client.health_path is None:
            raise NotOffered(f"{name} has no health_path to be probed at")
        found: dict[str, Any] = {"name": name, "state": client.breaker.state.value, "error": None}
        begun = self.clock.monotonic()
        with self._audited(by, "service.probe", name, "asked for"):
            try:
                response = client.probe()
            except Exception as error:  # of any kind: whatever it is, it is what the operator wants to know
                answer = getattr(error, "response", None)
                found.update(
                    healthy=False,
                    status=None if answer is None else answer.status_code,
                    error=f"{type(error).__name__}: {error}"[:300],
                )
            else:
                found.update(healthy=True, status=response.status_code)
        return {**found, "seconds": round(self.clock.monotonic() - begun, 4)}

    # -- acting on the level --------------------------------------------------------------------------

    def set_level(
        self, level: str, *, reason: str, by: Operator, expires_in: float | None = 3600.0
    ) -> dict[str, Any]:
        """Set the level of degradation by hand. Returns :meth:`level`.

        Args:
            level: Its name.
            reason: Why.
            by: Who.
            expires_in: Seconds until the rules decide again; None: until it is cleared.

        Raises:
            NotOffered: The application has no monitor.
            ValueError: There is no such level, no reason, or ``expires_in`` is not above 0.
        """
        why = one_line("reason", reason)
        details = {"expires_in": expires_in}
        with self._audited(by, "degradation.set", level, why, details):
            self._monitor().override(level, reason=why, author=by.name, expires_in=expires_in)
        return self.level()

    def clear_level(self, *, by: Operator, reason: str = "cleared") -> dict[str, Any]:
        """Let the rules decide again. Returns :meth:`level`.

        Raises:
            NotOffered: The application has no monitor.
        """
        why = one_line("reason", reason)
        details: dict[str, Any] = {}
        with self._audited(by, "degradation.clear", "", why, details):
            details["was_set"] = self._monitor().clear_override(author=by.name)
        return self.level()

    # -- acting on dead letters -----------------------------------------------------------------------

    @property
    def letters(self) -> LetterDesk:
        """The dead letters.

        Raises:
            NotOffered: The application keeps none.
        """
        if self.dead_letters is None:
            raise NotOffered("this application keeps no dead letters")
        return LetterDesk(self.dead_letters, self._audited)

    # -- inside ---------------------------------------------------------------------------------------

    def _breaker(self, name: str) -> CircuitBreaker:
        breaker = self.services.circuit_breakers().get(name)
        if breaker is None:
            raise UnknownService(f"no service is named {name!r}; there are: {self._known()}")
        return breaker

    def _known(self) -> str:
        return ", ".join(self.services.circuit_breakers()) or "none"

    def _monitor(self) -> DegradationMonitor:
        if self.degradation is None:
            raise NotOffered("this application has no levels of degradation")
        return self.degradation

    @contextmanager
    def _audited(
        self, by: Operator, action: str, target: str, why: str, details: dict[str, Any] | None = None
    ) -> Iterator[None]:
        """An act: whatever becomes of it is in the audit log before anybody hears of it."""
        outcome = "done"
        try:
            yield
        except BaseException as error:
            outcome = f"failed: {type(error).__name__}"
            raise
        finally:
            self.audit.record(by, action, target, why=why, outcome=outcome, details=details)
