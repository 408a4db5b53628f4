"""The ready-made fallbacks with real clients, a real queue and a Flask application."""

from __future__ import annotations

import threading
from typing import Any

import flask
import pytest
import requests

from service_utils import (
    DeadlineExceeded,
    FallbackChain,
    Outcome,
    ResilientServiceClient,
    ServiceRegistry,
    call_of,
)
from service_utils.dead_letters import DeadLetterQueue, DeadLetterWorker, MemoryDeadLetters
from service_utils.fallbacks import AnswerTemplates, MessageQueueing, ReadOnlyMode
from service_utils.integrations.flask import ServiceUtils
from service_utils.policies.fallback import Strategy
from service_utils.testing import Answer, FaultServer

BRIEFLY = 0.1  # real seconds that a service which hangs may take


def client_of(server: FaultServer, **arguments: Any) -> ResilientServiceClient:
    return ResilientServiceClient(
        server.url, "LLM", max_retries=1, timeout=30, token_provider=None, **arguments
    )


def test_hanging_service_leaves_no_thread_behind(fault_server: FaultServer) -> None:
    """A client call in a late strategy ends by itself, since it knows its time; no circuit counts it."""
    fault_server.default = Answer(200, delay=20)
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    with client_of(fault_server, failure_threshold=1) as llm:

        def ask(question: str) -> requests.Response:
            threads.append(threading.current_thread())
            try:
                return llm.get("/answer")
            except BaseException as error:
                errors.append(error)
                raise

        templates = AnswerTemplates({}, default="Please try again later.")
        chain = FallbackChain("answer", [Strategy("llm", ask, timeout=BRIEFLY), templates.strategy()])
        report = chain.run_report("why")
        threads[0].join(20)
        assert (report.answer, report.steps[0].outcome) == ("Please try again later.", "timeout")
        assert not threads[0].is_alive()
        assert isinstance(errors[0], DeadlineExceeded)
        assert call_of(errors[0]).attempts[0].outcome is Outcome.IGNORED
        assert llm.state.value == "closed"


def test_open_circuit_of_a_client_is_skipped(fault_server: FaultServer) -> None:
    """While a client's circuit is open its strategy is not called."""
    fault_server.default = Answer(503)
    with client_of(fault_server, failure_threshold=1) as llm:
        chain = FallbackChain(
            "answer",
            [Strategy("llm", lambda: llm.get("/answer"), client=llm), ("sorry", lambda: "sorry")],
        )
        steps = [chain.run_report().steps[0].outcome.value for _ in range(2)]
    assert steps == ["failure", "skipped"]
    assert len(fault_server.requests) == 1


def test_queued_message_is_sent_later() -> None:
    """What could not be sent is sent by the worker of the dead letters."""
    queue = DeadLetterQueue(MemoryDeadLetters())
    sent: list[Any] = []

    def away(message: Any) -> Any:
        raise requests.ConnectionError("away")

    chain = FallbackChain("whatsapp", [away, MessageQueueing(queue, "whatsapp").strategy()])
    queued, _ = chain.run({"to": "Ada", "text": "hello"})
    assert queue.get(queued.letter_id).kind == "message"
    worker = DeadLetterWorker(queue, ServiceRegistry())
    worker.register("whatsapp", sent.append)
    worker.run_once()
    assert sent == [{"to": "Ada", "text": "hello"}]


@pytest.mark.parametrize("fallback", [False, True])
def test_read_only_in_flask(fallback: bool) -> None:
    """A refused write is a 503 that says when to come back; one with another way is a degraded answer."""
    mode = ReadOnlyMode("orders", retry_after=7)
    app = flask.Flask(__name__)
    ServiceUtils(app, registry=ServiceRegistry())
    otherwise: Any = (lambda: {"status": "queued"}) if fallback else None
    app.post("/orders")(mode.writes(otherwise=otherwise)(lambda: {"status": "written"}))
    mode.enter("backup")
    answer = app.test_client().post("/orders")
    if fallback:
        assert (answer.status_code, answer.get_json(), answer.headers["X-Degraded"]) == (
            200,
            {"status": "queued"},
            "true",
        )
    else:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
        assert answer.mimetype == "application/problem+json"
        assert "backup" not in answer.text
