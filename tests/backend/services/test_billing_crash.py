"""The billing service as a process of its own, while connections break and the process is killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

TOKEN = "a-token-for-this-test"
START = 1_000_000_000
ROOT = Path(__file__).resolve().parents[3]


class Process:
    """``python -m backend.services.billing`` on a port of its choice."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> None:
        command = [sys.executable, "-m", "backend.services.billing", "--port", "0", "--data", str(self.data)]
        environment = {**os.environ, "INTERNAL_SERVICE_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=self.data.parent, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
        assert found is not None, f"the service did not start: {line!r}"
        self.port = int(found.group(1))

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def post(self, path: str, body: dict[str, Any], key: str) -> requests.Response:
        return requests.post(
            f"http://127.0.0.1:{self.port}{path}",
            json=body,
            headers={"X-INTERNAL-TOKEN": TOKEN, "Idempotency-Key": key},
            timeout=10,
        )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.data / "billing.sqlite3", timeout=10)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    service = Process(tmp_path / "billing")
    service.start()
    yield service
    assert service.process is not None
    if service.process.poll() is None:
        service.end(signal.SIGKILL)


def charge_request(port: int, key: str, amount: int) -> bytes:
    body = json.dumps({"user": "alice", "amount": amount, "currency": "USD"}).encode()
    head = (
        f"POST /deduct_cost HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"X-INTERNAL-TOKEN: {TOKEN}\r\nIdempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def send_and_hang_up(port: int, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)


def wait_until(done: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_a_charge_whose_answer_was_lost_is_charged_once(service: Process) -> None:
    """The caller hangs up after each charge was sent, repeats its key, and N charges are N entries."""
    keys = [uuid.uuid4().hex for _ in range(20)]
    for amount, key in enumerate(keys, start=1):
        send_and_hang_up(service.port, charge_request(service.port, key, amount))
    for amount, key in enumerate(keys, start=1):
        answer = service.post("/deduct_cost", {"user": "alice", "amount": amount, "currency": "USD"}, key)
        assert answer.status_code == 200
    charges = service.rows("SELECT idempotency_key, -amount FROM ledger WHERE kind = 'charge'")
    assert sorted(charges) == sorted((key, amount) for amount, key in enumerate(keys, start=1))


class DroppingProxy:
    """Passes requests on, and hangs up on every second client after the service has answered."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.port: int = self._listener.getsockname()[1]
        self.dropped = 0

    def __enter__(self) -> DroppingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        for number in range(1_000_000):
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._target), timeout=10) as upstream:
                self._exchange(client, upstream, drop=number % 2 == 0)

    def _exchange(self, client: socket.socket, upstream: socket.socket, *, drop: bool) -> None:
        client.settimeout(10)
        upstream.sendall(self._message(client))
        answer = self._message(upstream)
        if drop:
            self.dropped += 1
            return
        client.sendall(answer)

    @staticmethod
    def _message(source: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += source.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        while len(body) < int(length.group(1)):
            body += source.recv(65536)
        return head + b"\r\n\r\n" + body


def test_a_service_that_commits_and_drops_the_connection_never_charges_twice(service: Process) -> None:
    """Every answer is lost once after its charge was committed; with retries N charges are N entries."""
    with DroppingProxy(service.port) as proxy:
        for number in range(15):
            body = {"user": "alice", "amount": 10, "currency": "USD"}
            headers = {"X-INTERNAL-TOKEN": TOKEN, "Idempotency-Key": f"charge-{number}"}
            url = f"http://127.0.0.1:{proxy.port}/deduct_cost"
            with pytest.raises(requests.ConnectionError):
                requests.post(url, json=body, headers=headers, timeout=10)
            answer = requests.post(url, json=body, headers=headers, timeout=10)
            assert (answer.status_code, answer.headers["Idempotency-Replayed"]) == (200, "true")
        assert proxy.dropped == 15
    assert service.rows("SELECT count(*), sum(amount) FROM ledger WHERE kind = 'charge'") == [(15, -150)]


def charge_until_it_works(service: Process, key: str, stop: threading.Event) -> bool:
    """Repeat one charge until it is answered; False when told to stop before."""
    while not stop.is_set():
        try:
            answer = service.post("/deduct_cost", {"user": "alice", "amount": 7, "currency": "USD"}, key)
        except requests.RequestException:
            time.sleep(0.01)  # the service is being restarted
            continue
        if answer.status_code == 200:
            return True
        assert answer.status_code == 503
    return False


def test_kill_9_under_a_loop_of_charges_loses_and_doubles_nothing(service: Process) -> None:
    """While the service is killed and restarted, four callers charge on: each key is charged exactly once."""
    stop = threading.Event()
    answered: list[str] = []
    failures: list[BaseException] = []

    def charge_on() -> None:
        try:
            for _ in range(100_000):
                key = uuid.uuid4().hex
                if stop.is_set() or not charge_until_it_works(service, key, stop):
                    return
                answered.append(key)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=charge_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            before = len(answered)
            wait_until(lambda before=before: bool(failures) or len(answered) >= before + 30)  # type: ignore[misc]
            service.end(signal.SIGKILL)
            service.start()
        before = len(answered)
        wait_until(lambda: bool(failures) or len(answered) >= before + 10)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert failures == []
    charged = [key for (key,) in service.rows("SELECT idempotency_key FROM ledger WHERE kind = 'charge'")]
    assert len(charged) == len(set(charged))
    assert set(answered) <= set(charged)
    # Those that were stopped before their answer came: at most one of each caller.
    assert len(set(charged) - set(answered)) <= 4
    (balance, total), *_ = service.rows(
        "SELECT (SELECT balance FROM ledger ORDER BY number DESC LIMIT 1), (SELECT sum(amount) FROM ledger)"
    )
    assert balance == total == START - 7 * len(charged)
    assert service.rows("PRAGMA integrity_check") == [("ok",)]


def test_sigterm_ends_the_service_cleanly(service: Process) -> None:
    """On SIGTERM the service stops with code 0 and folds its write-ahead log back into the file."""
    service.post("/deduct_cost", {"user": "alice", "amount": 7, "currency": "USD"}, "k")
    assert service.end(signal.SIGTERM) == 0
    assert [path.name for path in service.data.iterdir()] == ["billing.sqlite3"]


@pytest.mark.parametrize("balance", ["a lot", "-5"])
def test_a_wrong_setting_ends_the_start_with_one_line(tmp_path: Path, balance: str) -> None:
    """A setting that is no amount is one clear line and exit code 1, not a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "backend.services.billing", "--port", "0", "--data", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BILLING_STARTING_BALANCE": balance},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "BILLING_STARTING_BALANCE" in line
