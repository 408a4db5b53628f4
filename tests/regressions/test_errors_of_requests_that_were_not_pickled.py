"""ConnectionError and ReadTimeout out of a client could not be pickled, unlike those of requests itself."""

from __future__ import annotations

import pickle

import pytest
import requests

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import FaultServer, Reply, blackhole, close_connection


@pytest.mark.parametrize("reply", [blackhole(), close_connection()], ids=["time-out", "closed"])
def test_error_survives_pickle(reply: Reply, fault_server: FaultServer) -> None:
    """An error can be handed to another process, its record with it."""
    fault_server.default = reply
    with (
        ResilientServiceClient(
            fault_server.url, max_retries=1, timeout=0.05, registry=ServiceRegistry()
        ) as client,
        pytest.raises(requests.RequestException) as caught,
    ):
        client.get("/x")

    twin = pickle.loads(pickle.dumps(caught.value))
    assert (type(twin), str(twin), twin.call) == (type(caught.value), str(caught.value), caught.value.call)
