from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest
from flask import Flask

from backend.services.serving import open_server
from tests.in_thread import in_thread

LIMIT = 1000


@pytest.fixture
def port() -> Iterator[int]:
    app = Flask("limited")
    app.config["MAX_CONTENT_LENGTH"] = LIMIT
    server, port = open_server(app, threads=1)
    with in_thread(server):
        yield port


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
