"""Searching over HTTP: who answers when somebody is away, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from tests.backend.running import Fault, Services
from tests.backend.waiting import eventually

REFUNDS = "Refunds are paid within 14 days of the return."
PARKING = "Parking is free for visitors on weekends."


@pytest.fixture
def filled(client: FlaskClient) -> FlaskClient:
    """A user whose project has two documents."""
    documents = [
        {"id": "refunds", "text": REFUNDS, "metadata": {"page": 3}},
        {"id": "parking", "text": PARKING},
    ]
    assert (
        client.post("/v1/api/documents", json={"project_id": "p1", "documents": documents}).status_code == 200
    )
    return client


def ask(client: FlaskClient, query: str = "When are refunds paid?", **more: Any) -> dict[str, Any]:
    response = client.post("/v1/api/search", json={"query": query, "project_id": "p1", **more})
    assert response.status_code == 200, response.text
    assert response.headers.get("X-Degraded") == ("true" if response.json["degraded"] else None)
    return dict(response.json)


def test_chroma_answers_when_it_can(filled: FlaskClient) -> None:
    """With everything well the answer comes from Chroma and is not degraded."""
    answer = ask(filled)

    assert (answer["source"], answer["degraded"]) == ("chroma", False)
    best = answer["results"][0]
    assert (best["id"], best["text"], best["metadata"]["page"]) == ("refunds", REFUNDS, 3)
    assert best["file_path"] == "documents/refunds.txt"


def test_results_are_as_many_as_asked_for(filled: FlaskClient) -> None:
    """n_results bounds the answer, whoever gives it."""
    assert len(ask(filled, "refunds or parking", n_results=1)["results"]) == 1


def test_unknown_project_has_no_results(client: FlaskClient) -> None:
    """A project nobody has filled is empty, which is no failure."""
    answer = ask(client)

    assert (answer["results"], answer["source"], answer["degraded"]) == ([], "chroma", False)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.LOST, Fault.REFUSED, Fault.NONSENSE])
def test_files_are_searched_when_chroma_fails(filled: FlaskClient, services: Services, fault: Fault) -> None:
    """However Chroma fails, the Filesystem service answers instead."""
    services.chroma.fail("/query", fault)

    answer = ask(filled)

    assert (answer["source"], answer["degraded"]) == ("filesystem", True)
    assert answer["results"][0]["file_path"] == "documents/refunds.txt"
    assert answer["results"][0]["text"] == REFUNDS


def test_own_index_answers_when_both_are_away(filled: FlaskClient, services: Services) -> None:
    """With Chroma and Filesystem stopped, the backend finds what it ingested."""
    services.chroma.stop()
    services.filesystem.stop()

    answer = ask(filled)

    assert (answer["source"], answer["degraded"]) == ("index", True)
    assert [found["id"] for found in answer["results"]] == ["refunds"]
    assert answer["results"][0]["metadata"] == {"page": 3}


def test_slow_chroma_leaves_time_for_the_files(settings: dict[str, Any], services: Services) -> None:
    """A Chroma that never answers costs its own time limit, not the whole request."""
    client = create_app({**settings, "CHROMA_DEADLINE": "0.3"}).test_client()
    services.chroma.fail("/query", Fault.SILENT)

    assert ask(client)["source"] == "filesystem"


def test_request_without_time_left_uses_the_own_index(settings: dict[str, Any], services: Services) -> None:
    """When the request's own time is used up by silent services, the index still answers."""
    client = create_app({**settings, "REQUEST_DEADLINE": "0.3"}).test_client()
    services.chroma.fail("/query", Fault.SILENT)

    assert ask(client)["source"] == "index"


def test_words_of_the_query_have_no_special_meaning(filled: FlaskClient, services: Services) -> None:
    """FTS5 syntax in a query is searched for, not obeyed."""
    services.chroma.stop()
    services.filesystem.stop()

    for query in ['refunds" OR *', "NEAR(refunds", "text:refunds - ^", "'; DROP TABLE documents --", "*"]:
        ask(filled, query)
    assert ask(filled, 'paid" OR "')["results"]


def test_chat_history_is_no_search_result(filled: FlaskClient, services: Services) -> None:
    """Questions asked before are not among the files found."""
    filled.post("/v1/api/chat", json={"project_id": "p1", "message": "When are refunds paid?"})
    services.chroma.stop()

    assert [found["id"] for found in ask(filled)["results"]] == ["documents/refunds.txt"]


def test_open_circuit_leaves_chroma_alone_until_it_has_recovered(
    settings: dict[str, Any], services: Services
) -> None:
    """After five failed calls Chroma is left alone, and after the recovery time it is used again."""
    app = create_app({**settings, "CHROMA_RECOVERY_TIMEOUT": "0.5"})
    client = app.test_client()
    services.chroma.fail("/query")

    for _ in range(5):
        assert ask(client)["source"] == "filesystem"
    status = client.get("/v1/api/status/services").json["chroma"]
    assert (status["state"], status["failure_count"]) == ("open", 5)
    before = len(services.chroma.requests)
    assert ask(client)["degraded"]
    assert len(services.chroma.requests) == before

    services.chroma.heal()
    eventually(lambda: ask(client)["source"] == "chroma", within=5)
    assert client.get("/v1/api/status/services").json["chroma"]["state"] == "closed"


def test_callers_mistakes_do_not_open_the_circuit(client: FlaskClient, services: Services) -> None:
    """A 4xx of Chroma is its answer, not its failure: searches go on to ask it."""
    services.chroma.fail("/query", Fault.REFUSED)
    for _ in range(7):
        ask(client)

    assert client.get("/v1/api/status/services").json["chroma"]["state"] == "closed"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"project_id": "p1"}, "query"),
        ({"query": "x"}, "project_id"),
        ({"query": "", "project_id": "p1"}, "query"),
        ({"query": "  ", "project_id": "p1"}, "query"),
        ({"query": 5, "project_id": "p1"}, "query"),
        ({"query": None, "project_id": "p1"}, "query"),
        ({"query": "x" * 4_001, "project_id": "p1"}, "query"),
        ({"query": "x", "project_id": "../p1"}, "project_id"),
        ({"query": "x", "project_id": "p" * 65}, "project_id"),
        ({"query": "x", "project_id": "p1\n"}, "project_id"),
        ({"query": "x", "project_id": "p1", "n_results": 0}, "n_results"),
        ({"query": "x", "project_id": "p1", "n_results": 51}, "n_results"),
        ({"query": "x", "project_id": "p1", "n_results": "5"}, "n_results"),
        ({"query": "x", "project_id": "p1", "n_results": 5.0}, "n_results"),
        ({"query": "x", "project_id": "p1", "n_results": True}, "n_results"),
        ({"query": "x", "project_id": "p1", "n_result": 5}, "n_result"),
        ([], "body"),
        ("text", "body"),
        (None, "body"),
    ],
)
def test_bad_search_names_the_field(lonely_client: FlaskClient, body: Any, field: str) -> None:
    """Whatever is wrong with a search, the 400 says which field it is."""
    response = lonely_client.post("/v1/api/search", json=body)

    assert (response.status_code, response.json["field"]) == (400, field)
    assert response.mimetype == "application/problem+json"
