"""The metrics of four gunicorn workers are those of one server, also when some of them are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from backend.run.parts import free_ports
from tests.integrations.prometheus.pages import Page
from tests.workers.test_gunicorn import WORKERS, Downstream, until

_ROOT = Path(__file__).parents[2]
_PATIENCE = 20.0
_CALLS = "circuit_breaker_requests_total"

# A configuration of one's own, without the shared state that the backend's sets.
_OWN = """
from service_utils.integrations.prometheus.gunicorn import child_exit, metrics_folder

workers, threads, worker_class, preload_app, control_socket_disable = {workers}, 8, "gthread", {preload}, True
raw_env = [metrics_folder({folder!r})]
"""


class Server:
    """The application under gunicorn, asked over a new connection each time: any worker may answer."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.pids: set[int] = set()

    def get(self, path: str) -> requests.Response:
        answer = requests.get(self.url + path, headers={"Connection": "close"}, timeout=_PATIENCE)
        answer.raise_for_status()
        self.pids.add(int(answer.headers["X-Pid"]))
        return answer

    def page(self) -> Page:
        """The page of whichever worker; one that was just killed may break the connection."""

        def shown() -> requests.Response | None:
            try:
                return self.get("/metrics")
            except requests.ConnectionError:
                return None

        return Page(until(shown).text)

    def calls(self, outcome: str) -> float:
        return self.page().value(_CALLS, service="downstream", outcome=outcome)

    def state(self) -> str:
        (found,) = self.page().of("circuit_breaker_state")
        return found[1]

    def slots(self) -> float:
        return self.page().value("bulkhead_in_flight", service="downstream")

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def ask_all(self) -> set[int]:
        """Ask until as many workers have answered as there are; returns who has."""
        self.pids = set()

        def all_have() -> bool:
            self.page()
            return len(self.pids) >= WORKERS

        until(all_have)
        return set(self.pids)


@contextmanager
def served(folder: Path, downstream: Downstream, *arguments: str, **environ: str) -> Iterator[Server]:
    """gunicorn with these arguments."""
    port, said = free_ports(1)[0], folder / "said.txt"
    settings = {
        "BACKEND_PORT": str(port),
        "VAR_DIR": str(folder),
        "DOWNSTREAM_URL": downstream.server.url,
        "PYTHONPATH": str(_ROOT),
    }
    command = [sys.executable, "-m", "gunicorn", *arguments, "--bind", f"127.0.0.1:{port}"]
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*command, "tests.workers.metrics_application:app"],
            env={**os.environ, **settings, **environ},
            cwd=_ROOT,
            stdout=output,
            stderr=output,
        )
    server = Server(f"http://127.0.0.1:{port}", folder)

    def is_up() -> bool:
        assert process.poll() is None, said.read_text()
        try:
            return server.get("/metrics").ok
        except requests.ConnectionError:
            return False

    try:
        until(is_up)
        yield server
    finally:
        process.terminate()
        process.wait(_PATIENCE)


@pytest.fixture
def downstream() -> Iterator[Downstream]:
    service = Downstream()
    with service.server:
        yield service


@pytest.fixture(params=["shared", "alone", "alone without preload"])
def server(request: pytest.FixtureRequest, downstream: Downstream, tmp_path: Path) -> Iterator[Server]:
    """With the backend's configuration, whose workers share their state, and with one where they do not."""
    if request.param == "shared":
        arguments = ["--config", "python:backend.gunicorn_conf"]
        folder = tmp_path / "metrics"
    else:
        config, folder = tmp_path / "gunicorn.conf.py", tmp_path / "own"
        preload = request.param == "alone"
        config.write_text(_OWN.format(workers=WORKERS, preload=preload, folder=str(folder)))
        arguments = ["--config", str(config)]
    folder.mkdir()
    (folder / "counter_4711.db").write_bytes(b"left by an earlier server, and spoiled")
    with served(tmp_path, downstream, *arguments) as found:
        yield found
    assert not (folder / "counter_4711.db").exists()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def test_counts_are_those_of_all_workers(
    server: Server, downstream: Downstream, pool: ThreadPoolExecutor
) -> None:
    """Whichever worker is asked, and although one is killed: no call is lost and none is counted twice."""
    list(pool.map(server.get, ["/call"] * 60))
    downstream.status = 503
    list(pool.map(server.get, ["/call"] * 20))
    workers = server.ask_all()
    assert {server.calls("success") for _ in range(8)} == {60.0}
    assert {server.calls("failure") for _ in range(8)} == {20.0}

    server.kill(min(workers))
    until(lambda: server.ask_all() - workers)

    assert {server.calls("success") for _ in range(8)} == {60.0}
    downstream.status = 200
    list(pool.map(server.get, ["/call"] * 40))
    assert server.calls("success") == 100.0


def test_circuits_of_killed_workers(server: Server) -> None:
    """An open circuit is shown by every worker. One that only a killed worker knew of is gone with it."""
    opened = int(server.get("/open").headers["X-Pid"])
    server.ask_all()
    assert {server.state() for _ in range(8)} == {"forced_open"}
    server.kill(opened)
    if (server.folder / "circuits").exists():  # it is everyone's
        until(lambda: opened not in server.ask_all())
        assert {server.state() for _ in range(8)} == {"forced_open"}
    else:
        until(lambda: {server.state() for _ in range(8)} == {"closed"})


def test_slots_of_killed_workers(server: Server, downstream: Downstream, pool: ThreadPoolExecutor) -> None:
    """Slots are those of all workers, without callers that wait for one; the killed have none."""
    downstream.go_on.clear()
    try:
        asked = [pool.submit(server.get, "/call") for _ in range(5)]  # fewer than the threads of one worker
        until(lambda: downstream.count >= 2 and server.slots() == downstream.count)
        for pid in server.ask_all():
            server.kill(pid)
        until(lambda: server.slots() == 0.0)
    finally:
        downstream.go_on.set()
    assert any(each.exception(_PATIENCE) for each in asked)
