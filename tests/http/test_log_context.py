"""What users' own log lines can say about the request they were written for."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator

import pytest
from flask import Flask, Response

from service_utils import ContextThreadPoolExecutor, ServiceRegistry
from service_utils.http.context import bind_context, unbind_context
from service_utils.http.log_context import RequestContextFilter
from service_utils.integrations.flask import ServiceUtils

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"X-Request-ID": "req-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a handler with the filter has written for the logger `shop`."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.addFilter(RequestContextFilter())
    handler.setFormatter(logging.Formatter("%(request_id)s %(trace_id)s %(message)s"))
    logger = logging.getLogger("shop")
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)


def test_lines_of_a_request_carry_its_id_and_trace(lines: io.StringIO) -> None:
    """In the view, in the body that is streamed after it, and in a pool that carries them along."""
    log, app = logging.getLogger("shop"), Flask("shop")
    ServiceUtils(app, ServiceRegistry())

    def body() -> Iterator[str]:
        log.warning("body")
        yield "x"

    def view() -> Response:
        log.warning("view")
        with ContextThreadPoolExecutor(1) as pool:
            pool.submit(log.warning, "pool").result()
        return Response(body())

    app.add_url_rule("/", "view", view)
    app.test_client().get("/", headers=HEADERS, buffered=True)
    log.warning("after")
    words = [line.split() for line in lines.getvalue().splitlines()]
    assert words == [["req-1", TRACE, word] for word in ("view", "pool", "body")] + [["-", "-", "after"]]


def test_a_plain_thread_has_none(lines: io.StringIO) -> None:
    """A thread that nobody told of the request writes dashes, not somebody else's id."""
    token = bind_context(request_id="req-1")
    thread = threading.Thread(target=logging.getLogger("shop").warning, args=("thread",))
    thread.start()
    thread.join()
    unbind_context(token)
    assert lines.getvalue() == "- - thread\n"


def test_what_a_line_says_itself_goes_first(lines: io.StringIO) -> None:
    """`extra=` wins, and a trace that is no W3C one does no harm."""
    token = bind_context(request_id="req-1", trace={"traceparent": "odd"})
    logging.getLogger("shop").warning("a", extra={"request_id": "mine"})
    unbind_context(token)
    assert lines.getvalue() == "mine - a\n"
