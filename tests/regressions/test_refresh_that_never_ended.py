"""A call without a deadline waited for ever for another thread's refresh of the credentials."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import Answer, FaultServer
from tests.side_by_side import PATIENCE


class Stuck:
    """Credentials whose refresh does not end before the test does."""

    def __init__(self) -> None:
        self.begun, self.over = threading.Event(), threading.Event()

    def headers(self, name: str) -> dict[str, str]:
        return {"X-Token": "t"}

    def refresh(self, name: str) -> bool:
        self.begun.set()
        self.over.wait(PATIENCE)
        return False


@pytest.fixture
def provider() -> Iterator[Stuck]:
    provider = Stuck()
    yield provider
    provider.over.set()


def test_waiting_for_a_refresh_ends_with_the_time_out(provider: Stuck, fault_server: FaultServer) -> None:
    """Who has waited as long as for an answer gets the 401 there is."""
    fault_server.default = Answer(401)
    with ResilientServiceClient(
        fault_server.url, token_provider=provider, timeout=0.2, registry=ServiceRegistry()
    ) as client:
        thread = threading.Thread(target=lambda: client.get("/first"), daemon=True)
        thread.start()
        assert provider.begun.wait(PATIENCE)
        assert client.get("/second").status_code == 401
        provider.over.set()
        thread.join(PATIENCE)
