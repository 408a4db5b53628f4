"""@idempotent in processes that are killed in the middle, and in several processes at once."""

from __future__ import annotations

import contextlib
import select
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.side_by_side import together

APP = """
import os, signal, sys
from flask import Flask, request
from werkzeug.serving import make_server
from service_utils.idempotency import SQLiteIdempotency
from service_utils.integrations.flask.idempotency import idempotent
from service_utils.storage import Database

database = Database(sys.argv[1])
database.migrate("effect", ["CREATE TABLE effect (key TEXT);"])
store = SQLiteIdempotency(database)
records = store.in_transaction()
app = Flask("crash")

def die(moment):
    if request.args.get("die") == moment and not os.path.exists(sys.argv[1] + ".died"):
        open(sys.argv[1] + ".died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

def write(connection):
    connection.execute("INSERT INTO effect VALUES (?)", (request.headers["Idempotency-Key"],))
    die("after")
    return "done"

@app.post("/together")
@idempotent(records)
def together():
    return write(records.connection)

@app.post("/apart")
@idempotent(store)
def apart():
    with database.write() as connection:
        write(connection)
    die("committed")
    return "done"

server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Services:
    """Processes that serve the app over one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> str:
        process = subprocess.Popen(
            [sys.executable, "-c", APP, str(self.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], 30)
        assert readable, "the service does not start"
        return f"http://127.0.0.1:{process.stdout.readline().strip()}"

    def effects(self) -> int:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return int(connection.execute("SELECT count(*) FROM effect").fetchone()[0])

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path / "crash.db")
    yield services
    services.close()


def post(url: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, headers={"Idempotency-Key": "k"}, timeout=20)


def killed(url: str) -> None:
    with pytest.raises(requests.ConnectionError):
        post(url)


def test_killed_with_a_shared_transaction(services: Services) -> None:
    """SIGKILL after the write, before the commit: nothing is there, and the repeat is carried out, once."""
    killed(f"{services.start()}/together?die=after")
    assert services.effects() == 0
    url = services.start()
    answers = [post(f"{url}/together?die=after") for _ in range(2)]
    assert [answer.text for answer in answers] == ["done", "done"]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true"]
    assert services.effects() == 1


def test_killed_with_the_effect_apart(services: Services) -> None:
    """SIGKILL after the effect, before its answer is kept: nothing is done again, the key is unknown."""
    killed(f"{services.start()}/apart?die=committed")
    url = services.start()
    for _ in range(2):
        answer = post(f"{url}/apart?die=committed")
        assert (answer.status_code, answer.json()["idempotency_state"]) == (409, "unknown")
        assert "Retry-After" not in answer.headers
    assert services.effects() == 1


@pytest.mark.parametrize("way", ["together", "apart"])
def test_two_processes_carry_it_out_once(services: Services, way: str) -> None:
    """Sixteen requests with one key go to two processes at one moment: one effect, one answer for all."""
    urls = [services.start(), services.start()]
    answers = together(16, lambda index: post(f"{urls[index % 2]}/{way}"))
    assert services.effects() == 1
    first = [answer for answer in answers if answer.ok and "Idempotency-Replayed" not in answer.headers]
    assert len(first) == 1
    assert {answer.status_code for answer in answers} <= ({200} if way == "together" else {200, 409})
    assert [post(f"{url}/{way}").headers["Idempotency-Replayed"] for url in urls] == ["true", "true"]
