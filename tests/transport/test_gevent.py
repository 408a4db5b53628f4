"""Under gevent's monkey patching a client waits without holding up the other greenlets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from service_utils.testing import Answer, FaultServer, RecordedRequest, blackhole
from service_utils.testing.replies import Reply

from .certificates import Certificates
from .children import run

pytest.importorskip("gevent")

START = """
    from gevent import monkey
    monkey.patch_all()
    import json, sys, time
    import gevent, requests
    from service_utils import BreakerConfig, DeadlineExceeded, ResilientServiceClient
    url, authority = sys.argv[1:]

    def make_client(base_url=url, **options):
        settings = {"verify": authority, "max_retries": 1, "timeout": 20, **options}
        return ResilientServiceClient(base_url, **settings)
    """


def answer(request: RecordedRequest) -> Reply:
    if request.path == "/silent":
        return blackhole()
    return Answer(200, request.query, delay=0.3 if request.path == "/slow" else 0.0)


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(answer, tls=certificates.server() if request.param == "https" else None) as server:
        yield server


@pytest.fixture
def say(server: FaultServer, certificates: Certificates) -> Any:
    """Runs a script under gevent against the server."""
    return lambda script: run(START + script, server.url, certificates.authority)


def test_side_by_side(say: Any, server: FaultServer) -> None:
    """Greenlets call at the same time, each gets its own answer, and their connections are used again."""
    script = """
    client = make_client()
    def call(number):
        return client.get("/slow", params=f"n={number}").text
    began = time.monotonic()
    rounds = []
    for turn in range(3):
        jobs = [gevent.spawn(call, number) for number in range(20)]
        gevent.joinall(jobs)
        rounds.append([job.value for job in jobs])
    print(json.dumps([rounds, time.monotonic() - began]))
    """
    rounds, took = say(script)

    assert rounds == [[f"n={number}" for number in range(20)]] * 3
    assert 0.9 <= took < 6.0  # one after the other: 18 s
    assert server.connections == 20


@pytest.mark.parametrize("bound", ["timeout", "deadline"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_limits(host: str, bound: str, say: Any, server: FaultServer) -> None:
    """A call ends in time, over a new connection and a kept one, and other greenlets go on meanwhile."""
    script = f"""
    client = make_client(url.replace("127.0.0.1", "{host}"))
    ticks = []
    def tick():
        while True:
            gevent.sleep(0.01)
            ticks.append(time.monotonic())
    ticking = gevent.spawn(tick)
    took = []
    for turn in range(2):
        began = time.monotonic()
        try:
            client.get("/silent", {bound}=0.3)
        except requests.Timeout as error:
            took.append(time.monotonic() - began)
            named = isinstance(error, DeadlineExceeded)
        assert client.get("/echo", params=f"n={{turn}}").text == f"n={{turn}}"
    ticking.kill()
    print(json.dumps([took, named, len(ticks)]))
    """
    took, named, ticks = say(script)

    assert len(took) == 2
    assert all(0.27 <= each < 1.3 for each in took)
    assert named == (bound == "deadline")
    assert ticks > 20


def test_killed_greenlet(say: Any, server: FaultServer) -> None:
    """A greenlet that is killed gives its permit back, and its half-read answer is nobody's."""
    script = """
    client = make_client(breaker=BreakerConfig(failure_threshold=1, recovery_timeout=0.01))
    client.get("/echo")
    client.breaker.force_open("test")
    client.reset()
    permit = client.breaker.acquire()
    from service_utils import Outcome
    client.breaker.record(permit, Outcome.FAILURE)
    gevent.sleep(0.05)
    probe = gevent.spawn(client.get, "/silent")
    gevent.sleep(0.2)
    during = client.breaker.get_stats()["half_open_in_use"]
    probe.kill()
    after = client.breaker.get_stats()["half_open_in_use"]
    text = client.get("/echo", params="n=1").text
    print(json.dumps([during, after, text, client.state.value, client.breaker.get_stats()["total"]]))
    """
    during, after, text, state, total = say(script)

    assert (during, after) == (1, 0)
    assert (text, state) == ("n=1", "closed")
    assert total["ignored"] >= 1


def test_gevent_timeout(say: Any, server: FaultServer) -> None:
    """A gevent.Timeout of the caller's ends a call as well, and leaves nothing behind."""
    script = """
    client = make_client()
    ends = []
    for turn in range(2):
        try:
            with gevent.Timeout(0.2):
                client.get("/silent")
        except gevent.Timeout:
            ends.append(client.get("/echo", params=f"n={turn}").text)
    print(json.dumps([ends, client.breaker.get_stats()["total"]["failed"]]))
    """

    assert say(script) == [["n=0", "n=1"], 0]


def test_many_kills(say: Any, server: FaultServer) -> None:
    """Greenlets killed at any moment never make another one's answer wrong."""
    script = """
    import random
    client = make_client()
    random.seed(1)
    wrong = []
    def call(number):
        for turn in range(10):
            asked = f"n={number}.{turn}"
            got = client.get("/echo", params=asked).text
            if got != asked:
                wrong.append([asked, got])
    jobs = [gevent.spawn(call, number) for number in range(40)]
    for job in jobs[::2]:
        gevent.sleep(random.random() / 50)
        job.kill()
    gevent.joinall(jobs)
    print(json.dumps([wrong, [repr(job.exception) for job in jobs if job.exception is not None]]))
    """

    assert say(script) == [[], []]


def test_fork_under_gevent(say: Any, server: FaultServer) -> None:
    """A forked worker, as gunicorn's gevent workers are, serves with connections of its own."""
    script = """
    import os
    client = make_client()
    client.get("/echo")
    reading, writing = os.pipe()
    if os.fork() == 0:
        jobs = [gevent.spawn(client.get, "/echo", params=f"n={number}") for number in range(5)]
        gevent.joinall(jobs)
        os.write(writing, json.dumps([job.value.text for job in jobs]).encode())
        os._exit(0)
    os.close(writing)
    said = json.loads(os.read(reading, 10_000))
    os.wait()
    print(json.dumps([said, client.get("/echo", params="n=9").text]))
    """

    assert say(script) == [[f"n={number}" for number in range(5)], "n=9"]
