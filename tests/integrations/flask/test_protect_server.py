"""Protected routes behind waitress, with real threads and real connections, some of which break off."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import waitress
from flask import Flask, Response, request

from service_utils import ServiceRegistry
from service_utils.integrations.flask import Limits, Priority, ServiceUtils, protect
from service_utils.integrations.flask.protection import Protection
from tests.forked import in_child
from tests.in_thread import in_thread
from tests.side_by_side import PATIENCE, together

THREADS = 10
QUIET = logging.getLogger("waitress")


@contextmanager
def served(app: Flask) -> Iterator[int]:
    """The app behind waitress on a free port; yields the port."""
    QUIET.setLevel(logging.CRITICAL)
    options = {"host": "127.0.0.1", "port": 0, "threads": THREADS, "clear_untrusted_proxy_headers": True}
    server = waitress.create_server(app, **options)
    try:
        with in_thread(server):
            yield server.effective_port
    finally:
        QUIET.setLevel(logging.NOTSET)


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request("GET", path, headers=sent)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def hang_up(port: int, path: str) -> None:
    """Ask, read a little of the answer, and be gone."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        caller.recv(100)


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait, with a bound, until something holds."""
    for _ in range(PATIENCE * 200):
        if holds():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came")


class Scene:
    """An app that holds its requests until it is told to let them go."""

    def __init__(self, **limits: Any) -> None:
        self.app = Flask("busy")
        self.go = threading.Event()
        ServiceUtils(self.app, ServiceRegistry())
        views = {"/work": self.work, "/endless": self.endless, "/broken": self.broken, "/vip": self.work}
        for path, view in views.items():
            self.app.add_url_rule(path, path, view)
        self.app.add_url_rule("/health/live", "live", lambda: {"status": "ok"})
        common = {"breaker": None, **limits}
        self.protection: Protection = protect(
            self.app,
            {"/": Limits(**common), "/vip": Limits(**common, priority=Priority.HIGH)},
            max_concurrent=5,
        )

    def work(self) -> dict[str, bool]:
        """Work that takes as long as it is told to."""
        assert self.go.wait(PATIENCE)
        return {"done": True}

    @staticmethod
    def endless() -> Response:
        """A stream that ends when the caller does."""

        def body() -> Iterator[bytes]:
            while True:
                yield b"x" * 65536

        return Response(body())

    @staticmethod
    def broken() -> Response:
        """A stream that breaks in the middle."""

        def body() -> Iterator[bytes]:
            yield b"x" * 1000
            raise ValueError(request.path)

        return Response(body())

    def route(self, path: str = "/") -> dict[str, Any]:
        """The status of a route."""
        return dict(self.protection.get_status()["routes"][path])

    def empty(self) -> bool:
        """Whether nobody holds or waits for anything."""
        status = self.protection.get_status()
        places = [*status["routes"].values(), *status["app"]["priorities"].values()]
        halls = [
            queue.hall.get_status()["in_flight"]
            for queue in (*self.protection._house.values(), *(gate.queue for gate in self.protection._gates))
            if queue is not None and queue.hall is not None
        ]
        return not any(each["in_flight"] or each["waiting"] for each in places) and not any(halls)


def test_load_is_shed_while_the_rest_works_on() -> None:
    """With all places of a route taken others are refused at once, and health pages answer as ever."""
    scene = Scene(max_concurrent=2)
    with served(scene.app) as port:
        answers: list[int] = []

        def worker(number: int) -> None:
            if number < 2:
                answers.append(ask(port, "/work")[0])
                return
            wait_until(lambda: scene.route()["in_flight"] == 2)
            status, headers, body = ask(port, "/work")
            answers.append(status)
            assert (headers["Retry-After"], json.loads(body)["status"]) == ("1", 503)
            assert ask(port, "/health/live")[0] == 200
            if answers.count(503) == 4:
                scene.go.set()

        together(6, worker)
        assert sorted(answers) == [200, 200, 503, 503, 503, 503]
        wait_until(scene.empty)


def test_important_requests_get_in_where_others_do_not() -> None:
    """When the normal ones fill their share of the app, there is still room for those of high priority."""
    scene = Scene()
    with served(scene.app) as port:

        def worker(number: int) -> int:
            if number < 4:
                return ask(port, "/work")[0]
            wait_until(lambda: scene.route()["admitted"] == 4)
            if number == 4:
                return ask(port, "/vip")[0]
            wait_until(lambda: scene.route("/vip")["admitted"] == 1)
            refused = ask(port, "/work")[0], ask(port, "/vip")[0]
            scene.go.set()
            assert refused == (503, 503)
            return 0

        assert together(6, worker) == [200] * 5 + [0]
        wait_until(scene.empty)


def test_time_runs_out_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A believed caller that has 50 ms left waits no longer for its turn, and hears 504."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "token-1")
    scene = Scene(max_concurrent=1, max_queue_seconds=PATIENCE)
    with served(scene.app) as port:

        def worker(number: int) -> int:
            if number == 0:
                return ask(port, "/work")[0]
            wait_until(lambda: scene.route()["in_flight"] == 1)
            status = ask(port, "/work", X_INTERNAL_TOKEN="token-1", X_Request_Timeout_Ms="50")[0]
            scene.go.set()
            return status

        assert together(2, worker) == [200, 504]
        wait_until(scene.empty)


@pytest.mark.parametrize("path", ["/endless", "/broken"])
def test_callers_that_hang_up_leave_nothing_behind(path: str) -> None:
    """However a stream ends, the server closes it and the places are free."""
    scene = Scene(max_concurrent=3)
    with served(scene.app) as port:
        together(3, lambda _: hang_up(port, path))
        wait_until(scene.empty)
        assert scene.route()["admitted"] == 3


def test_a_mixed_storm_leaves_nothing_behind() -> None:
    """Hundreds of requests that end in every way, more than there is room for, and then all is empty."""
    scene = Scene(max_concurrent=2, max_queue_seconds=0.02, max_queue=2)
    scene.go.set()
    with served(scene.app) as port:

        def worker(number: int) -> set[int]:
            seen = set()
            for turn in range(12):
                kind = (number + turn) % 4
                if kind == 0:
                    hang_up(port, "/endless")
                elif kind == 1:
                    hang_up(port, "/broken")
                else:
                    seen.add(ask(port, "/work" if kind == 2 else "/vip")[0])
            return seen

        seen = set().union(*together(8, worker))
        assert 200 in seen
        assert seen <= {200, 503}
        wait_until(scene.empty)


def test_a_child_begins_with_all_places_free() -> None:
    """What is under way when a server forks its workers is the parent's."""
    scene = Scene(max_concurrent=1)
    client = scene.app.test_client()

    def asked_in_child() -> tuple[bool, int, int]:
        scene.go.set()
        return scene.empty(), client.get("/work", buffered=True).status_code, scene.route()["admitted"]

    scene.app.add_url_rule("/fork", "fork", lambda: list(in_child(asked_in_child)))
    assert client.get("/fork", buffered=True).json == [True, 200, 1]
    assert scene.empty()
