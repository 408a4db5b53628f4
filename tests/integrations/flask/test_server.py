"""The extension behind a real HTTP server, with many threads and real calls to another service."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask, jsonify, request
from werkzeug.serving import WSGIRequestHandler, make_server

from service_utils import ResilientServiceClient
from service_utils.http.context import ContextThreadPoolExecutor, current_request_id
from service_utils.integrations.flask import ServiceUtils, require_internal_token
from service_utils.policies.fallback import mark_degraded
from service_utils.registry import ServiceRegistry

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
THREADS = 16


class _Quiet(WSGIRequestHandler):
    def log(self, *_args: object, **_kwargs: object) -> None:
        """Access lines are of no use here."""


@contextmanager
def served(app: Flask) -> Iterator[int]:
    """The app on a free port of this machine; yields the port."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def get(port: int, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), json.loads(response.read())
    finally:
        connection.close()


def headers_received() -> dict[str, str]:
    """A view that answers with the headers it got."""
    return dict(request.headers)


@pytest.fixture
def downstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A service of ours that answers with the headers it got."""
    monkeypatch.setenv("INTERNAL_SERVICE_TOKEN", "token-1")
    app = Flask("downstream")
    ServiceUtils(app, ServiceRegistry())
    app.add_url_rule("/headers", "headers", require_internal_token(headers_received))
    with served(app) as port:
        yield port


def test_context_travels_through_two_services(downstream: int) -> None:
    """Id, trace and time left of a user's request arrive at the service behind the service."""
    registry = ServiceRegistry()
    app = Flask("upstream")
    ServiceUtils(app, registry, request_deadline=5.0)
    with ResilientServiceClient(f"http://127.0.0.1:{downstream}", "Downstream", registry=registry) as client:
        app.add_url_rule("/ask", "ask", lambda: jsonify(client.get("/headers").json()))
        with served(app) as port:
            sent = {"X-Request-ID": "user-1", "traceparent": TRACEPARENT, "tracestate": "a=1"}
            status, headers, got = get(port, "/ask", sent)
    assert status == 200
    assert headers["X-Request-ID"] == "user-1"
    assert got["X-Request-Id"] == "user-1"
    assert got["Traceparent"].split("-")[1] == TRACEPARENT.split("-")[1]
    assert got["Tracestate"] == "a=1"
    assert 0 < int(got["X-Request-Timeout-Ms"]) <= 5000


def test_many_threads_keep_their_requests_apart() -> None:
    """Sixteen requests at the same moment in sixteen threads, each with threads of its own, do not mix."""
    app = Flask("busy")
    ServiceUtils(app, ServiceRegistry())
    barrier = threading.Barrier(THREADS, timeout=20)
    pool = ContextThreadPoolExecutor(4)

    def view(number: int) -> dict[str, Any]:
        barrier.wait()
        if number % 2:
            mark_degraded("other")
        mine, of_my_thread = current_request_id(), pool.submit(current_request_id).result(20)
        barrier.wait()
        return {"ids": [mine, of_my_thread, current_request_id()]}

    app.add_url_rule("/view/<int:number>", "view", view)

    def ask(number: int) -> tuple[int, dict[str, str], Any]:
        return get(port, f"/view/{number}", {"X-Request-ID": f"req-{number}"})

    with pool, served(app) as port, ThreadPoolExecutor(THREADS) as callers:
        for _ in range(3):
            for number, (status, headers, body) in enumerate(callers.map(ask, range(THREADS))):
                assert status == 200
                assert body == {"ids": [f"req-{number}"] * 3}
                assert headers["X-Request-ID"] == f"req-{number}"
                assert headers.get("X-Degraded") == ("true" if number % 2 else None)


def test_a_service_that_is_away_is_a_503_problem() -> None:
    """The user of an app whose service refuses connections reads when to come again, and no address."""
    registry = ServiceRegistry()
    app = Flask("upstream")
    ServiceUtils(app, registry)
    with ResilientServiceClient("http://127.0.0.1:1", "Billing", max_retries=1, registry=registry) as client:
        app.add_url_rule("/ask", "ask", lambda: client.get("/balance").text)
        with served(app) as port:
            status, headers, body = get(port, "/ask", {"X-Request-ID": "user-1"})
    assert status == 503
    assert headers["Content-Type"] == "application/problem+json"
    assert int(headers["Retry-After"]) >= 1
    assert body == {
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Billing is unavailable at the moment.",
        "request_id": "user-1",
    }


def test_repeated_headers_are_no_way_in(downstream: int) -> None:
    """A header that is sent twice is malformed, and treated so."""
    connection = http.client.HTTPConnection("127.0.0.1", downstream, timeout=20)
    try:
        connection.putrequest("GET", "/headers")
        for name, value in (
            ("X-INTERNAL-TOKEN", "wrong"),
            ("X-INTERNAL-TOKEN", "token-1"),
            ("X-Request-ID", "a"),
            ("X-Request-ID", "b"),
        ):
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 401
        assert response.getheader("X-Request-ID") not in ("a", "b", "a,b", None)
    finally:
        connection.close()
