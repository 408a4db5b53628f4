"""Requests that stock ``requests`` refuses, or mends on their way out, were sent or broke off elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from service_utils.http.transport import FastSession
from service_utils.testing import FaultServer


@pytest.fixture
def session(fault_server: FaultServer) -> Iterator[FastSession]:
    """A session that sends plain requests the fast way."""
    with FastSession() as session:
        for _ in range(2):
            session.get(fault_server.url)
        fault_server.clear()
        yield session


def test_not_prepared(session: FastSession, fault_server: FaultServer) -> None:
    """A request that nobody has prepared is refused with requests' own words."""
    request: object = requests.Request("GET", fault_server.url)
    with pytest.raises(ValueError, match=r"You can only send PreparedRequests\."):
        session.send(request)  # type: ignore[arg-type]


def test_header_without_a_name(session: FastSession, fault_server: FaultServer) -> None:
    """A header that has no name is refused."""
    request = session.prepare_request(requests.Request("GET", fault_server.url))
    request.headers[""] = "x"

    with pytest.raises(ValueError, match="Invalid header name"):
        session.send(request)
    assert fault_server.requests == []


@pytest.mark.parametrize("body", [b"", ""])
def test_empty_body(body: bytes | str, session: FastSession, fault_server: FaultServer) -> None:
    """A body that is empty goes out as with any other session."""
    request = session.prepare_request(requests.Request("GET", fault_server.url))
    request.body = body

    session.send(request)
    with requests.Session() as stock:
        stock.send(request)

    ours, stocks = (list(each.headers.items()) for each in fault_server.requests)
    assert ours == stocks
