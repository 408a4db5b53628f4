"""Adapters lost settings of theirs in a forked child, or kept pools whose locks the parent held."""

from __future__ import annotations

import pickle
import ssl
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.http.transport import FastSession
from service_utils.testing import FaultServer
from tests.forked import in_child
from tests.transport.certificates import Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def test_pool_manager_with_a_context(certificates: Certificates) -> None:
    """A context that the user's adapter was given verifies services in a child, too."""
    adapter = HTTPAdapter()
    context = ssl.create_default_context(cafile=certificates.authority)
    adapter.init_poolmanager(4, 4, ssl_context=context)
    with FaultServer(tls=certificates.server()) as server, requests.Session() as session:
        session.mount("https://", adapter)
        client = ResilientServiceClient(
            server.url, max_retries=1, session=session, registry=ServiceRegistry()
        )

        assert client.get("/a").status_code == 200
        assert in_child(lambda: client.get("/b").status_code) == 200
        assert client.get("/c").status_code == 200
        assert [each.connection for each in server.requests] == [1, 2, 1]


def test_session_that_was_pickled(fault_server: FaultServer) -> None:
    """A session that came out of a pickle has pools of its own in a child."""
    with pickle.loads(pickle.dumps(FastSession())) as session:
        session.get(fault_server.url)
        pools = session.get_adapter(fault_server.url).poolmanager.pools

        assert not in_child(lambda: session.get_adapter(fault_server.url).poolmanager.pools is pools)
