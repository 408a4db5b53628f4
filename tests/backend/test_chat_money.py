"""Chat and money: the user gets the answer or keeps the money, whatever fails and whenever."""

from __future__ import annotations

import sqlite3
import threading
from itertools import product
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.app import create_app
from backend.llm import Answer
from tests.backend.accounts import START, charges, held
from tests.backend.running import Fault, Services
from tests.backend.test_chat import chat

PRICE = 100
FAULTS = (None, *Fault)


@pytest.fixture
def app(settings: dict[str, Any], request: pytest.FixtureRequest) -> Flask:
    """A backend that does not wait long for a Billing that is going to be silent."""
    silent = hasattr(request.node, "callspec") and Fault.SILENT in request.node.callspec.params.values()
    return create_app({**settings, "BILLING_DEADLINE": "0.8" if silent else "10"})


@pytest.mark.parametrize("fault", Fault)
def test_no_answer_and_no_charge_when_nothing_can_be_reserved(
    client: FlaskClient, services: Services, fault: Fault
) -> None:
    """Chat is fail closed about money: without a reservation nobody even searches."""
    services.billing.fail("/reserve", fault)

    response = chat(client)

    assert response.status_code == {Fault.REFUSED: 502, Fault.SILENT: 504}.get(fault, 503)
    assert response.mimetype == "application/problem+json"
    assert charges(services) == []
    assert services.chroma.requests == []


def test_billing_that_is_stopped_is_503(client: FlaskClient, services: Services) -> None:
    """Without Billing the problem says when to come back."""
    services.billing.stop()

    response = chat(client)

    assert (response.status_code, "Retry-After" in response.headers) == (503, True)


