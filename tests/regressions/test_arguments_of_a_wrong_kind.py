"""Arguments of a wrong kind were found out deep inside, by errors that named neither them nor the call."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import FakeClock, FaultServer


@pytest.mark.parametrize("name", ["path_params", "headers", "hooks", "proxies", "auth"])
def test_of_a_call(fault_server: FaultServer, name: str) -> None:
    """The error names the argument, before anything is sent."""
    client = ResilientServiceClient(fault_server.url, clock=FakeClock(), registry=ServiceRegistry())

    with pytest.raises(TypeError, match=f"^{name}.* type int"):
        client.post("/a", **{name: 5})

    assert fault_server.requests == []


def test_auth_of_a_client() -> None:
    """A password where user and password belong is refused when the client is made, and not shown."""
    arguments: dict[str, Any] = {"auth": "s3cret", "registry": ServiceRegistry()}

    with pytest.raises(TypeError, match=r"^auth of type str: must be \(user, password\) or a callable$"):
        ResilientServiceClient("http://service", **arguments)
