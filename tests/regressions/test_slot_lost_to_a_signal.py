"""A signal between two lines of a call kept a slot, a probe's place or a turn for ever."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import requests

from service_utils import Outcome, ResilientServiceClient, RetryPolicy, ServiceRegistry, fixed
from service_utils.policies.bulkhead import Bulkhead
from service_utils.policies.rate_limit import RateLimiter
from service_utils.testing import FakeClock

OURS = "service_utils"
NOT_OURS = ("service_utils/testing", "service_utils/http", "service_utils/clock", "service_utils/registry")


class Signals:
    """Raises KeyboardInterrupt at the n-th place of our code at which CPython looks for signals."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if event not in ("call", "c_return") or OURS not in name or any(each in name for each in NOT_OURS):
            return
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def interrupted_everywhere(prepare: Callable[[], Callable[[], object]], check: Callable[[], None]) -> int:
    """Run what is prepared again and again, interrupted at each place in turn, until it gets through."""
    for place in range(1, 2000):
        work = prepare()
        signals = Signals(place)
        sys.setprofile(signals)
        try:
            work()
        except (KeyboardInterrupt, requests.RequestException):
            pass
        finally:
            sys.setprofile(None)
        check()
        if signals.left > 0:
            return place
    raise AssertionError("it never got through")


def test_a_function_in_a_bulkhead() -> None:
    """Wherever it is interrupted, its slot is free again."""
    bulkhead = Bulkhead(1)

    def check() -> None:
        assert bulkhead.get_status()["in_flight"] == 0

    assert interrupted_everywhere(lambda: lambda: bulkhead.call(int), check) > 5
    assert interrupted_everywhere(lambda: bulkhead(int), check) > 5


def answer_of(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response._content, response._content_consumed = b"", True
    return response


class Canned:
    """A transport with answers of its own."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses

    def __call__(self, *_: object) -> requests.Response:
        return answer_of(self.statuses.pop(0) if self.statuses else 200)


@pytest.mark.parametrize("half_open", [False, True])
def test_a_call_of_a_client(monkeypatch: pytest.MonkeyPatch, half_open: bool) -> None:
    """Slot, permit and turn are given back wherever a call with a retry is interrupted."""
    clock = FakeClock()
    limiter = RateLimiter(1e-6, 10, 1e9, clock=clock)
    client = ResilientServiceClient(
        "http://127.0.0.1:9",
        registry=ServiceRegistry(),
        clock=clock,
        retry=RetryPolicy(backoff=fixed(0.0), budget=None),
        failure_threshold=1,
        recovery_timeout=5,
        bulkhead=1,
        rate_limit=limiter,
    )
    sent = 0

    def prepare() -> Callable[[], object]:
        nonlocal sent, limiter
        client.reset()
        limiter = RateLimiter(1e-6, 10, 1e9, clock=clock)
        client.rate_limiter = client._pacing.limiter = limiter
        canned = Canned([503])
        sent = 0

        def send(*arguments: object) -> requests.Response:
            nonlocal sent
            sent += 1
            return canned(*arguments)

        monkeypatch.setattr(client._transport, "send", send)
        if half_open:
            client.breaker.record(client.breaker.acquire(), Outcome.FAILURE)
            clock.advance(5)
            canned.statuses.clear()
        return lambda: client.get("/x")

    def check() -> None:
        status = client.get_status()
        assert status["bulkhead"]["in_flight"] == 0
        assert status["half_open_in_use"] == 0
        assert limiter.get_status()["waiting"] == 0
        assert limiter.get_status()["available"] >= 10 - sent - 1

    assert interrupted_everywhere(prepare, check) > 100
