"""Four workers of gunicorn with eight threads each, preloaded: one circuit, one status, one leader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests

from backend.run.parts import free_ports
from service_utils.testing import Answer, FaultServer
from service_utils.testing.server import RecordedRequest

T = TypeVar("T")

WORKERS = 4
_ROOT = Path(__file__).parents[2]
_PATIENCE = 20.0


def until(what: Callable[[], T], *, patience: float = _PATIENCE) -> T:
    """What comes to be true within a bound."""
    ends = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < ends, "it never comes to that"
        time.sleep(0.01)
    return found


class Workers:
    """The application under gunicorn, asked over a new connection each time: any worker may answer."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], pool: ThreadPoolExecutor) -> None:
        self.url = url
        self.process = process
        self._pool = pool

    def get(self, path: str) -> dict[str, Any]:
        answer = requests.get(self.url + path, headers={"Connection": "close"}, timeout=_PATIENCE)
        answer.raise_for_status()
        return {**answer.json(), "answered_by": int(answer.headers["X-Pid"])}

    def post(self, path: str) -> dict[str, Any]:
        answer = requests.post(self.url + path, headers={"Connection": "close"}, timeout=_PATIENCE)
        answer.raise_for_status()
        return answer.json()  # type: ignore[no-any-return]

    def together(self, path: str, times: int) -> list[dict[str, Any]]:
        """Ask as often as that, as many at once as there are threads."""
        return list(self._pool.map(self.get, [path] * times))

    def of_all(self, path: str) -> list[dict[str, Any]]:
        """Ask until each worker has answered."""
        answers: list[dict[str, Any]] = []

        def all_have() -> bool:
            answers.extend(self.together(path, 8 * WORKERS))
            return len({each["answered_by"] for each in answers}) >= WORKERS

        until(all_have)
        return answers

    def status(self) -> dict[str, Any]:
        return self.get("/v1/api/status/services")["downstream"]  # type: ignore[no-any-return]


class Downstream:
    """A service that answers, fails or keeps callers waiting, and counts."""

    def __init__(self) -> None:
        self.server = FaultServer(self._answer)
        self.status = 200
        self.go_on = threading.Event()
        self.go_on.set()

    def _answer(self, request: RecordedRequest) -> Answer:
        assert self.go_on.wait(_PATIENCE)
        return Answer(self.status)

    @property
    def count(self) -> int:
        return len(self.server.requests)


@pytest.fixture(scope="module")
def downstream() -> Iterator[Downstream]:
    service = Downstream()
    with service.server:
        yield service


@pytest.fixture(scope="module")
def workers(downstream: Downstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """With the configuration that the backend ships, and nothing else told than where things are."""
    folder = tmp_path_factory.mktemp("host")
    port = free_ports(1)[0]
    said = folder / "said.txt"
    environ = {
        **os.environ,
        "BACKEND_PORT": str(port),
        "VAR_DIR": str(folder),
        "DOWNSTREAM_URL": downstream.server.url,
        "PYTHONPATH": str(_ROOT),
    }
    command = [sys.executable, "-m", "gunicorn", "--config", "python:backend.gunicorn_conf"]
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*command, "tests.workers.application:app"], env=environ, cwd=_ROOT, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None, said.read_text()
        try:
            return requests.get(f"{url}/v1/api/status/services", timeout=5.0).ok
        except requests.ConnectionError:
            return False

    try:
        until(is_up)
        with ThreadPoolExecutor(32) as pool:
            yield Workers(url, process, pool)
    finally:
        process.terminate()
        process.wait(_PATIENCE)
    assert (folder / "circuits").stat().st_mode & 0o777 == 0o600


@pytest.fixture(autouse=True)
def all_well(workers: Workers, downstream: Downstream) -> None:
    """Each test finds a closed circuit."""
    downstream.status = 200
    downstream.go_on.set()
    workers.post("/reset")


def trip(workers: Workers, downstream: Downstream) -> None:
    """Have one of the workers open the circuit."""
    downstream.status = 500
    until(lambda: workers.get("/call")["state"] != "closed")


def test_a_trip_by_one_worker_is_everyones(workers: Workers, downstream: Downstream) -> None:
    """No call that begins after the circuit has opened in one worker gets through in another."""
    workers.post("/force-open")  # nobody has failures of before
    workers.post("/reset")
    downstream.status = 500
    opened = next(each for each in iter(lambda: workers.get("/call"), None) if each["state"] == "open")
    known = time.monotonic()
    before = downstream.count

    answers = workers.of_all("/call")

    assert {each["came_to"] for each in answers if each["began"] < opened["began"] + 1.0} == {"refused"}
    assert {each["answered_by"] for each in answers} > {opened["pid"]}
    assert downstream.count - before <= 1 + (time.monotonic() - known) / 2.0  # the probes


