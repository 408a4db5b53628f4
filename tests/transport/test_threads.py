"""One client for many threads: each gets the answer to its own request."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import requests

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import Answer, Drip, FaultServer, RecordedRequest
from tests.side_by_side import together

from .certificates import Certificates
from .ways import client_by


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(tls=certificates.server() if request.param == "https" else None) as server:
        yield server


@pytest.fixture(params=["warm", "session"])
def client(
    request: pytest.FixtureRequest, server: FaultServer, registry: ServiceRegistry, certificates: Certificates
) -> Iterator[ResilientServiceClient]:
    options = {"verify": certificates.authority, "timeout": 30}
    with client_by(request.param, registry, server.url, **options) as client:
        yield client


def echo(request: RecordedRequest) -> Answer:
    """The query and the body, sent in another manner each time."""
    text = request.query.encode() + b" " + request.body
    kind = hash(request.query) % 4
    if kind == 0:
        return Answer(200, text, chunk_size=3)
    if kind == 1:
        return Answer(404, text)
    return Answer(200, text, drip=Drip(5, 0.001) if kind == 2 else None)


def test_a_hundred_threads(client: ResilientServiceClient, server: FaultServer) -> None:
    """A hundred threads at once on one client get their own answers, call after call."""
    server.handler = echo

    def work(number: int) -> None:
        for turn in range(4):
            asked = f"n={number}.{turn}"
            response = client.post("/echo", params=asked, data=f"<{asked}>")
            assert response.text == f"{asked} <{asked}>"

    together(100, work)

    assert client.get_status()["requests"]["total"] >= 400


def test_time_outs_among_them(client: ResilientServiceClient, server: FaultServer) -> None:
    """What comes too late for one thread is never the answer of another."""

    def answer(request: RecordedRequest) -> Answer:
        return Answer(200, request.query, delay=0.1 if "slow" in request.query else 0.0)

    server.handler = answer
    late: list[int] = []

    def work(number: int) -> None:
        for turn in range(6):
            if (number + turn) % 3 == 0:
                with pytest.raises(requests.Timeout):
                    client.get("/echo", params="slow", timeout=0.05)
                late.append(number)
            else:
                asked = f"n={number}.{turn}"
                assert client.get("/echo", params=asked).text == asked

    together(20, work)

    assert len(late) == 40


def test_bursts(server: FaultServer, registry: ServiceRegistry, certificates: Certificates) -> None:
    """As many connections are kept as a burst needs, so the next one opens none."""
    threads = 64

    def release() -> None:
        server.wait_for_requests(threads, 20)
        server.release()

    with client_by("cold", registry, server.url, verify=certificates.authority, timeout=30) as client:
        for _ in range(3):
            server.clear()
            server.hold()
            releasing = threading.Thread(target=release)
            releasing.start()
            together(threads, lambda number: client.get(f"/{number}"))
            releasing.join(20)

        assert server.connections == threads
