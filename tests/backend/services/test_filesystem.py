"""The filesystem service over HTTP: what its callers see."""

from __future__ import annotations

import base64
import errno
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.services.filesystem import create_app
from backend.services.filesystem.receipts import Receipts
from backend.services.filesystem.search import SearchIndex

HOSTILE = st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "a", "%2e%2e", "\0", "link", "secret.txt", ".git", "//", "~", "\n"]
    ),
    max_size=8,
)


@pytest.fixture
def files(serving: Callable[..., Any], tmp_path: Path) -> Any:
    return serving(create_app(tmp_path / "data", projects=tmp_path / "projects"))


@pytest.fixture
def client(token: str, tmp_path: Path) -> FlaskClient:
    client = create_app(tmp_path / "data", projects=tmp_path / "projects").test_client()
    client.environ_base["HTTP_X_INTERNAL_TOKEN"] = token
    return client


def save(files: Any, path: str, content: str, key: str | None = None, **more: Any) -> Any:
    headers = {} if key is None else {"Idempotency_Key": key}
    return files.post(
        "/save_file", {"project_id": "p", "file_path": path, "content": content, **more}, **headers
    )


def read(files: Any, path: str) -> Any:
    return files.get("/read_file", project_id="p", file_path=path)


def test_saving_and_reading(files: Any) -> None:
    """What was saved is read as it was, by query and by JSON."""
    text = "Zeile 1\r\n\0 🎉\ufeff"
    assert save(files, "a/b.md", text).json() == {
        "project_id": "p", "file_path": "a/b.md", "size": len(text.encode()), "created": True,
    }  # fmt: skip
    answer = read(files, "a/b.md").json()
    assert answer == files.post("/read_file", {"project_id": "p", "file_path": "a/b.md"}).json()
    assert (answer["content"], answer["encoding"], answer["size"]) == (text, "utf-8", len(text.encode()))
    assert answer["modified_at"].endswith("+00:00")


def test_appending(files: Any) -> None:
    """An append goes on where the file ends."""
    save(files, "log.md", "one\n", append=True)
    save(files, "log.md", "two\n", append=True)
    assert read(files, "log.md").json()["content"] == "one\ntwo\n"


def test_a_repeated_append_happens_once(files: Any) -> None:
    """A repeat with the same key gets the first answer, and says so."""
    first = save(files, "log.md", "one\n", "key-1", append=True)
    again = save(files, "log.md", "one\n", "key-1", append=True)
    assert again.json() == first.json()
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (
        None,
        "true",
    )
    assert read(files, "log.md").json()["content"] == "one\n"


def test_a_key_used_for_something_else(files: Any) -> None:
    """The same key with another body is a 422."""
    save(files, "log.md", "one\n", "key-1", append=True)
    answer = save(files, "log.md", "two\n", "key-1", append=True)
    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")
    assert read(files, "log.md").json()["content"] == "one\n"


@pytest.mark.parametrize("key", ["x" * 256, "a b", "\x7f"])
def test_a_malformed_key(files: Any, key: str) -> None:
    """A key that is none is a 400."""
    answer = save(files, "log.md", "one\n", key)
    assert (answer.status_code, answer.json()["field"]) == (400, "Idempotency-Key")


def test_bytes_that_are_no_text_come_as_base64(files: Any, tmp_path: Path) -> None:
    """A file that is no UTF-8 is given in base64, and says so."""
    save(files, "picture.png", "")
    (tmp_path / "projects" / "p" / "picture.png").write_bytes(b"\x89PNG\xff\x00")
    answer = read(files, "picture.png").json()
    assert answer["encoding"] == "base64"
    assert base64.b64decode(answer["content"]) == b"\x89PNG\xff\x00"


