"""The ways in which a client can come to send, and how long it took to give up."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from service_utils import DeadlineExceeded, ResilientServiceClient, ServiceRegistry
from tests.side_by_side import together

LIMIT = 0.2  # seconds that a call has
SLACK = 1.0  # seconds for a busy machine; the requirement is 0.05

_numbers = itertools.count(1)

WAYS = ["warm", "cold", "session"]
TRACED_WAYS = ["traced requests", "traced urllib3"]
GROUPS = ["plain", *TRACED_WAYS]
BOUNDS = ["timeout", "deadline"]

Crowd = list[tuple[ResilientServiceClient, str]]


def client_for(registry: ServiceRegistry, base_url: str, **options: Any) -> ResilientServiceClient:
    """A client that makes one attempt and whose circuit stays closed."""
    options = {"timeout": 20, "max_retries": 1, "failure_threshold": 1000} | options
    options.setdefault("name", f"client-{next(_numbers)}")
    return ResilientServiceClient(base_url, "Service", registry=registry, **options)


@contextlib.contextmanager
def client_by(way: str, registry: ServiceRegistry, base_url: str, **options: Any) -> Iterator[Any]:
    """A client that sends in this way.

    Args:
        way: ``warm``: two calls have gone over its connection; ``cold``: it has none yet; ``session``: its
            session is one of the user's; ``traced ...``: somebody has instrumented that library.
        registry: Where it is entered.
        base_url: Where it calls ``/warm``.
        **options: Of the client.
    """
    with contextlib.ExitStack() as stack:
        if way == "session":
            options["session"] = stack.enter_context(requests.Session())
        if way.startswith("traced"):
            stack.enter_context(_traced(way.split()[1]))
        client = stack.enter_context(client_for(registry, base_url, **options))
        if way != "cold":
            for _ in range(2):
                assert client.get("/warm").status_code == 200
        yield client


@contextlib.contextmanager
def crowd_by(group: str, registry: ServiceRegistry, base_url: str, **options: Any) -> Iterator[Crowd]:
    """Clients that send in each way, one for each kind of limit.

    Args:
        group: One of ``GROUPS``: whether somebody has instrumented a library.
        registry: Where they are entered.
        base_url: Where they call ``/warm``.
        **options: Of the clients.
    """
    with contextlib.ExitStack() as stack:
        ways = WAYS
        if group.startswith("traced"):
            stack.enter_context(_traced(group.split()[1]))
            ways = ["warm"]
        yield [
            (stack.enter_context(client_by(way, registry, base_url, **options)), bound)
            for way in ways
            for bound in BOUNDS
        ]


def all_give_up(crowd: Crowd, call: Callable[..., object]) -> list[requests.Timeout]:
    """Each of them, all at once, ends by a time-out. ``call`` gets a client and its limit."""

    def work(number: int) -> requests.Timeout:
        client, bound = crowd[number]
        with gives_up(bound) as caught:
            call(client, **{bound: LIMIT})
        return caught.value

    return together(len(crowd), work)


def all_get_their_answers(crowd: Crowd) -> None:
    """Each of them, all at once, gets the answer to a request of its own."""

    def work(number: int) -> None:
        path = f"/after/{number}"
        assert crowd[number][0].get(path).text == path

    together(len(crowd), work)


@contextlib.contextmanager
def _traced(library: str) -> Iterator[None]:
    module = pytest.importorskip(f"opentelemetry.instrumentation.{library}")
    name = {"requests": "RequestsInstrumentor", "urllib3": "URLLib3Instrumentor"}[library]
    instrumentor = getattr(module, name)()
    instrumentor.instrument()
    try:
        yield
    finally:
        instrumentor.uninstrument()


@contextlib.contextmanager
def gives_up(bound: str, seconds: float = LIMIT) -> Iterator[pytest.ExceptionInfo[requests.Timeout]]:
    """What is done inside ends by a time-out, not before the time is up and not long after."""
    began = time.monotonic()
    with pytest.raises(requests.Timeout) as caught:
        yield caught
    took = time.monotonic() - began
    note_overrun(took - seconds)
    assert isinstance(caught.value, DeadlineExceeded) == (bound == "deadline"), repr(caught.value)
    assert seconds * 0.9 <= took < seconds + SLACK


def note_overrun(seconds: float) -> None:
    """How much longer than allowed something took; a place for measurements."""


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.002)


def extra_threads(before: set[threading.Thread]) -> list[str]:
    """The names of the threads that have come since; those that look names up end by themselves."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread not in before and not thread.name.startswith("service-utils-resolver")
    ]
