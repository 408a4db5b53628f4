"""Ingesting documents over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from tests.backend.running import Fault, Services

TWO = [{"id": "a", "text": "Apples are red."}, {"id": "b", "file_path": "fruit/b.txt", "content": "Bananas."}]


def ingest(client: FlaskClient, documents: Any = TWO) -> Any:
    return client.post("/v1/api/documents", json={"project_id": "p1", "documents": documents})


def found(client: FlaskClient, query: str) -> list[str]:
    answer = client.post("/v1/api/search", json={"query": query, "project_id": "p1"}).json
    return [each["id"] for each in answer["results"]]


def test_documents_are_saved_indexed_and_committed(
    client: FlaskClient, services: Services, tmp_path: Path
) -> None:
    """A job leaves files, a searchable collection and a commit behind."""
    response = ingest(client)

    assert response.status_code == 200
    assert response.json["indexed"] == response.json["saved"] == ["a", "b"]
    assert (response.json["not_saved"], response.json["degraded"]) == ([], False)
    assert len(response.json["snapshot"]) == 40
    assert (tmp_path / "projects/p1/documents/a.txt").read_text() == "Apples are red."
    assert (tmp_path / "projects/p1/fruit/b.txt").read_text() == "Bananas."
    assert found(client, "bananas")[0] == "b"


def test_document_sent_again_takes_the_place_of_the_first(client: FlaskClient, services: Services) -> None:
    """The same id means the same document, in Chroma and in our own index."""
    ingest(client)
    ingest(client, [{"id": "a", "text": "Apricots are orange."}])
    services.chroma.stop()
    services.filesystem.stop()

    assert found(client, "apples") == []
    assert found(client, "apricots") == ["a"]


def test_document_without_id_is_known_by_its_path(client: FlaskClient) -> None:
    """Sending a file again under its path does not make a second document."""
    first = ingest(client, [{"file_path": "x.txt", "text": "one"}]).json["indexed"]
    second = ingest(client, [{"file_path": "x.txt", "text": "two"}]).json["indexed"]

    assert first == second


def test_files_are_best_effort(client: FlaskClient, services: Services) -> None:
    """With Filesystem away documents are indexed all the same, and the answer says they were not saved."""
    services.filesystem.stop()

    response = ingest(client)

    assert response.status_code == 200
    assert (response.json["indexed"], response.json["saved"]) == (["a", "b"], [])
    assert (response.json["not_saved"], response.json["degraded"]) == (["a", "b"], True)


def test_snapshot_is_best_effort(client: FlaskClient, services: Services) -> None:
    """With Git away the job succeeds without a snapshot."""
    services.git.stop()

    response = ingest(client)

    assert (response.status_code, response.json["snapshot"], response.json["degraded"]) == (200, None, True)


@pytest.mark.parametrize(
    ("fault", "status"), [(None, 503), (Fault.ERROR, 503), (Fault.LOST, 503), (Fault.REFUSED, 502)]
)
def test_index_is_fail_closed(
    client: FlaskClient, services: Services, fault: Fault | None, status: int
) -> None:
    """Without Chroma the job fails, and names what is not indexed."""
    services.chroma.stop() if fault is None else services.chroma.fail("/add", fault)

    response = ingest(client)

    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    assert (response.json["indexed"], response.json["not_indexed"]) == ([], ["a", "b"])
    assert response.json["saved"] == ["a", "b"]
    assert ("Retry-After" in response.headers) == (status == 503)
    assert response.headers["X-Request-ID"] == response.json["request_id"]


def test_job_that_fails_half_way_names_what_is_indexed(client: FlaskClient, services: Services) -> None:
    """What was indexed before Chroma failed is named, can be found, and the rest can be sent again."""
    add = services.chroma.app.view_functions["/add"]
    calls = []

    def fail_at_second() -> Any:
        calls.append(1)
        return ("no", 500) if len(calls) > 1 else add()

    services.chroma.app.view_functions["/add"] = fail_at_second
    response = ingest(client)

    assert response.status_code == 503
    assert (response.json["indexed"], response.json["not_indexed"]) == (["a"], ["b"])
    services.chroma.app.view_functions["/add"] = add
    assert found(client, "apples") == ["a"]
    assert ingest(client, TWO[1:]).status_code == 200


def test_slow_chroma_ends_the_job_with_504(settings: dict[str, Any], services: Services) -> None:
    """A Chroma that never answers costs the time set for it."""
    client = create_app({**settings, "CHROMA_DEADLINE": "0.3"}).test_client()
    services.chroma.fail("/add", Fault.SILENT)

    response = ingest(client)

    assert (response.status_code, response.json["not_indexed"]) == (504, ["a", "b"])


def test_slow_files_leave_time_for_the_index(settings: dict[str, Any], services: Services) -> None:
    """Documents that cannot be saved in time are indexed nevertheless."""
    client = create_app({**settings, "FILESYSTEM_DEADLINE": "0.2"}).test_client()
    services.filesystem.fail("/save_file", Fault.SILENT)

    response = ingest(client)

    assert (response.status_code, response.json["indexed"], response.json["saved"]) == (200, ["a", "b"], [])


@pytest.mark.parametrize(
    ("documents", "field"),
    [
        ([], "documents"),
        (None, "documents"),
        ("text", "documents"),
        (["text"], "documents.0"),
        ([{}], "documents.0.text"),
        ([{"text": ""}], "documents.0.text"),
        ([{"text": " \n"}], "documents.0.text"),
        ([{"text": 5}], "documents.0.text"),
        ([{"text": "x" * 200_001}], "documents.0.text"),
        ([{"text": "x", "id": "../a"}], "documents.0.id"),
        ([{"text": "x", "id": ""}], "documents.0.id"),
        ([{"text": "x", "file_path": "../a"}], "documents.0.file_path"),
        ([{"text": "x", "file_path": "/etc/passwd"}], "documents.0.file_path"),
        ([{"text": "x", "file_path": "a/../../b"}], "documents.0.file_path"),
        ([{"text": "x", "file_path": "a\x00b"}], "documents.0.file_path"),
        ([{"text": "x", "file_path": "Chat_History.jsonl"}], "documents.0.file_path"),
        ([{"text": "x", "metadata": {"a": [1]}}], "documents.0.metadata.a"),
        ([{"text": "x", "metadata": "a"}], "documents.0.metadata"),
        ([{"text": "x", "titel": "a"}], "documents.0.titel"),
        ([{"text": "x"}, {"text": "x"}], "documents"),
        ([{"text": "x", "id": "a"}, {"text": "y", "id": "a"}], "documents"),
        ([{"text": "x", "file_path": "a"}, {"text": "y", "file_path": "a"}], "documents"),
        ([{"text": str(n)} for n in range(101)], "documents"),
    ],
)
def test_bad_documents_name_the_field(lonely_client: FlaskClient, documents: Any, field: str) -> None:
    """What is wrong with a document is said before anything is saved."""
    response = ingest(lonely_client, documents)

    assert response.status_code == 400
    assert response.json["field"].startswith(field)


def test_project_is_needed(lonely_client: FlaskClient) -> None:
    """Documents without a project have no place to go."""
    response = lonely_client.post("/v1/api/documents", json={"documents": TWO})

    assert (response.status_code, response.json["field"]) == (400, "project_id")
