"""reset_all_circuits() missed hidden breakers; one client that failed to close kept the others open."""

from __future__ import annotations

import pytest

from service_utils.client import ResilientServiceClient
from service_utils.registry import ServiceRegistry

NOWHERE = "http://127.0.0.1:9"


def test_breaker_hidden_by_a_client_is_reset_too() -> None:
    """reset_all_circuits() closes every circuit that the registry has ever given out."""
    registry = ServiceRegistry()
    early = registry.get_circuit_breaker("chroma")
    with ResilientServiceClient(NOWHERE, name="chroma", registry=registry):
        early.force_open("maintenance")

        registry.reset_all_circuits()

    assert early.state == "closed"


def test_client_that_fails_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """close() closes all clients, and then says what went wrong with one."""
    registry = ServiceRegistry()
    bad = ResilientServiceClient(NOWHERE, name="bad", registry=registry)
    good = ResilientServiceClient(NOWHERE, name="good", registry=registry)

    def fail() -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(bad, "close", fail)
        with pytest.raises(OSError, match="no"):
            registry.close()

    assert registry.clients() == [bad]
    assert good.name not in registry
    registry.close()
