"""pytest fixtures; the only module of the package that needs pytest.

Use them by ``pytest_plugins = ["service_utils.testing.fixtures"]`` in the top ``conftest.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service_utils.testing.clock import FakeClock
from service_utils.testing.proxy import FaultProxy
from service_utils.testing.server import FaultServer

__all__ = ["fake_clock", "fault_proxy", "fault_server"]


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that moves only when the test says so."""
    return FakeClock()


@pytest.fixture
def fault_server() -> Iterator[FaultServer]:
    """A service that fails the way the test tells it to; closed after the test."""
    with FaultServer() as server:
        yield server


@pytest.fixture
def fault_proxy(fault_server: FaultServer) -> Iterator[FaultProxy]:
    """A network that fails the way the test tells it to; leads to ``fault_server`` unless set elsewhere."""
    with FaultProxy(("127.0.0.1", fault_server.port)) as proxy:
        yield proxy
