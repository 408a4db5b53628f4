from __future__ import annotations

import io

import pytest
from flask import Flask, Response, jsonify

from backend.services.common import RequestModel, make_service_app, parse

LIMIT = 1000


class Wanted(RequestModel):
    amount: int


@pytest.fixture
def app() -> Flask:
    app = make_service_app("limited", ready=lambda: None, max_body=LIMIT)

    @app.post("/")
    def view() -> Response:
        return jsonify(amount=parse(Wanted).amount)

    return app


def post_chunked(app: Flask, body: bytes) -> int:
    """As gunicorn hands over a body that is sent in chunks: without its length."""
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    response = app.test_client().post(
        "/", input_stream=io.BytesIO(body), content_type="application/json", environ_overrides=environ
    )
    return response.status_code


def test_chunked_body_over_the_limit(app: Flask) -> None:
    """A body over the limit is refused as too large also when it is sent in chunks, not read in part."""
    assert post_chunked(app, b'{"amount": 1}'.ljust(LIMIT) + b"and what is never read") == 413


def test_chunked_body_within_the_limit(app: Flask) -> None:
    """A body within the limit may be sent in chunks."""
    assert post_chunked(app, b'{"amount": 1}'.ljust(LIMIT - 1)) == 200
