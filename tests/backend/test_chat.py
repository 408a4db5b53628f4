"""Chat over HTTP: context, answer, price, and where it is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from backend.extractive import NOTHING_FOUND
from service_utils.testing import Answer, FaultServer
from tests.backend.accounts import charges, held
from tests.backend.running import Fault, Services

REFUNDS = "Refunds are paid within 14 days of the return. Shipping costs are not refunded."


@pytest.fixture
def llms() -> Iterator[tuple[FaultServer, FaultServer]]:
    """Two LLM servers that answer well."""
    with (
        FaultServer(default=completion("From the first.", 500)) as first,
        FaultServer(default=completion("From the second.", None)) as second,
    ):
        yield first, second


@pytest.fixture
def llm_client(settings: dict[str, Any], llms: tuple[FaultServer, FaultServer]) -> FlaskClient:
    """A user of a backend that has both of them."""
    first, second = llms
    return create_app(
        {
            **settings,
            "LLM_SERVER_URL": first.url + "/v1",
            "LLM_MODEL": "large",
            "LLM_API_KEY": "key-of-the-first",
            "LLM_FALLBACK_URL": second.url,
            "LLM_FALLBACK_MODEL": "small",
            "LLM_DEADLINE": "0.5",
        }
    ).test_client()


def completion(text: Any, tokens: int | None) -> Answer:
    body: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    if tokens is not None:
        body["usage"] = {"total_tokens": tokens}
    return Answer.json(body)


def fill(client: FlaskClient) -> None:
    documents = [{"id": "refunds", "text": REFUNDS}, {"id": "parking", "text": "Parking is free."}]
    assert (
        client.post("/v1/api/documents", json={"project_id": "p1", "documents": documents}).status_code == 200
    )


def chat(client: FlaskClient, message: str = "When are refunds paid?", key: str | None = None) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/api/chat", json={"message": message, "project_id": "p1"}, headers=headers)


def history(client: FlaskClient) -> list[dict[str, Any]]:
    return list(client.get("/v1/api/projects/p1/history").json["entries"])


def test_without_an_llm_the_best_sentences_answer(
    client: FlaskClient, services: Services, tmp_path: Path
) -> None:
    """The local answerer quotes the context, which is the normal case when no LLM is set up."""
    fill(client)

    response = chat(client)

    assert response.status_code == 200
    reply = response.json
    assert reply["answer"].startswith("Refunds are paid within 14 days of the return.")
    assert (reply["answered_by"], reply["model"], reply["degraded"]) == ("local", None, False)
    assert {"id": "refunds", "file_path": "documents/refunds.txt"} in reply["sources"]
    assert reply["billing"] == {"status": "charged", "amount": 100, "currency": "USD"}
    assert (reply["history"], len(reply["snapshot"])) == ("filesystem", 40)
    assert "X-Degraded" not in response.headers
    assert (charges(services), held(services)) == ([100], 0)
    assert "When are refunds paid?" in (tmp_path / "projects/p1/chat_history.jsonl").read_text()


def test_answerer_says_when_nothing_matches(client: FlaskClient) -> None:
    """A question the documents do not touch gets no made-up answer."""
    fill(client)

    assert chat(client, "What is the capital of France?").json["answer"] == NOTHING_FOUND


def test_first_llm_answers_from_the_context(
    llm_client: FlaskClient, llms: tuple[FaultServer, FaultServer], services: Services
) -> None:
    """The LLM is asked with the excerpts, the model's name and its own key, and paid by what it took."""
    fill(llm_client)

    reply = chat(llm_client).json

    assert (reply["answer"], reply["answered_by"], reply["model"]) == ("From the first.", "llm", "large")
    assert reply["degraded"] is False
    assert reply["billing"]["amount"] == 100 + 1000
    assert charges(services) == [1100]
    asked = llms[0].requests[-1]
    sent = json.loads(asked.body)
    assert (asked.path, sent["model"]) == ("/v1/chat/completions", "large")
    assert REFUNDS in sent["messages"][0]["content"]
    assert sent["messages"][1] == {"role": "user", "content": "When are refunds paid?"}
    assert asked.headers["Authorization"] == "Bearer key-of-the-first"


def test_llms_never_see_the_internal_token(
    llm_client: FlaskClient, llms: tuple[FaultServer, FaultServer]
) -> None:
    """No LLM server gets our services' secret, not even one on this machine, or the key of another one."""
    llms[0].default = Answer(500)
    chat(llm_client)

    for server in llms:
        assert server.requests
        assert not any("X-INTERNAL-TOKEN" in request.headers for request in server.requests)
    assert "Authorization" not in llms[1].requests[-1].headers


