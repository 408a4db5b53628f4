"""A client that was used before a fork serves parent and children alike."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from service_utils import (
    BreakerConfig,
    CircuitOpenError,
    CircuitState,
    ResilientServiceClient,
    RetryBudget,
    RetryPolicy,
    ServiceRegistry,
    fixed,
)
from service_utils.client_options import FAILURE_THRESHOLD, MAX_RETRIES
from service_utils.testing import Answer, FaultServer, close_connection
from tests.forked import in_child
from tests.side_by_side import together

from .certificates import Certificates
from .children import run
from .ways import client_by, until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[FaultServer]:
    with FaultServer(tls=certificates.server() if request.param == "https" else None) as server:
        server.handler = lambda request: Answer(200, request.query + request.body.decode())
        yield server


@pytest.fixture
def options(certificates: Certificates) -> dict[str, Any]:
    return {"verify": certificates.authority}


@pytest.fixture(params=["warm", "session"])
def client(
    request: pytest.FixtureRequest, server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> Iterator[ResilientServiceClient]:
    """A client with one connection, the server's first."""
    with client_by(request.param, registry, server.url, **options) as client:
        server.clear()
        yield client


# -- many threads and many children --------------------------------------------------------------------------

CROWD = """
    import json, os, sys, threading, time, warnings
    import requests
    from service_utils import ResilientServiceClient

    url, authority, kind, when = sys.argv[1:]
    session = requests.Session() if kind == "session" else None
    client = ResilientServiceClient(url, verify=authority, timeout=40, max_retries=1, session=session)

    begun, forked = threading.Semaphore(0), threading.Event()

    def crowd(who, threads, turns, wrong, until=None):
        def work(number):
            for turn in range(turns):
                asked = f"{who}.{number}.{turn}"
                try:
                    if turn % 2:
                        got = client.get("/echo", params=asked).text
                    else:
                        got = client.post("/echo", data=asked).text
                except Exception as error:
                    got = repr(error)
                if got != asked:
                    wrong.append([asked, got])
                if turn == 0:
                    begun.release()
            if until is not None:
                until.wait()
        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        return workers

    def join(workers):
        for worker in workers:
            worker.join()

    # A thread that begins or ends to use OpenSSL takes one of its locks, which a child would inherit locked:
    # that befalls any program, and is not what is looked at here. So none does while we fork; also one that
    # has been joined may still be cleaning up.
    def gone():
        end = time.monotonic() + 10
        while len(os.listdir("/proc/self/task")) > threading.active_count() and time.monotonic() < end:
            time.sleep(0.001)

    wrong = []
    if when == "quiet":
        join(crowd("before", 100, 3, wrong))
        gone()
        before = []
    else:
        before = crowd("before", 100, 6, wrong, until=forked)
        for _ in before:
            begun.acquire()
    children = []
    for number in range(4):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(reading)
            mine = []
            join(crowd(f"child{number}", 25, 4, mine))
            total = client.get_status()["requests"]["total"]
            if total != 100:
                mine.append(["calls", total])
            os.write(writing, json.dumps(mine).encode())
            sys.exit(0)
        os.close(writing)
        children.append(reading)
    forked.set()
    join(before)
    join(crowd("after", 100, 3, wrong))
    for reading in children:
        with os.fdopen(reading) as pipe:
            wrong += json.load(pipe)
        os.wait()
    print(json.dumps(wrong))
    """


@pytest.mark.parametrize("when", ["quiet", "busy"])
@pytest.mark.parametrize("kind", ["own", "session"])
def test_a_hundred_threads_and_four_children(
    kind: str, when: str, server: FaultServer, certificates: Certificates
) -> None:
    """Every answer in parent and children is the caller's own, forked between the calls or among them."""
    assert run(CROWD, server.url, certificates.authority, kind, when) == []


# -- connections ---------------------------------------------------------------------------------------------


