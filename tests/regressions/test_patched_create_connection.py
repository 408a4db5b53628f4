"""A function that somebody put in place of urllib3's ``create_connection`` was told no names."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from urllib3.util import connection

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import FaultServer


def test_names_that_only_it_knows(fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends connections elsewhere, as is done for names that no resolver knows, is asked by name."""
    asked = []
    stock = connection.create_connection

    def pinned(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        asked.append(address[0])
        return stock(("127.0.0.1", address[1]), *args, **kwargs)

    monkeypatch.setattr(connection, "create_connection", pinned)
    url = fault_server.url.replace("127.0.0.1", "service.invalid")
    client = ResilientServiceClient(url, max_retries=1, registry=ServiceRegistry())

    assert client.get("/a").status_code == 200
    assert asked == ["service.invalid"]
