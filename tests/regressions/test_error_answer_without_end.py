"""A hook that called raise_for_status had the whole error answer read, however long it was."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
import requests
from requests.adapters import BaseAdapter

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import FakeClock, FaultServer
from service_utils.testing.replies import Answer


def test_an_error_answer_that_unpacks_to_a_flood(fault_server: FaultServer) -> None:
    """max_response_bytes holds for answers that a hook raises, too."""
    bomb = gzip.compress(bytes(64 * 2**20))
    fault_server.default = Answer(404, bomb, {"Content-Encoding": "gzip"})
    client = ResilientServiceClient(
        fault_server.url, max_response_bytes=2**20, clock=FakeClock(), registry=ServiceRegistry()
    )

    tracemalloc.start()
    try:
        with pytest.raises(requests.HTTPError):
            client.get("/a", hooks={"response": lambda response, **_: response.raise_for_status()})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 16 * 2**20


class Bodiless(BaseAdapter):
    def send(self, request: requests.PreparedRequest, **settings: object) -> requests.Response:  # type: ignore[override]
        response = requests.Response()
        response.status_code, response.request = 204, request
        return response

    def close(self) -> None:
        pass


def test_an_adapter_whose_answer_has_no_body_at_all() -> None:
    """An answer without a raw body, as simple adapters make them, is an empty one."""
    session = requests.Session()
    session.mount("http://", Bodiless())
    client = ResilientServiceClient(
        "http://service", session=session, clock=FakeClock(), registry=ServiceRegistry()
    )

    assert not client.get("/a").content