def test_what_is_not_there(files: Any) -> None:
    """A missing file, folder or project is a 404 in problem JSON."""
    for path in ("none.md", "none/none.md"):
        answer = read(files, path)
        assert (answer.status_code, answer.json()["field"]) == (404, "file_path")
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_folders_and_files_in_the_way(files: Any) -> None:
    """A folder cannot be read, and neither can a file be where a folder is: 409."""
    save(files, "folder/file", "x")
    assert read(files, "folder").status_code == 409
    assert save(files, "folder", "x").status_code == 409
    assert save(files, "folder/file/x", "x").status_code == 409


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/save_file", {"file_path": "a", "content": "x"}, "project_id"),
        ("/save_file", {"project_id": "p", "content": "x"}, "file_path"),
        ("/save_file", {"project_id": "p", "file_path": "a"}, "content"),
        ("/save_file", {"project_id": "p", "file_path": "a", "content": None}, "content"),
        ("/save_file", {"project_id": "p", "file_path": "a", "content": "x", "append": "yes"}, "append"),
        ("/save_file", {"project_id": "p", "file_path": "a", "content": "x", "mode": "w"}, "mode"),
        ("/save_file", {"project_id": "..", "file_path": "a", "content": "x"}, "project_id"),
        ("/save_file", {"project_id": "p/q", "file_path": "a", "content": "x"}, "project_id"),
        ("/save_file", {"project_id": "p\n", "file_path": "a", "content": "x"}, "project_id"),
        ("/save_file", {"project_id": "p" * 65, "file_path": "a", "content": "x"}, "project_id"),
        ("/save_file", {"project_id": "", "file_path": "a", "content": "x"}, "project_id"),
        ("/save_file", {"project_id": "p", "file_path": "../a", "content": "x"}, "file_path"),
        ("/save_file", {"project_id": "p", "file_path": "/etc/passwd", "content": "x"}, "file_path"),
        ("/save_file", {"project_id": "p", "file_path": "a\0b", "content": "x"}, "file_path"),
        ("/save_file", {"project_id": "p", "file_path": ".git/config", "content": "x"}, "file_path"),
        ("/read_file", {"project_id": "p"}, "file_path"),
        ("/read_file", {"project_id": "p", "file_path": "../a"}, "file_path"),
        ("/read_file", {"project_id": "../p", "file_path": "a"}, "project_id"),
    ],
)
def test_wrong_bodies_name_the_field(files: Any, path: str, body: Any, field: str) -> None:
    """What is missing, wrong or leads out of the project is a 400 that names the field."""
    answer = files.post(path, body)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


def test_the_flaw_is_said_plainly(files: Any) -> None:
    """The detail says what is wrong with the path."""
    assert save(files, "../a", "x").json()["detail"] == "file_path: must not have . or .. as a part"


@pytest.mark.parametrize(
    "path", ["../../outside/secret.txt", "link/secret.txt", "link-to-file", "%2e%2e/x", ".."]
)
def test_nothing_outside_is_read(files: Any, tmp_path: Path, path: str) -> None:
    """Neither dots nor links lead to a file outside of the project."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    save(files, "a", "x")
    (tmp_path / "projects" / "p" / "link").symlink_to("../../outside")
    (tmp_path / "projects" / "p" / "link-to-file").symlink_to("../../outside/secret.txt")
    answer = read(files, path)
    assert answer.status_code in {400, 404}
    assert "secret" not in answer.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.one_of(HOSTILE.map("/".join), HOSTILE.map("".join), st.text(max_size=40)))
def test_no_path_leaves_the_project(client: FlaskClient, tmp_path: Path, path: str) -> None:
    """Whatever is asked for, only files in the project's folder come to be, and no answer is a 500."""
    project = tmp_path / "projects" / "p"
    project.mkdir(parents=True, exist_ok=True)
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    if not (project / "link").exists():
        (project / "link").symlink_to(outside)
    (outside / "secret.txt").write_text("secret")
    body = {"project_id": "p", "file_path": path}
    saved = client.post("/save_file", json={**body, "content": "mine"})
    answers = [client.post("/read_file", json=body), client.get("/read_file", query_string=body)]
    assert saved.status_code in {200, 400, 409}
    for answer in answers:
        assert answer.status_code in {200, 400, 404, 409}
        assert "secret" not in answer.text.replace("secret.txt", "")
    assert [file.name for file in outside.iterdir()] == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "secret"
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "projects", "outside"}
    assert [entry.name for entry in (tmp_path / "projects").iterdir()] == ["p"]