@pytest.mark.parametrize(
    "fault",
    [
        Answer(500),
        Answer(401),
        Answer(429),
        Answer(200, "oops"),
        Answer(200, "[]"),
        completion("", 5),
        completion(None, 5),
        Answer.json({"choices": []}),
        Answer(200, "late", delay=3),
    ],
    ids=lambda answer: f"{answer.status}-{answer.body!r}",
)
def test_second_llm_answers_when_the_first_does_not(
    llm_client: FlaskClient, llms: tuple[FaultServer, FaultServer], fault: Answer
) -> None:
    """Whatever is wrong with the first LLM's answer, the second is asked, and the user is told."""
    llms[0].default = fault

    response = chat(llm_client)

    reply = response.json
    assert (reply["answer"], reply["answered_by"], reply["model"]) == (
        "From the second.",
        "llm_fallback",
        "small",
    )
    assert reply["degraded"] is True
    assert response.headers["X-Degraded"] == "true"


def test_own_answerer_is_the_last_resort(
    llm_client: FlaskClient, llms: tuple[FaultServer, FaultServer]
) -> None:
    """With both LLMs failing the best sentences answer."""
    fill(llm_client)
    for server in llms:
        server.default = Answer(503)

    reply = chat(llm_client).json

    assert (reply["answered_by"], reply["degraded"], reply["billing"]["amount"]) == ("local", True, 100)
    assert reply["answer"].startswith("Refunds are paid")


def test_price_is_never_above_what_was_reserved(
    settings: dict[str, Any], llms: tuple[FaultServer, FaultServer], services: Services
) -> None:
    """An answer that took more than expected costs what was set aside for it."""
    llms[0].default = completion("Long.", 10**9)
    client = create_app({**settings, "LLM_SERVER_URL": llms[0].url, "CHAT_RESERVE": 700}).test_client()

    assert chat(client).json["billing"]["amount"] == 700
    assert charges(services) == [700]


def test_context_comes_from_elsewhere_when_chroma_is_away(client: FlaskClient, services: Services) -> None:
    """Chat goes on without Chroma, with the context of the next best search."""
    fill(client)
    services.chroma.stop()

    reply = chat(client).json

    assert (reply["source"], reply["degraded"]) == ("filesystem", True)
    assert reply["answer"].startswith("Refunds are paid")


def test_history_goes_to_memory_while_files_are_away(client: FlaskClient, services: Services) -> None:
    """With Filesystem stopped the answer says the exchange is kept in memory; it is written down later."""
    services.filesystem.stop()
    reply = chat(client, "First?").json
    assert (reply["history"], reply["degraded"]) == ("memory", True)

    services.filesystem.start()
    waiting = history(client)
    assert [(entry["message"], entry.get("pending")) for entry in waiting] == [("First?", True)]

    assert chat(client, "Second?").json["history"] == "filesystem"
    written = history(client)
    assert [entry["message"] for entry in written] == ["First?", "Second?"]
    assert not any("pending" in entry for entry in written)


def test_append_whose_answer_was_lost_is_one_entry(client: FlaskClient, services: Services) -> None:
    """An exchange that was written although nobody heard of it does not show up twice."""
    services.filesystem.fail("/save_file", Fault.LOST)
    assert chat(client, "First?").json["history"] == "memory"
    services.filesystem.heal()
    chat(client, "Second?")

    assert [entry["message"] for entry in history(client)] == ["First?", "Second?"]


def test_snapshot_is_best_effort(client: FlaskClient, services: Services) -> None:
    """Without Git there is an answer and no snapshot."""
    services.git.stop()

    response = chat(client)

    assert (response.status_code, response.json["snapshot"], response.json["degraded"]) == (200, None, True)


def test_silent_services_do_not_hold_up_the_answer(settings: dict[str, Any], services: Services) -> None:
    """History and snapshot have time limits of their own."""
    client = create_app({**settings, "FILESYSTEM_DEADLINE": "0.2", "GIT_DEADLINE": "0.2"}).test_client()
    services.filesystem.fail("/save_file", Fault.SILENT)
    services.git.fail("/", Fault.SILENT)

    reply = chat(client).json

    assert (reply["history"], reply["snapshot"], reply["billing"]["status"]) == ("memory", None, "charged")


def test_bug_after_payment_does_not_cost_the_answer(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is paid for is delivered, even if writing it down fails in a way nobody thought of."""
    chat_parts = client.application.extensions["backend"].chat
    monkeypatch.setattr(chat_parts._history, "append", lambda *_: 1 / 0)

    response = chat(client)

    assert (response.status_code, response.json["history"]) == (200, None)
    assert charges(services) == [100]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"project_id": "p1"}, "message"),
        ({"message": "x"}, "project_id"),
        ({"message": " ", "project_id": "p1"}, "message"),
        ({"message": ["x"], "project_id": "p1"}, "message"),
        ({"message": "x" * 20_001, "project_id": "p1"}, "message"),
        ({"message": "x", "project_id": "p/1"}, "project_id"),
        ({"message": "x", "project_id": 1}, "project_id"),
        ({"message": "x", "project_id": "p1", "model": "large"}, "model"),
    ],
)
def test_bad_message_names_the_field(lonely_client: FlaskClient, body: dict[str, Any], field: str) -> None:
    """What is wrong with a message is said before any money is set aside."""
    response = lonely_client.post("/v1/api/chat", json=body)

    assert (response.status_code, response.json["field"]) == (400, field)
