"""The registry: every client and breaker of a process (or of one application) by its short name."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from service_utils.forks import guard
from service_utils.policies.breaker import BreakerConfig, CircuitBreaker

if TYPE_CHECKING:
    from service_utils.client import ResilientServiceClient

__all__ = [
    "ServiceRegistry",
    "default_registry",
    "get_circuit_breaker",
    "get_circuit_stats",
    "reset_all_circuits",
]

_logger = logging.getLogger("service_utils")


class ServiceRegistry:
    """Clients and stand-alone breakers by name, in the order in which they came. For any number of threads.

    A client enters the registry it is made with by itself and leaves it when it is closed. A second client of
    the same name takes the first one's place.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._clients: dict[str, ResilientServiceClient] = {}
        self._breakers: dict[str, CircuitBreaker] = {}
        guard(self)

    def add(self, client: ResilientServiceClient) -> None:
        """Enter a client under its name."""
        with self._lock:
            earlier = self._clients.get(client.name)
            self._clients[client.name] = client
        if earlier is not None and earlier.base_url != client.base_url:
            _logger.warning(
                "[%s] A second client named %r takes the place of the one for %s; give each its own name",
                client.service_name,
                client.name,
                earlier.base_url,
            )

    def remove(self, client: ResilientServiceClient) -> None:
        """Take a client out, if it is the one that stands under its name."""
        with self._lock:
            if self._clients.get(client.name) is client:
                del self._clients[client.name]

    def names(self) -> list[str]:
        """The clients' names, in the order in which they came."""
        with self._lock:
            return list(self._clients)

    def clients(self) -> list[ResilientServiceClient]:
        """The clients, in the order in which they came."""
        with self._lock:
            return list(self._clients.values())

    def get(self, name: str) -> ResilientServiceClient | None:
        """The client of that name, or None."""
        with self._lock:
            return self._clients.get(name)

    def __getitem__(self, name: str) -> ResilientServiceClient:
        client = self.get(name)
        if client is None:
            known = ", ".join(self.names()) or "none"
            raise KeyError(f"no client is named {name!r}; there are: {known}")
        return client

    def __contains__(self, name: object) -> bool:
        with self._lock:
            return name in self._clients

    def __iter__(self) -> Iterator[ResilientServiceClient]:
        return iter(self.clients())

    def __len__(self) -> int:
        with self._lock:
            return len(self._clients)

    def status(self) -> dict[str, dict[str, Any]]:
        """Each client's status by name. One that fails says so in its place and leaves the others alone."""
        statuses: dict[str, dict[str, Any]] = {}
        for client in self.clients():
            try:
                statuses[client.name] = client.get_status()
            except Exception as error:
                _logger.exception("[%s] get_status() failed", client.service_name)
                statuses[client.name] = {
                    "service": client.service_name,
                    "name": client.name,
                    "error": type(error).__name__,
                }
        return statuses

    def get_circuit_breaker(self, name: str, config: BreakerConfig | None = None) -> CircuitBreaker:
        """The breaker of that name: a client's, or one of its own, made when it is first asked for.

        Args:
            name: The name.
            config: Limits for a new one; None takes the defaults, or whatever breaker there is.

        Raises:
            ValueError: There is one already, with other limits.
        """
        with self._lock:
            client = self._clients.get(name)
            breaker = client.breaker if client is not None else self._breakers.get(name)
            if breaker is None:
                breaker = self._breakers[name] = CircuitBreaker(name, config)
        if config is not None and breaker.config != config:
            raise ValueError(
                f"config={config!r}: circuit breaker {name!r} exists already with {breaker.config!r}"
            )
        return breaker

    def circuit_breakers(self) -> dict[str, CircuitBreaker]:
        """All breakers by name; a client's goes before a stand-alone one of the same name."""
        with self._lock:
            own = dict(self._breakers)
            return {**own, **{name: client.breaker for name, client in self._clients.items()}}

    def get_circuit_stats(self) -> dict[str, dict[str, Any]]:
        """:meth:`CircuitBreaker.get_stats` of every breaker by name."""
        return {name: breaker.get_stats() for name, breaker in self.circuit_breakers().items()}

    def reset_all_circuits(self) -> None:
        """Close every circuit by hand, also that of a stand-alone breaker which a client's hides."""
        with self._lock:
            breakers = [*self._breakers.values(), *(client.breaker for client in self._clients.values())]
        for breaker in breakers:
            breaker.reset()

    def close(self) -> None:
        """Close every client; stand-alone breakers are forgotten.

        A client that cannot be closed does not keep the others open; what it raised is raised at the end.
        """
        with self._lock:
            self._breakers.clear()
        with contextlib.ExitStack() as stack:
            for client in reversed(self.clients()):
                stack.callback(client.close)

    def __repr__(self) -> str:
        return f"<ServiceRegistry {', '.join(self.names()) or 'empty'}>"


_default = ServiceRegistry()


def default_registry() -> ServiceRegistry:
    """The registry that clients enter when they are given no other."""
    return _default


def get_circuit_breaker(name: str, config: BreakerConfig | None = None) -> CircuitBreaker:
    """See :meth:`ServiceRegistry.get_circuit_breaker`, in the registry of the process."""
    return _default.get_circuit_breaker(name, config)


def get_circuit_stats() -> dict[str, dict[str, Any]]:
    """See :meth:`ServiceRegistry.get_circuit_stats`, in the registry of the process."""
    return _default.get_circuit_stats()


def reset_all_circuits() -> None:
    """See :meth:`ServiceRegistry.reset_all_circuits`, in the registry of the process."""
    _default.reset_all_circuits()
