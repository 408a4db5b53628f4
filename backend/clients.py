"""The clients of all services the backend calls: built once per app, each with its own circuit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.config import MAX_CONCURRENT, MAX_WAIT, SERVICES, LLMSettings, ServiceDefaults, Settings
from service_utils import BulkheadConfig, ResilientServiceClient, ServiceRegistry
from service_utils.dead_letters import DeadLetterQueue
from service_utils.http.tokens import BearerToken

__all__ = ["Clients", "LLMClient"]

_LLM_ATTEMPTS = 2
_LLM_TIMEOUT = 12.0
_LLM_DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class LLMClient:
    """A client of an OpenAI-compatible server, and the model to ask it for."""

    client: ResilientServiceClient
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """The clients of one app, and the registry they stand in."""

    registry: ServiceRegistry
    chroma: ResilientServiceClient
    filesystem: ResilientServiceClient
    billing: ResilientServiceClient
    git: ResilientServiceClient
    llms: tuple[LLMClient, ...]

    @classmethod
    def build(
        cls,
        settings: Settings,
        config: Mapping[str, Any] | None = None,
        *,
        registry: ServiceRegistry | None = None,
        dead_letters: DeadLetterQueue | None = None,
    ) -> Clients:
        """Build them from the declared table, the environment and ``config``, which wins.

        Args:
            settings: The backend's own settings.
            config: See :func:`backend.app.create_app`.
            registry: Where they stand; None for a new one.
            dead_letters: Where calls are kept for later, if anywhere.

        Raises:
            ValueError: A setting of a client is no good; the message names the variable.
        """
        environ = {**os.environ, **{name: str(value) for name, value in (config or {}).items()}}
        registry = ServiceRegistry() if registry is None else registry
        services = {
            service.name: _service(
                service,
                environ,
                registry=registry,
                bulkhead=_places(service.max_concurrent, service.max_wait, settings),
                dead_letters=dead_letters,
            )
            for service in SERVICES
        }
        places = _places(MAX_CONCURRENT, MAX_WAIT, settings)
        llms = tuple(LLMClient(_llm(llm, environ, registry, places), llm.model) for llm in settings.llms)
        return cls(registry=registry, llms=llms, **services)


def _places(max_concurrent: int, max_wait: float, settings: Settings) -> BulkheadConfig:
    """This process's share of the places that all workers have together: one at least."""
    return BulkheadConfig(max_concurrent=max(1, max_concurrent // settings.workers), max_wait=max_wait)


def _service(service: ServiceDefaults, environ: Mapping[str, str], **options: Any) -> ResilientServiceClient:
    return ResilientServiceClient.from_env(
        service.prefix,
        default_url=service.default_url,
        service_name=service.title,
        environ=environ,
        max_retries=service.max_retries,
        timeout=service.timeout,
        deadline=service.deadline,
        failure_threshold=service.failure_threshold,
        recovery_timeout=service.recovery_timeout,
        health_path="/health",
        probe=True,
        **options,
    )


def _llm(
    llm: LLMSettings, environ: Mapping[str, str], registry: ServiceRegistry, places: BulkheadConfig
) -> ResilientServiceClient:
    """None of our own credentials go there: only the key that was given for it, if any."""
    return ResilientServiceClient.from_env(
        llm.server.prefix,
        default_url=llm.url,
        service_name=llm.server.title,
        environ=environ,
        registry=registry,
        max_retries=_LLM_ATTEMPTS,
        timeout=_LLM_TIMEOUT,
        deadline=_LLM_DEADLINE,
        bulkhead=places,
        token_provider=None if llm.api_key is None else BearerToken(llm.api_key),
    )
