"""A memoryview as the body of a request was sent as a row of numbers, and failed."""

from __future__ import annotations

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import FakeClock, FaultServer
from service_utils.testing.replies import Answer


def test_a_memoryview_is_sent_and_sent_again(fault_server: FaultServer) -> None:
    """A memoryview is sent as its bytes, in each attempt."""
    fault_server.script(Answer(503))
    client = ResilientServiceClient(fault_server.url, clock=FakeClock(), registry=ServiceRegistry())

    client.post("/a", data=memoryview(b"bytes"))

    assert [request.body for request in fault_server.requests] == [b"bytes", b"bytes"]
