"""Who had replaced a function before the import was taken for the original, and not called."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import pytest

from service_utils.http.transport import FastSession
from service_utils.testing import FaultServer
from tests.transport.children import run

_SCRIPT = """
    import sys
    import requests
    from urllib3 import connectionpool
    calls = []

    def watched(owner, name):
        stock = getattr(owner, name)
        def watching(*args, **kwargs):
            calls.append(name)
            return stock(*args, **kwargs)
        setattr(owner, name, watching)
        return lambda: setattr(owner, name, stock)

    {replace}
    from service_utils import ResilientServiceClient
    client = ResilientServiceClient(sys.argv[1], timeout=20)

    def calls_of(count):
        calls.clear()
        for _ in range(count):
            client.get("/a")
        return calls

    client.get("/warm")
    result = len(calls_of(3))
    restore()
    result = [result, len(calls_of(3))]
    watched(requests.Session, "send")
    result += [len(calls_of(3))]
    import json
    print(json.dumps(result))
    """


@pytest.mark.parametrize(
    "replace",
    [
        'restore = watched(requests.Session, "send")',
        'restore = watched(connectionpool.HTTPConnectionPool, "urlopen")',
    ],
)
def test_is_called(replace: str, fault_server: FaultServer) -> None:
    """Whoever instruments before the import is called for each request, and whoever comes later is, too."""
    assert run(_SCRIPT.replace("{replace}", replace), fault_server.url) == [3, 0, 3]


@pytest.fixture
def session(fault_server: FaultServer) -> Iterator[FastSession]:
    with FastSession() as session:
        for _ in range(2):
            session.get(fault_server.url)
        yield session


def test_sends_are_seen(
    session: FastSession, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever replaces ``http.client.HTTPConnection.send``, to print what is sent, sees it all."""
    seen = []
    stock = http.client.HTTPConnection.send

    def printing(self: http.client.HTTPConnection, data: Any) -> None:
        seen.append(data)
        stock(self, data)

    monkeypatch.setattr(http.client.HTTPConnection, "send", printing)
    session.post(fault_server.url, data=b"body")

    assert b"".join(seen).startswith(b"POST / ")
    assert b"".join(seen).endswith(b"body")
