"""What the client's tests share: clients with a registry and a clock of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service_utils import ResilientServiceClient, RetryPolicy, ServiceRegistry, fixed
from service_utils.testing import FakeClock, FaultServer

MakeClient = Callable[..., ResilientServiceClient]


@pytest.fixture
def registry() -> Iterator[ServiceRegistry]:
    registry = ServiceRegistry()
    yield registry
    registry.close()


@pytest.fixture
def make_client(registry: ServiceRegistry, fake_clock: FakeClock) -> MakeClient:
    """Makes clients that wait by a fake clock and appear in no other test's registry."""

    def make(base_url: str = "http://127.0.0.1:9", service_name: str = "Service", **options: Any) -> Any:
        options.setdefault("clock", fake_clock)
        options.setdefault("registry", registry)
        options.setdefault("timeout", 5)
        return ResilientServiceClient(base_url, service_name, **options)

    return make


@pytest.fixture
def client(make_client: MakeClient, fault_server: FaultServer) -> ResilientServiceClient:
    """Three attempts at the fault server, one second apart by a fake clock."""
    return make_client(fault_server.url, retry=RetryPolicy(backoff=fixed(1.0), jitter=0.0))