def test_connections_of_the_parent_outlive_the_child(
    client: ResilientServiceClient, server: FaultServer
) -> None:
    """A child has connections of its own, and does not end its parent's when it ends."""

    def call() -> str:
        return client.get("/echo", params="child").text

    assert [in_child(call) for _ in range(3)] == ["child"] * 3
    assert client.get("/echo", params="parent").text == "parent"

    assert [each.connection for each in server.requests] == [2, 3, 4, 1]


LAST_RITES = {
    "closes its client": lambda client: client.close(),
    "does nothing": lambda client: None,
    "drops its session": lambda client: vars(client).clear(),
}


@pytest.mark.parametrize("manner", LAST_RITES)
def test_child_that_tidies_up(manner: str, client: ResilientServiceClient, server: FaultServer) -> None:
    """Whatever a child does with what it inherits, the parent's connection stays as it is."""
    in_child(lambda: LAST_RITES[manner](client))

    assert client.get("/echo", params="parent").text == "parent"
    assert server.connections == 1


def test_child_that_ends_in_the_ordinary_way(server: FaultServer, certificates: Certificates) -> None:
    """The interpreter of a child may end with all its clean-up, and the parent goes on as before."""
    script = """
        import json, os, sys
        from service_utils import ResilientServiceClient
        client = ResilientServiceClient(sys.argv[1], verify=sys.argv[2], max_retries=1)
        answers = [client.get("/echo", params="a").text]
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        answers.append(client.get("/echo", params="b").text)
        print(json.dumps(answers))
        """

    assert run(script, server.url, certificates.authority) == ["a", "b"]
    assert server.connections == 1


