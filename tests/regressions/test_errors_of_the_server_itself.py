from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from backend.services.serving import open_server

LIMIT = 1000


@pytest.fixture
def port() -> Iterator[int]:
    app = Flask("limited")
    app.config["MAX_CONTENT_LENGTH"] = LIMIT
    opened, port = open_server(app, threads=1)
    server: Any = opened
    running = threading.Thread(target=server.run, daemon=True)
    running.start()
    yield port
    server.trigger.pull_trigger(server.close)  # closed by the thread that waits for it to be readable
    running.join(10)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, "x" * LIMIT * 5, 413),
        ({"Content-Length": "-1"}, "", 400),
        ({"Transfer-Encoding": "chunked"}, "no chunk\r\n", 400),
        ({"Transfer-Encoding": "unheard of"}, "", 501),
    ],
)
def test_request_that_never_gets_to_the_app(
    port: int, headers: dict[str, str], body: str, status: int
) -> None:
    """A body far over the limit, or a request that is no HTTP, is a problem like any other error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/", body, headers)

    response = connection.getresponse()

    problem = json.loads(response.read())
    assert (response.status, response.getheader("Content-Type")) == (status, "application/problem+json")
    assert (problem["status"], problem["request_id"]) == (status, response.getheader("X-Request-ID"))
    assert problem["title"]
    assert problem["detail"]
    connection.close()
