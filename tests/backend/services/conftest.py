"""Local services under test: in this process on a free port, or as processes of their own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from werkzeug.serving import make_server

TOKEN = "a-token-for-these-tests"
ROOT = Path(__file__).resolve().parents[3]
_STARTED_WITHIN = 30


class Service:
    """A caller of one running service, who knows the internal token."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-INTERNAL-TOKEN"] = TOKEN

    def get(self, path: str, **query: Any) -> requests.Response:
        return self.session.get(self.url + path, params=query, timeout=20)

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.post(self.url + path, json=body, headers=named, timeout=20)


class ServiceProcess(Service):
    """The same for a service that is a process of its own."""

    def __init__(self, process: subprocess.Popen[str], first_line: str) -> None:
        super().__init__(first_line.rsplit(" ", 1)[-1].strip())
        self.process = process
        self.first_line = first_line

    def kill(self) -> None:
        """As if the machine had taken it: nothing is cleaned up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """The token that the services ask for."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", TOKEN)
    return TOKEN


@contextmanager
def served(app: Flask) -> Iterator[Service]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Service(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def serving(token: str) -> Iterator[Callable[[Flask], Service]]:
    """Serve an app over HTTP until the test ends."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))


@pytest.fixture
def spawn(token: str) -> Iterator[Callable[..., ServiceProcess]]:
    """Start a process that prints its address in its first line; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> ServiceProcess:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], _STARTED_WITHIN)
        assert readable, "the service printed nothing"
        return ServiceProcess(process, process.stdout.readline())

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
