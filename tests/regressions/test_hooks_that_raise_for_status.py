"""A session whose hook calls raise_for_status had its 404s retried and counted as failures."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from service_utils import ResilientServiceClient, ServiceRegistry, call_of
from service_utils.testing import FakeClock, FaultServer
from service_utils.testing.replies import Answer


def raise_for_status(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    response.raise_for_status()


@pytest.mark.parametrize("of_session", [True, False])
def test_a_404_raised_by_a_hook(fault_server: FaultServer, of_session: bool) -> None:
    """A 404 is an answer, whoever raises it: one attempt, a healthy service, and its status in the error."""
    fault_server.default = Answer(404, "no such page")
    session = requests.Session()
    session.hooks["response"] = [raise_for_status] if of_session else []
    hooks = {} if of_session else {"hooks": {"response": raise_for_status}}
    client = ResilientServiceClient(
        fault_server.url, "Pages", session=session, clock=FakeClock(), registry=ServiceRegistry()
    )

    with pytest.raises(
        requests.HTTPError, match="Pages: GET /a failed after 1 attempt: status 404"
    ) as failure:
        client.get("/a", **hooks)

    assert failure.value.response is not None
    assert failure.value.response.text == "no such page"
    assert len(call_of(failure.value).attempts) == 1
    assert client.get_status()["requests"]["succeeded"] == 1
