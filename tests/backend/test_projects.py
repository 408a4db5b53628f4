"""Reading a project over HTTP: its chat history and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from tests.backend.running import Fault, Services

READS = ("/v1/api/projects/p1/history", "/v1/api/projects/p1/files/a.txt")


def chat(client: FlaskClient, message: str) -> None:
    body = {"project_id": "p1", "message": message}
    assert client.post("/v1/api/chat", json=body).status_code == 200


def test_history_is_what_was_asked_and_answered(client: FlaskClient) -> None:
    """Each entry says who asked what and when, and who answered what."""
    chat(client, "One?")
    chat(client, "Zwei — «два»?")

    entries = client.get(READS[0]).json["entries"]

    assert [entry["message"] for entry in entries] == ["One?", "Zwei — «два»?"]
    assert (entries[0]["user"], entries[0]["answered_by"]) == ("dev", "local")
    assert entries[0]["at"] < entries[1]["at"]


def test_history_is_cut_to_the_latest(client: FlaskClient) -> None:
    """?limit= gives the last entries."""
    for message in ("One?", "Two?", "Three?"):
        chat(client, message)

    entries = client.get(READS[0] + "?limit=2").json["entries"]

    assert [entry["message"] for entry in entries] == ["Two?", "Three?"]


def test_project_without_a_chat_has_no_history(client: FlaskClient) -> None:
    """Nothing asked yet is an empty history, not an error."""
    response = client.get(READS[0])

    assert (response.status_code, response.json["entries"]) == (200, [])


def test_spoiled_lines_do_not_hide_the_history(client: FlaskClient, tmp_path: Path) -> None:
    """A half-written line, or one that somebody has edited, is left out."""
    chat(client, "One?")
    file = tmp_path / "projects/p1/chat_history.jsonl"
    file.write_text("{\n[]\n" + '{"id": 5, "at": 6}\n' + file.read_text() + '{"id": "x", "at": "half')

    assert [entry["message"] for entry in client.get(READS[0]).json["entries"]] == ["One?"]


def test_file_is_given_with_its_content(client: FlaskClient, tmp_path: Path) -> None:
    """A file can be read back as it was sent, whatever its path."""
    document = {"file_path": "notes/für alle.txt", "text": "One\r\ntwo — three\n"}
    client.post("/v1/api/documents", json={"project_id": "p1", "documents": [document]})

    response = client.get("/v1/api/projects/p1/files/notes/für alle.txt")

    assert response.status_code == 200
    assert (response.json["content"], response.json["encoding"]) == (document["text"], "utf-8")


def test_file_that_is_no_text_comes_in_base64(client: FlaskClient, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are told apart."""
    (tmp_path / "projects/p1").mkdir()
    (tmp_path / "projects/p1/a.txt").write_bytes(b"\xff\xfe")

    assert client.get(READS[1]).json["encoding"] == "base64"


@pytest.mark.parametrize("path", ["nothing.txt", "notes"])
def test_missing_file_is_404(client: FlaskClient, tmp_path: Path, path: str) -> None:
    """Neither a missing file nor a folder can be read."""
    (tmp_path / "projects/p1/notes").mkdir(parents=True)

    response = client.get(f"/v1/api/projects/p1/files/{path}")

    assert (response.status_code, response.json["field"]) == (404, "file_path")


@pytest.mark.parametrize(
    "path", ["../p2/a.txt", "a/../../../b", "%2e%2e/p2/a.txt", "a%00b", "a//b", ".git/config"]
)
def test_path_never_leaves_the_project(client: FlaskClient, tmp_path: Path, path: str) -> None:
    """No path reads another project's file."""
    (tmp_path / "projects/p2").mkdir()
    (tmp_path / "projects/p2/a.txt").write_text("secret")

    response = client.get(f"/v1/api/projects/p1/files/{path}")

    assert response.status_code in (308, 400, 404)
    assert "secret" not in response.text


def test_link_out_of_the_project_is_not_followed(client: FlaskClient, tmp_path: Path) -> None:
    """A symbolic link in the project's folder leads nowhere."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "projects/p1").mkdir()
    (tmp_path / "projects/p1/a.txt").symlink_to(tmp_path / "secret")

    assert client.get(READS[1]).status_code == 400


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(
    ("fault", "status"),
    [(None, 503), (Fault.ERROR, 503), (Fault.LOST, 503), (Fault.NONSENSE, 503)],
)
def test_reads_are_fail_closed(
    client: FlaskClient, services: Services, read: str, fault: Fault | None, status: int
) -> None:
    """Without Filesystem there is a problem that says when to come back."""
    services.filesystem.stop() if fault is None else services.filesystem.fail("/read_file", fault)

    response = client.get(read)

    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("read", READS)
def test_slow_reads_are_504(settings: dict[str, Any], services: Services, read: str) -> None:
    """A Filesystem that does not answer in time is a time-out."""
    client = create_app({**settings, "FILESYSTEM_DEADLINE": "0.3"}).test_client()
    services.filesystem.fail("/read_file", Fault.SILENT)

    assert client.get(read).status_code == 504


@pytest.mark.parametrize("project", ["p.1", "p 1", "p" * 65, "ä", "..."])
@pytest.mark.parametrize("rest", ["history", "files/a.txt"])
def test_bad_project_is_named(lonely_client: FlaskClient, project: str, rest: str) -> None:
    """What is no project id is said so before anybody is asked."""
    response = lonely_client.get(f"/v1/api/projects/{project}/{rest}")

    assert (response.status_code, response.json["field"]) == (400, "project_id")


@pytest.mark.parametrize(
    ("query", "field"), [("limit=0", "limit"), ("limit=x", "limit"), ("limits=5", "limits")]
)
def test_bad_limit_is_named(lonely_client: FlaskClient, query: str, field: str) -> None:
    """A wrong query string is said so too."""
    response = lonely_client.get(f"{READS[0]}?{query}")

    assert (response.status_code, response.json["field"]) == (400, field)
