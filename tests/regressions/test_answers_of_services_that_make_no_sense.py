from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

from backend.app import create_app

CHROMA = "http://chroma.internal"
FILESYSTEM = "http://filesystem.internal"
BILLING = "http://billing.internal"
GIT = "http://git.internal"
LLM = "http://llm.internal"

TOO_MANY_DIGITS = "1" + "0" * 5000
NESTED = "[" * 100_000


@pytest.fixture
def services() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.post(f"{BILLING}/reserve", json={"reservation_id": "r"})
        mock.post(f"{BILLING}/capture", json={"state": "captured"})
        mock.post(f"{FILESYSTEM}/save_file", json={})
        mock.get(f"{FILESYSTEM}/projects/p/search", status=404)
        mock.post(f"{GIT}/snapshot/p", json={"sha": "1"})
        yield mock


@pytest.fixture
def client(tmp_path: Path, services: responses.RequestsMock) -> Iterator[FlaskClient]:
    app = create_app(
        {
            "CHROMA_SERVER_URL": CHROMA,
            "FILESYSTEM_SERVER_URL": FILESYSTEM,
            "BILLING_SERVER_URL": BILLING,
            "GIT_SERVER_URL": GIT,
            "LLM_SERVER_URL": LLM,
            "API_RETRY_MAX": "1",
            "VAR_DIR": str(tmp_path),
        }
    )
    yield app.test_client()
    app.extensions["backend"].clients.registry.close()


def found(document: str = '"x"', distance: str = "0.5") -> str:
    row = f'"documents": [[{document}]], "metadatas": [[null]], "distances": [[{distance}]]'
    return f'{{"ids": [["a"]], {row}}}'


def completion(content: str = "An answer.", tokens: str = "7") -> str:
    choices = json.dumps([{"message": {"content": content}}])
    return f'{{"choices": {choices}, "usage": {{"total_tokens": {tokens}}}}}'


def chat(client: FlaskClient) -> Any:
    return client.post("/v1/api/chat", json={"project_id": "p", "message": "What?"})


@pytest.mark.parametrize(
    "body",
    [
        found(document="null"),
        found(distance="NaN"),
        found(distance="1" + "0" * 400),
        found(distance=TOO_MANY_DIGITS),
        NESTED,
    ],
    ids=["no text", "no number", "too large for a float", "too many digits", "nested"],
)
def test_search_result_that_makes_no_sense(
    client: FlaskClient, services: responses.RequestsMock, body: str
) -> None:
    """When Chroma answers something that is no search result, others search in its place."""
    services.post(f"{CHROMA}/query", body=body)
    services.post(f"{LLM}/chat/completions", body=completion())

    response = client.post("/v1/api/search", json={"project_id": "p", "query": "q"})

    assert (response.status_code, response.json["source"]) == (200, "index")
    assert chat(client).json["answered_by"] == "llm"


@pytest.mark.parametrize("body", [completion(tokens=TOO_MANY_DIGITS), NESTED], ids=["digits", "nested"])
def test_completion_that_makes_no_sense(
    client: FlaskClient, services: responses.RequestsMock, body: str
) -> None:
    """When the LLM answers something that nobody can read, the next one in the chain answers."""
    services.post(f"{CHROMA}/query", body=found())
    services.post(f"{LLM}/chat/completions", body=body)

    response = chat(client)

    assert (response.status_code, response.json["answered_by"]) == (200, "local")


def test_half_of_an_emoji(client: FlaskClient, services: responses.RequestsMock) -> None:
    """An answer that ends in half an emoji goes into the history like any other, and so do those after it."""
    services.post(f"{CHROMA}/query", body=found(document='"Half \\ud83d."'))
    services.post(f"{LLM}/chat/completions", body=completion(content="Half \ud83d"))

    response = chat(client)

    assert response.json["answer"] == "Half \ufffd"
    saved = next(call.request.body for call in services.calls if call.request.url.endswith("/save_file"))
    assert "Half \ufffd" in json.loads(saved)["content"]


def test_half_of_an_emoji_in_a_document(client: FlaskClient, services: responses.RequestsMock) -> None:
    """A document that ends in half an emoji can be quoted."""
    services.post(f"{CHROMA}/query", body=found(document='"What is half \\ud83d"'))
    services.post(f"{LLM}/chat/completions", status=404)

    assert chat(client).status_code == 200
