"""How services are set up, as operators may see it: no token, no password, no header."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from service_utils.degradation import DegradationMonitor
from service_utils.profiles import current_profile
from service_utils.registry import ServiceRegistry

if TYPE_CHECKING:
    from service_utils.client import ResilientServiceClient

__all__ = ["settings_of"]


def settings_of(registry: ServiceRegistry, degradation: DegradationMonitor | None) -> dict[str, Any]:
    """The profile, and by service its limits, times and numbers. JSON-ready."""
    clients = {each.name: _of_client(each) for each in registry.clients()}
    for name, breaker in registry.circuit_breakers().items():
        clients.setdefault(name, {"service": name, "breaker": _plain(breaker.config)})
    found: dict[str, Any] = {"profile": current_profile().name, "services": clients}
    if degradation is not None:
        found["degradation"] = {
            "interval": degradation.interval,
            "rules": [
                f"{each.level.label}: {each.reason or repr(each.when)}" for each in degradation.rules.rules
            ],
        }
    return found


def _of_client(client: ResilientServiceClient) -> dict[str, Any]:
    bulkhead, limiter = client.bulkhead, client.rate_limiter
    return {
        "service": client.service_name,
        "base_url": client.base_url,
        "timeout": client.timeout,
        "deadline": client.deadline,
        "health_path": client.health_path,
        "retry": _plain(client.retry),
        "breaker": _plain(client.breaker.config),
        "bulkhead": None if bulkhead is None else _plain(bulkhead.config),
        "rate_limit": None if limiter is None else _plain(limiter.config),
        "shared": client.store is not None,
    }


def _plain(config: Any) -> dict[str, Any]:
    return {name: _shown(getattr(config, name)) for name in _public(config)}


def _public(config: Any) -> list[str]:
    return [each.name for each in dataclasses.fields(config) if not each.name.startswith("_")]


def _shown(value: Any) -> Any:
    """Numbers, words and lists as they are; what is code by its name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__, **_plain(value)}
    if isinstance(value, Mapping):
        return {str(key): _shown(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_shown(each) for each in value)
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    return getattr(value, "__qualname__", type(value).__name__)