def test_searching(files: Any) -> None:
    """A search gives paths, snippets and scores, best first; no word has a special meaning."""
    save(files, "breaker.md", "The circuit breaker opens after five failures.")
    save(files, "fruit.md", "Bananas are yellow.")
    answer = files.get("/projects/p/search", q='"circuit" AND (bananas*', limit=1).json()
    assert answer["query"] == '"circuit" AND (bananas*'
    assert len(answer["results"]) == 1
    (found,) = files.get("/projects/p/search", q="what does the breaker do?").json()["results"]
    assert found["file_path"] == "breaker.md"
    assert "circuit breaker" in found["snippet"]
    assert found["text"] == "The circuit breaker opens after five failures."
    assert found["score"] > 0
    assert files.get("/projects/unknown/search", q="breaker").json()["results"] == []


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/projects/p/search", {}, "q"),
        ("/projects/p/search", {"q": ""}, "q"),
        ("/projects/p/search", {"q": "x" * 2001}, "q"),
        ("/projects/p/search", {"q": "x", "limit": "0"}, "limit"),
        ("/projects/p/search", {"q": "x", "limit": "1001"}, "limit"),
        ("/projects/p/search", {"q": "x", "limit": "many"}, "limit"),
        ("/projects/p.q/search", {"q": "x"}, "project_id"),
        ("/projects/%2e%2e/search", {"q": "x"}, "project_id"),
        ("/projects/p/files", {"limit": "0"}, "limit"),
        ("/projects/p%00/files", {}, "project_id"),
    ],
)
def test_wrong_queries_name_the_parameter(client: FlaskClient, path: str, query: Any, field: str) -> None:
    """A wrong parameter is a 400 that names it."""
    answer = client.get(path, query_string=query)
    assert answer.status_code == 400
    assert answer.get_json(force=True)["field"] == field


def test_listing(files: Any) -> None:
    """Files are listed with path, size and time; more than asked for are announced."""
    for name in ("b.md", "a/x.md", "a/y.md"):
        save(files, name, "text")
    answer = files.get("/projects/p/files").json()
    assert [(file["file_path"], file["size"]) for file in answer["files"]] == [
        ("a/x.md", 4),
        ("a/y.md", 4),
        ("b.md", 4),
    ]
    assert answer["truncated"] is False
    cut = files.get("/projects/p/files", limit=2).json()
    assert (len(cut["files"]), cut["truncated"]) == (2, True)
    assert files.get("/projects/unknown/files").json()["files"] == []


def test_many_callers_append(files: Any) -> None:
    """Of many appends at once none is lost, none is doubled and none is mixed with another."""
    lines = [f"line {number} {'x' * number}\n" for number in range(60)]

    def append(line: str) -> None:
        for _ in range(2):  # each once more, as after a lost answer
            assert save(files, "log.md", line, f"key-{line.split()[1]}", append=True).ok

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(append, lines))
    assert sorted(read(files, "log.md").json()["content"].splitlines(keepends=True)) == sorted(lines)


def test_a_search_index_that_fails_does_not_fail_the_save(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A save is a success when the file is saved, whatever becomes of the index."""

    def fail(*_args: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(SearchIndex, "update", fail)
    body = {"project_id": "p", "file_path": "a.md", "content": "apple"}
    assert client.post("/save_file", json=body).status_code == 200
    assert "has not taken a save yet" in caplog.text
    (found,) = client.get("/projects/p/search?q=apple").get_json()["results"]
    assert found["file_path"] == "a.md"


def test_a_full_disk_is_a_507(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the file is a 507; any other failure of the disk is a 500 that says nothing."""
    body = {"project_id": "p", "file_path": "a.md", "content": "apple"}
    for code, status in ((errno.ENOSPC, 507), (errno.EIO, 500)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _fd, code=code: (_ for _ in ()).throw(OSError(code, "/secret")))
            answer = client.post("/save_file", json=body)
        assert answer.status_code == status
        assert "/secret" not in answer.text
        assert answer.mimetype == "application/problem+json"


def test_it_is_not_ready_without_its_data(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose receipts cannot be read is not ready."""
    assert client.get("/ready").status_code == 200

    def fail(_self: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Receipts, "ping", fail)
    assert client.get("/ready").status_code == 503


def test_it_needs_the_token(files: Any) -> None:
    """Without the token nothing is answered."""
    files.session.headers["X-INTERNAL-TOKEN"] = "wrong"
    assert save(files, "a", "x").status_code == 401
    assert read(files, "a").status_code == 401


def test_the_projects_are_where_they_should_be(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projects are in the data folder, unless PROJECTS_DIR or the caller says otherwise."""
    create_app(tmp_path / "data")
    assert (tmp_path / "data" / "projects").is_dir()
    monkeypatch.setenv("PROJECTS_DIR", str(tmp_path / "elsewhere"))
    create_app(tmp_path / "data")
    assert (tmp_path / "elsewhere").is_dir()
