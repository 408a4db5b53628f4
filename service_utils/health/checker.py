"""HealthChecker: all checks together, each with its own time-out, their results kept for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from service_utils.clock import Clock
from service_utils.events import Listener
from service_utils.forks import guard
from service_utils.health.checks import Check, service
from service_utils.health.result import CheckResult, HealthReport, HealthStatus, Readiness
from service_utils.health.running import Registered
from service_utils.health.telling import Teller
from service_utils.policies.checks import (
    checked_clock,
    checked_label,
    checked_listeners,
    require_blocking,
    require_count,
    require_seconds,
)

if TYPE_CHECKING:
    from service_utils.client import ResilientServiceClient
    from service_utils.registry import ServiceRegistry

__all__ = ["HealthChecker"]

_OF_THE_TIMEOUT = 0.9  # how much of it a service may use, so that the client can still say what was wrong


class HealthChecker:
    """Runs registered checks and remembers what they found.

    Checks run side by side, each in a thread of its own; a result is good for ``cache_seconds``, and however
    many threads ask meanwhile, each check runs once. Who asks waits for the slowest check, and for none
    longer than its time-out. A check that hangs costs that once: until its thread comes back no other is
    begun.

    All methods may be called from any thread. No lock is held while checks or listeners run. A forked child
    keeps the results and begins runs of its own.

    Args:
        cache_seconds: How long a result is good; 0 for a run each time somebody asks.
        timeout: Real seconds of a check that has no time-out of its own.
        history_size: How many results of each check are remembered.
        starting: Whether it is unready until :meth:`started` is called.
        listeners: Told of each :class:`~service_utils.events.HealthChecked`, besides those of the process.
        clock: Where the time of results and of the cache comes from; time-outs are real ones.
        name: The ``name`` and ``service`` of events.

    A change of a check's status is logged: it is what operators look for when a pod is unready.

    Raises:
        TypeError: An argument is of a wrong type.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        cache_seconds: float = 30.0,
        timeout: float = 3.0,
        history_size: int = 20,
        starting: bool = False,
        listeners: Iterable[Listener] = (),
        clock: Clock | None = None,
        name: str = "health",
    ) -> None:
        require_seconds("cache_seconds", cache_seconds)
        require_seconds("timeout", timeout, zero=False)
        require_count("history_size", history_size)
        self.name, _ = checked_label(name, None)
        self._cache_seconds = cache_seconds
        self._timeout = timeout
        self._history_size = history_size
        self._clock = checked_clock(clock)
        self._tell = Teller(self.name, checked_listeners(listeners), self._clock)
        self._checks: dict[str, Registered] = {}  # replaced, never changed
        self._followed: tuple[tuple[ServiceRegistry, float | None], ...] = ()
        self._starting = starting
        self._draining = False
        self._lock = threading.RLock()
        guard(self)

    # -- registering --------------------------------------------------------------------------------

    def register(
        self, name: str, check: Check, *, timeout: float | None = None, required_for_ready: bool = False
    ) -> None:
        """Have a check run with the others, in place of an earlier one of the same name.

        Args:
            name: Such as ``database``.
            check: Called without arguments. None, True: healthy. False, or anything it raises: unhealthy.
                Or a :class:`HealthStatus`, or a :class:`Finding`.
            timeout: Real seconds it may take; None for the checker's.
            required_for_ready: Whether this process is unready while it is unhealthy. That is for what is its
                own: its database, its disk. Another service that is away must not take all pods out.

        Raises:
            TypeError: ``check`` cannot be called, or does its work after it has returned.
            ValueError: ``name`` is no name, or ``timeout`` is not above 0.
        """
        registered = self._made(name, check, timeout, required_for_ready=required_for_ready)
        with self._lock:
            self._checks = {**self._checks, name: registered}

    def unregister(self, name: str) -> None:
        """Forget a check and its results; nothing happens when there is none. A run under way ends unheard.

        A client of a registry that is followed comes back by itself.
        """
        with self._lock:
            self._checks = {key: each for key, each in self._checks.items() if key != name}

    def register_client(
        self,
        client: ResilientServiceClient,
        *,
        timeout: float | None = None,
        required_for_ready: bool = False,
    ) -> None:
        """Ask a client's ``health_path``, under the client's name; see :func:`service_utils.health.service`.

        Raises:
            ValueError: The client has no ``health_path``, or ``timeout`` is not above 0.
        """
        if client.health_path is None:
            raise ValueError(f"client={client!r}: has no health_path to ask")
        registered = self._made_for(client, timeout, required_for_ready=required_for_ready)
        with self._lock:
            self._checks = {**self._checks, client.name: registered}

    def register_clients(self, registry: ServiceRegistry, *, timeout: float | None = None) -> None:
        """Ask the ``health_path`` of every client of a registry that has one.

        The registry is followed: clients that enter it later are asked, too, and closed ones no more. A check
        that was registered by the name of a client goes before it.

        Raises:
            ValueError: ``timeout`` is not above 0.
        """
        if timeout is not None:
            require_seconds("timeout", timeout, zero=False)
        with self._lock:
            self._followed = (*self._followed, (registry, timeout))
        self._current()

    def names(self) -> list[str]:
        """The registered checks."""
        return list(self._current())

    def _made(
        self,
        name: str,
        check: Check,
        timeout: float | None,
        *,
        required_for_ready: bool = False,
        follows: object | None = None,
    ) -> Registered:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"name={name!r}: must be a printable name")
        require_blocking(check, "a health check")
        if not isinstance(required_for_ready, bool):
            raise TypeError(f"required_for_ready={required_for_ready!r}: must be True or False")
        if timeout is not None:
            require_seconds("timeout", timeout, zero=False)
        return Registered(
            name,
            check,
            self._timeout if timeout is None else timeout,
            required_for_ready=required_for_ready,
            clock=self._clock,
            history_size=self._history_size,
            told=self._tell,
            follows=follows,
        )

    def _made_for(
        self,
        client: ResilientServiceClient,
        timeout: float | None,
        *,
        required_for_ready: bool = False,
        follows: object | None = None,
    ) -> Registered:
        seconds = self._timeout if timeout is None else timeout
        check = service(client, seconds * _OF_THE_TIMEOUT)
        return self._made(client.name, check, timeout, required_for_ready=required_for_ready, follows=follows)

    def _current(self) -> dict[str, Registered]:
        """The checks, those of followed registries as their clients are now."""
        clients = {
            client.name: (client, timeout)
            for registry, timeout in self._followed
            for client in registry
            if client.health_path is not None
        }
        with self._lock:
            checks = {
                name: each
                for name, each in self._checks.items()
                if each.follows is None or (name in clients and each.follows is clients[name][0])
            }
            for name, (client, timeout) in clients.items():
                if name not in checks:
                    checks[name] = self._made_for(client, timeout, follows=client)
            self._checks = checks
            return checks

    # -- asking -------------------------------------------------------------------------------------

    def check_all(self) -> HealthReport:
        """The results of all checks: fresh ones, or found out now."""
        return self._report(self._current().values())

    def check(self, name: str) -> CheckResult:
        """The result of one check.

        Raises:
            KeyError: There is no such check.
        """
        registered = self._registered(name)
        return self._report([registered]).checks[name]

    def last(self) -> HealthReport:
        """The last results, however old; nothing is run. Checks that never ran are left out."""
        found = {name: each.last for name, each in self._current().items()}
        return HealthReport(checks={name: last for name, last in found.items() if last is not None})

    def history(self, name: str) -> list[CheckResult]:
        """The last results of a check, oldest first.

        Raises:
            KeyError: There is no such check.
        """
        return self._registered(name).history()

    def histories(self) -> dict[str, list[CheckResult]]:
        """The last results of each check by its name, oldest first."""
        return {name: each.history() for name, each in self._current().items()}

    def ready(self) -> Readiness:
        """Whether this process can take requests: started, not draining, and what is its own is well."""
        if self._draining:
            return Readiness(False, ("draining",))
        if self._starting:
            return Readiness(False, ("starting",))
        report = self._report(each for each in self._checks.values() if each.required_for_ready)
        unwell = (each for each in report.checks.values() if each.status is HealthStatus.UNHEALTHY)
        reasons = tuple(f"{each.name}: {each.detail}" if each.detail else each.name for each in unwell)
        return Readiness(not reasons, reasons)

    @property
    def draining(self) -> bool:
        """Whether it was told to take no new requests."""
        return self._draining

    def drain(self) -> None:
        """Be unready from now on: this process is about to end, and finishes what it has."""
        self._draining = True

    def started(self) -> None:
        """Say that starting is over."""
        self._starting = False

    def _registered(self, name: str) -> Registered:
        checks = self._current()
        registered = checks.get(name)
        if registered is None:
            known = ", ".join(checks) or "none"
            raise KeyError(f"no health check is named {name!r}; there are: {known}")
        return registered

    def _report(self, checks: Iterable[Registered]) -> HealthReport:
        begun = [(each, each.look(self._cache_seconds)) for each in checks]
        return HealthReport(
            checks={
                each.name: found if isinstance(found, CheckResult) else each.wait(found)
                for each, found in begun
            }
        )

    def __repr__(self) -> str:
        return f"<HealthChecker {', '.join(self._checks) or 'empty'}>"
