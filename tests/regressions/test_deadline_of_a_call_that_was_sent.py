"""A charge whose first attempt had arrived was reported as never sent, and as the service's fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from requests.adapters import BaseAdapter

from service_utils import DeadlineExceeded, ResilientServiceClient, RetryPolicy, ServiceRegistry, fixed
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.testing import FakeClock

Step = Callable[[requests.PreparedRequest], requests.Response]


class Scripted(BaseAdapter):
    """Answers by a list of functions; takes what they return or raise for the network."""

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps = list(steps)

    def send(self, request: requests.PreparedRequest, **settings: object) -> requests.Response:  # type: ignore[override]
        return self.steps.pop(0)(request)

    def close(self) -> None:
        pass


def answer(status: int) -> Step:
    def send(request: requests.PreparedRequest) -> requests.Response:
        response = requests.Response()
        response.status_code, response.request, response.url = status, request, str(request.url)
        response._content = b""
        return response

    return send


class Provider:
    def headers(self, name: str) -> dict[str, str]:
        return {"X-Token": "t"}

    def refresh(self, name: str) -> None:
        return None


def session_of(*steps: Step) -> requests.Session:
    session = requests.Session()
    session.mount("http://", Scripted(*steps))
    return session


def test_the_time_ends_while_the_second_attempt_connects() -> None:
    """DeadlineExceeded.sent tells of the whole call, not of its last attempt."""
    clock = FakeClock()

    def no_connection(request: requests.PreparedRequest) -> requests.Response:
        clock.advance(1)
        raise requests.ConnectTimeout

    client = ResilientServiceClient(
        "http://service",
        clock=clock,
        registry=ServiceRegistry(),
        retry=RetryPolicy(backoff=fixed(1.0), jitter=0),
        deadline=2,
        session=session_of(answer(503), no_connection),
    )

    with pytest.raises(DeadlineExceeded) as failure:
        client.post("/charge")

    assert failure.value.sent


def test_a_refused_connection_was_never_sent() -> None:
    """When no attempt got through, DeadlineExceeded says so."""
    clock = FakeClock()

    def no_connection(request: requests.PreparedRequest) -> requests.Response:
        clock.advance(2)
        raise requests.ConnectTimeout

    client = ResilientServiceClient(
        "http://service",
        clock=clock,
        registry=ServiceRegistry(),
        deadline=2,
        session=session_of(no_connection),
    )

    with pytest.raises(DeadlineExceeded) as failure:
        client.post("/charge")

    assert not failure.value.sent


def test_a_hasty_caller_cuts_the_repeat_after_a_401() -> None:
    """The repeat with a fresh token has the time that is left: its end is the deadline's doing."""
    clock = FakeClock()

    def slow_401(request: requests.PreparedRequest) -> requests.Response:
        clock.advance(4)
        return answer(401)(request)

    def no_answer(request: requests.PreparedRequest) -> requests.Response:
        clock.advance(2)
        raise requests.ReadTimeout

    client = ResilientServiceClient(
        "http://service",
        timeout=5,
        clock=clock,
        registry=ServiceRegistry(),
        token_provider=Provider(),
        session=session_of(slow_401, no_answer),
    )
    bound = bind_context(deadline=Deadline.after(6, clock))
    try:
        with pytest.raises(DeadlineExceeded) as failure:
            client.get("/a")
    finally:
        unbind_context(bound)

    assert failure.value.sent
    assert client.get_status()["failure_count"] == 0