def test_capture_that_was_never_sent_is_no_answer_and_no_charge(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the circuit opens between reserving and taking, nothing was taken: no answer for free."""
    parts = client.application.extensions["backend"]
    answer = parts.chat._answerer.answer

    def open_circuit(*args: Any) -> Any:
        parts.clients.billing.breaker.force_open("a test")
        return answer(*args)

    monkeypatch.setattr(parts.chat._answerer, "answer", open_circuit)

    assert chat(client).status_code == 503
    assert charges(services) == []
    assert "/capture" not in services.billing.paths()


@pytest.mark.parametrize(("status", "answered"), [(429, False), (408, True), (409, True)])
def test_refused_capture_is_told_from_a_doubtful_one(
    client: FlaskClient, services: Services, status: int, answered: bool
) -> None:
    """Too many requests: nothing was done, for certain. A time-out or a conflict on the way says nothing."""
    services.billing.app.view_functions["capture"] = lambda: ("", status, {"Retry-After": "0"})

    response = chat(client)

    if answered:
        assert response.json["billing"]["status"] == "pending"
    else:
        assert response.status_code == 502
        assert held(services) == 0
    assert charges(services) == []


def test_too_small_balance_is_402(settings: dict[str, Any], services: Services) -> None:
    """Who cannot pay what an answer may cost is told so, and keeps what he has."""
    client = create_app({**settings, "CHAT_RESERVE": START + 1}).test_client()

    response = chat(client)

    assert (response.status_code, response.json["available"]) == (402, START)
    assert (charges(services), held(services)) == ([], 0)


@pytest.mark.parametrize(("capture", "release"), list(product(FAULTS, (None, Fault.ERROR, Fault.LOST))))
def test_answer_or_money(
    client: FlaskClient, services: Services, capture: Fault | None, release: Fault | None
) -> None:
    """However Billing fails at taking the money or giving it back, no user pays without having the answer."""
    for path, fault in (("/capture", capture), ("/release", release)):
        if fault is not None:
            services.billing.fail(path, fault)

    response = chat(client)

    taken = charges(services)
    if response.status_code == 200:
        status = response.json["billing"]["status"]
        assert status == ("charged" if capture is None else "pending")
        assert taken == ([PRICE] if capture in (None, Fault.LOST) else [])
        # A release now could overtake a capture that is still under way.
        assert "/release" not in services.billing.paths()
    else:
        assert capture is Fault.REFUSED
        assert taken == []
        assert (held(services) == 0) == (release is not Fault.ERROR)


@pytest.mark.parametrize(("path", "fault"), list(product(("/reserve", "/capture"), Fault)))
def test_repeating_with_the_same_key_pays_once(
    client: FlaskClient, services: Services, path: str, fault: Fault
) -> None:
    """After any failure the same key leads to the answer, and at most one charge."""
    services.billing.fail(path, fault)
    before = chat(client, key="k1")
    services.billing.heal()

    after = chat(client, key="k1")

    assert after.status_code == 200
    if before.status_code == 200:
        assert after.json == before.json
        assert after.headers["Idempotency-Replayed"] == "true"
        assert len(charges(services)) <= 1
    else:
        assert after.json["billing"]["status"] == "charged"
        assert charges(services) == [PRICE]


def test_repeated_request_gets_the_first_answer(client: FlaskClient, services: Services) -> None:
    """The same key and message bring the same words for the same money; nothing is asked of anybody again."""
    first = chat(client, key="k1")
    before = len(services.chroma.requests), len(services.billing.requests)
    second = chat(client, key="k1")

    assert second.json == first.json
    assert (len(services.chroma.requests), len(services.billing.requests)) == before
    assert charges(services) == [PRICE]


def test_key_stands_for_one_message(client: FlaskClient, services: Services) -> None:
    """The same key with another message is refused."""
    chat(client, "One?", key="k1")
    response = chat(client, "Two?", key="k1")

    assert (response.status_code, response.json["field"]) == (422, "Idempotency-Key")
    assert charges(services) == [PRICE]


def test_requests_without_keys_are_each_paid_for(client: FlaskClient, services: Services) -> None:
    """Without a key, asking twice is two questions."""
    chat(client)
    chat(client)

    assert charges(services) == [PRICE, PRICE]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_money_comes_back_when_answering_breaks(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """A bug, or the end of the process, between reserving and taking gives the money back."""

    def broken(*_args: object) -> None:
        raise error

    monkeypatch.setattr(client.application.extensions["backend"].chat._answerer, "answer", broken)
    if issubclass(error, Exception):
        assert chat(client).status_code == 500
    else:
        with pytest.raises(error):
            chat(client)

    assert (charges(services), held(services)) == ([], 0)


def test_money_comes_back_when_the_time_is_up(
    settings: dict[str, Any], services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes after the request's time is not paid for: the reservation is released at once."""
    app = create_app({**settings, "REQUEST_DEADLINE": "0.5"})
    late = threading.Event()

    def dawdle(*_args: object) -> Answer:
        late.wait(0.7)
        return Answer(text="late", tokens=0, model=None, answered_by="local", degraded=False)

    monkeypatch.setattr(app.extensions["backend"].chat._answerer, "answer", dawdle)

    assert chat(app.test_client()).status_code == 504
    assert (charges(services), held(services)) == ([], 0)


def test_process_that_dies_after_the_charge_does_not_charge_again(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a killed process has taken the money already, the repeat notices and delivers the answer."""
    parts = client.application.extensions["backend"]

    def die(*_args: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(parts.chat, "_written_down", die)
        with pytest.raises(SystemExit):
            chat(client, key="k1")
    assert charges(services) == [PRICE]
    assert chat(client, key="k1").status_code == 409

    monkeypatch.setattr(parts.replays, "_lease", -1.0)
    monkeypatch.setattr(parts.replays, "_now", lambda now=parts.replays._now: now() + 100)
    again = chat(client, key="k1")

    assert (again.status_code, again.json["billing"]["status"]) == (200, "charged")
    assert charges(services) == [PRICE]


def test_no_time_left_for_the_answer_keeps_the_money(settings: dict[str, Any], services: Services) -> None:
    """When everything is slow, the time kept for the money is enough to take or give it back."""
    client = create_app({**settings, "REQUEST_DEADLINE": "1"}).test_client()
    services.chroma.fail("/query", Fault.SILENT)

    response = chat(client)

    assert (response.status_code, response.json["source"]) == (200, "index")
    assert "/query" in services.chroma.paths()
    assert (charges(services), held(services)) == ([PRICE], 0)


def test_reply_that_cannot_be_kept_is_given_all_the_same(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk after the charge does not cost the answer."""

    def full(*_args: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(client.application.extensions["backend"].replays, "finish", full)

    assert chat(client, key="k1").json["billing"]["status"] == "charged"
    assert charges(services) == [PRICE]