@pytest.mark.parametrize("given", [False, True], ids=["own", "session"])
def test_connections_end_with_the_parent(
    given: bool, server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """A child that lives on does not keep its parent's connections open."""
    reading, writing = os.pipe()
    session = requests.Session() if given else None
    with client_by("warm", registry, server.url, session=session, **options) as client:
        began = threading.Event()

        def child() -> None:
            os.read(reading, 1)

        def fork() -> None:
            began.set()
            in_child(child)

        thread = threading.Thread(target=fork)
        thread.start()
        began.wait(20)
        try:
            (session or client).close()
            until(lambda: server.open_connections == 0)
        finally:
            os.write(writing, b".")
            thread.join(20)
            os.close(reading)
            os.close(writing)


def test_grandchildren(client: ResilientServiceClient, server: FaultServer) -> None:
    """A child may fork as well."""

    def call() -> str:
        return client.get("/echo", params="here").text

    assert in_child(lambda: call() + in_child(call) + call()) == "herehereherehere"[:12]
    assert call() == "here"
    assert [each.connection for each in server.requests] == [2, 3, 2, 1]


def test_child_of_a_thread(client: ResilientServiceClient) -> None:
    """Threads may fork, too, several at a time."""

    def call(number: int) -> str:
        return client.get("/echo", params=str(number)).text

    assert together(4, lambda number: in_child(lambda: call(number))) == ["0", "1", "2", "3"]


def test_gunicorn_preload(server: FaultServer, certificates: Certificates) -> None:
    """A client made and used while an application was loaded serves all workers."""
    script = """
        import json, os, sys
        from service_utils import ResilientServiceClient
        client = ResilientServiceClient(sys.argv[1], verify=sys.argv[2], max_retries=1, name="loaded")
        client.get("/echo")
        pipes = []
        for number in range(4):
            reading, writing = os.pipe()
            if os.fork() == 0:
                said = [client.get("/echo", params=f"{number}.{turn}").text for turn in range(5)]
                os.write(writing, json.dumps(said).encode())
                os._exit(0)
            os.close(writing)
            pipes.append(reading)
        said = [json.load(os.fdopen(reading)) for reading in pipes]
        for _ in pipes:
            os.wait()
        print(json.dumps(said))
        """

    said = run(script, server.url, certificates.authority)

    assert said == [[f"{number}.{turn}" for turn in range(5)] for number in range(4)]
    assert server.connections == 5


# -- locks ---------------------------------------------------------------------------------------------------


def test_locks_of_other_threads(client: ResilientServiceClient) -> None:
    """No child waits for a lock that some thread of its parent held at the moment of the fork."""
    over = threading.Event()
    jobs: list[Callable[[], object]] = [
        lambda: client.get("/echo"),
        lambda: client.post("/echo", json={}),
        client.get_status,
        lambda: client.state,
        client.breaker.get_stats,
        client.reset,
    ]

    def busy(job: Callable[[], object]) -> None:
        while not over.is_set():
            job()

    threads = [threading.Thread(target=busy, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        for number in range(15):
            text = in_child(lambda number=number: client.get("/echo", params=str(number)).text)  # type: ignore[misc]
            assert text == str(number)
    finally:
        over.set()
        for thread in threads:
            thread.join(20)


# -- state ---------------------------------------------------------------------------------------------------


def test_counters_of_a_child(client: ResilientServiceClient) -> None:
    """A child counts from zero; what it counts is not its parent's."""

    def child() -> tuple[dict[str, int], dict[str, int], int]:
        before = client.get_status()["requests"]
        totals = client.breaker.get_stats()["total"]
        client.get("/echo")
        return before, totals, client.get_status()["requests"]["total"]

    before, totals, after = in_child(child)

    assert set(before.values()) == {0}
    assert set(totals.values()) == {0}
    assert after == 1
    assert client.get_status()["requests"]["total"] == 2


def test_open_circuit(server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]) -> None:
    """A circuit that is open is open in the children as well, and their opening is their own."""
    options |= {"failure_threshold": 1}
    with client_by("warm", registry, server.url, **options) as client:

        def fails() -> str:
            server_down = client.state
            with pytest.raises(requests.ConnectionError):
                client.get("/echo")
            return f"{server_down.value}, then {client.state.value}"

        server.script(close_connection(), close_connection())
        assert in_child(fails) == "closed, then open"
        assert client.state is CircuitState.CLOSED
        server.script(close_connection(), close_connection())
        fails()

        def refused() -> float:
            with pytest.raises(CircuitOpenError) as caught:
                client.get("/echo")
            return caught.value.cooldown_remaining

        assert 50 < in_child(refused) <= 60


def test_permits_of_the_parent(
    server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]
) -> None:
    """A probe that is under way in the parent takes no child's place."""
    breaker = BreakerConfig(failure_threshold=1, recovery_timeout=0.01, half_open_timeout=60)
    options |= {"breaker": breaker, "failure_threshold": FAILURE_THRESHOLD}
    with client_by("warm", registry, server.url, **options) as client:
        server.script(Answer(503))
        with pytest.raises(requests.HTTPError):
            client.get("/echo")
        until(lambda: client.get_status()["cooldown_remaining"] == 0)
        with client.breaker:
            assert client.state is CircuitState.HALF_OPEN

            def probe() -> tuple[int, str, str]:
                in_use = client.breaker.get_stats()["half_open_in_use"]
                return in_use, client.get("/echo", params="probe").text, client.state.value

            assert in_child(probe) == (0, "probe", "closed")
            assert client.state is CircuitState.HALF_OPEN
        assert client.state is CircuitState.CLOSED


def test_budget(server: FaultServer, registry: ServiceRegistry, options: dict[str, Any]) -> None:
    """A child begins with the retries that its parent had left, and spends its own."""
    budget = RetryBudget(ratio=0.0, capacity=3.0)
    retry = RetryPolicy(max_attempts=2, backoff=fixed(0.001), budget=budget)
    with client_by("warm", registry, server.url, retry=retry, max_retries=MAX_RETRIES, **options) as client:
        server.script(Answer(503))
        client.get("/echo")

        def child() -> tuple[float, float]:
            before = budget.balance
            client.get("/echo")
            return before, budget.balance

        server.script(Answer(503))
        assert in_child(child) == (2.0, 1.0)
        assert budget.balance == 2.0