def test_a_thousand_status_reads_agree(workers: Workers, downstream: Downstream) -> None:
    """Whichever worker answers: the same numbers, and those of the service itself."""
    before, began = workers.status(), downstream.count
    answered = workers.together("/call", 200)
    assert {each["came_to"] for each in answered} == {"answered"}
    until(lambda: not any(each["in_flight"] for each in workers.status()["workers"]))

    reads = workers.together("/v1/api/status/services", 1000)

    assert len({each["answered_by"] for each in reads}) == WORKERS
    seen = {repr(each["downstream"]["requests"]) for each in reads}
    assert len(seen) == 1
    same = [{**each["downstream"], "retry_after_gate": 0, "retry_budget": 0} for each in reads]
    assert all(each == same[0] for each in same)
    status = reads[0]["downstream"]
    assert status["requests"]["total"] - before["requests"]["total"] == 200
    assert status["requests"]["succeeded"] - before["requests"]["succeeded"] == downstream.count - began
    assert sum(each["requests"] for each in status["workers"]) <= status["requests"]["total"]
    assert {each["pid"] for each in status["workers"]} == {each["answered_by"] for each in reads}


def test_one_probe_for_the_host(workers: Workers, downstream: Downstream) -> None:
    """After the recovery time a single call goes out, however many workers and threads would like to try."""
    trip(workers, downstream)
    until(lambda: not workers.status()["cooldown_remaining"])
    downstream.go_on.clear()
    downstream.status = 200
    before = downstream.count

    with ThreadPoolExecutor(1) as pool:
        probing = pool.submit(until, lambda: workers.get("/call")["came_to"] == "answered")
        until(lambda: downstream.count == before + 1)
        answers = workers.of_all("/call")
        assert {each["came_to"] for each in answers} == {"refused"}
        assert {each["state"] for each in answers} == {"half_open"}
        assert downstream.count == before + 1
        downstream.go_on.set()
        probing.result()

    assert {each["came_to"] for each in workers.of_all("/call")} == {"answered"}
    assert workers.status()["state"] == "closed"


@pytest.mark.parametrize(
    ("deed", "state"), [("force-open", "forced_open"), ("disable", "disabled"), ("reset", "closed")]
)
def test_what_an_operator_does_holds_for_all(workers: Workers, deed: str, state: str) -> None:
    """The request reaches one worker."""
    workers.post(f"/{deed}")
    assert {each["state"] for each in workers.of_all("/call")} == {state}


def test_a_pause_holds_for_all(workers: Workers) -> None:
    """A Retry-After that one worker was told keeps the others away, too; to reset the client ends it."""
    workers.post("/pause")
    reads = workers.of_all("/v1/api/status/services")
    assert {each["downstream"]["retry_after_gate"]["closed"] for each in reads} == {True}
    workers.post("/reset")
    reads = workers.of_all("/v1/api/status/services")
    assert {each["downstream"]["retry_after_gate"]["closed"] for each in reads} == {False}


def test_the_dead_are_counted_once(workers: Workers) -> None:
    """A worker that was killed leaves its numbers, and gunicorn's new one begins at nothing."""
    workers.together("/call", 50)
    until(lambda: not any(each["in_flight"] for each in workers.status()["workers"]))
    before = workers.status()
    victim = max(before["workers"], key=lambda worker: worker["requests"])

    os.kill(victim["pid"], signal.SIGKILL)

    def replaced() -> bool:
        workers.together("/v1/api/status/services", 8 * WORKERS)  # a worker is known once it has been asked
        pids = {each["pid"] for each in workers.status()["workers"]}
        return victim["pid"] not in pids and len(pids) == WORKERS

    until(replaced)
    reads = workers.of_all("/v1/api/status/services")
    assert {repr(each["downstream"]["requests"]) for each in reads} == {repr(before["requests"])}


def test_another_worker_takes_the_lead(workers: Workers) -> None:
    """There is never more than one leader, and soon another when that was killed."""

    def leader() -> int | None:
        leaders = {each["pid"] for each in workers.of_all("/leads") if each["leads"]}
        assert len(leaders) <= 1
        return leaders.pop() if leaders else None

    first = until(leader)
    os.kill(first, signal.SIGKILL)
    assert until(leader) != first
