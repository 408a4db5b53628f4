"""A dripping body that outlasted the deadline of the call was told as a time-out of one attempt."""

from __future__ import annotations

import pytest
import requests

from service_utils import DeadlineExceeded, EndReason, ResilientServiceClient, ServiceRegistry, call_of
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.testing import Answer, Drip, FaultServer

SLOW = Answer(200, "x" * 200_000, drip=Drip(20_000, every=0.05))


def test_deadline_passed_while_the_body_came_in(fault_server: FaultServer) -> None:
    """The error says that the time of the whole call is up, and the service has failed."""
    fault_server.default = SLOW
    with ResilientServiceClient(fault_server.url, timeout=0.15, registry=ServiceRegistry()) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            client.get("/x", deadline=0.1)

        assert call_of(caught.value).ended is EndReason.DEADLINE
        assert client.breaker.get_stats()["total"]["failed"] == 1


def test_service_slower_than_our_own_limit_has_failed(fault_server: FaultServer) -> None:
    """However hasty the caller, a body that our own time-out cuts is the service's failure."""
    fault_server.default = SLOW
    token = bind_context(deadline=Deadline.after(0.2))
    try:
        with ResilientServiceClient(fault_server.url, timeout=0.15, registry=ServiceRegistry()) as client:
            with pytest.raises(requests.Timeout):
                client.get("/x")

            assert client.breaker.get_stats()["total"]["failed"] == 1
    finally:
        unbind_context(token)
