"""The filesystem service over HTTP: saving, reading, searching and listing the files of projects."""

from __future__ import annotations

import argparse
import base64
import errno
import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

from flask import Flask, Response, jsonify, request
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from backend.services.common import Refusal, RequestModel, make_service_app, parse, parse_query
from backend.services.filesystem.folders import FileInfo, ProjectFolders
from backend.services.filesystem.locks import NamedLocks
from backend.services.filesystem.paths import check_file_path
from backend.services.filesystem.receipts import Receipts
from backend.services.filesystem.saving import Save, Saver
from backend.services.filesystem.search import SearchIndex
from backend.services.openapi import INTERNAL, PROJECT_ID, Key, Operation, mount_openapi
from backend.services.serving import projects_dir, serve, service_parser, starting
from service_utils.http.idempotency import IDEMPOTENCY_HEADER, checked_key
from service_utils.integrations.flask.problems import problem

__all__ = ["DEFAULT_PORT", "create_app", "main"]

logger = logging.getLogger(__name__)

DEFAULT_PORT: Final = 6002

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

ProjectId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
FilePath = Annotated[str, AfterValidator(check_file_path)]

_PROJECT_ID: Final = TypeAdapter[str](ProjectId)


class SaveFile(RequestModel):
    """Body of ``/save_file``."""

    project_id: ProjectId
    file_path: FilePath
    content: str
    append: bool = False


class ReadFile(RequestModel):
    """Body or query of ``/read_file``."""

    project_id: ProjectId
    file_path: FilePath


class Search(RequestModel):
    """Query of ``/projects/<id>/search``."""

    q: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    limit: Annotated[int, Field(ge=1, le=1000)] = 10


class Listing(RequestModel):
    """Query of ``/projects/<id>/files``."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


_PROJECT_PATH = {"project_id": PROJECT_ID}
_OPERATIONS = {
    "save_file": Operation(
        summary="Write a file, or add to its end",
        answer="What was written",
        body=SaveFile,
        key=Key(required=False),
        security=INTERNAL,
        problems={409: "there is a folder in its place", 422: "the key was used with another body"},
    ),
    "read_file": Operation(
        summary="Read a file",
        answer="Its content, as text or in base64",
        body=ReadFile,
        query=ReadFile,
        security=INTERNAL,
        problems={404: "there is no such file", 409: "it is a folder"},
    ),
    "search": Operation(
        summary="Find words in a project's files",
        answer="The best matches",
        query=Search,
        path=_PROJECT_PATH,
        security=INTERNAL,
    ),
    "files": Operation(
        summary="List a project's files",
        answer="The files",
        query=Listing,
        path=_PROJECT_PATH,
        security=INTERNAL,
    ),
}


def create_app(data: Path, *, projects: Path | None = None) -> Flask:
    """The service's app. ``app.extensions["filesystem"]`` is a context manager that closes its databases.

    Args:
        data: Folder for locks, receipts and the search index; made when missing. Processes that share the
            projects must share this folder too.
        projects: Folder of the projects' files; None for ``$PROJECTS_DIR``, else ``projects`` in ``data``.

    Raises:
        ValueError: Profile ``production`` has no internal token.
        OSError, sqlite3.Error: The folders or databases cannot be opened.
    """
    folders = ProjectFolders(projects or projects_dir(data))
    receipts = Receipts(data / "receipts.db")
    saver = Saver(folders, NamedLocks(data / "locks"), receipts)
    index = SearchIndex(data / "search.db", folders)

    def ready() -> None:
        receipts.ping()
        if not os.access(folders.root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{folders.root} cannot be written to")

    app = make_service_app("filesystem", ready=ready)
    app.extensions["filesystem"] = resources = ExitStack()
    resources.callback(receipts.close)
    resources.callback(index.close)
    app.register_error_handler(OSError, _no_room)
    app.add_url_rule("/save_file", "save_file", lambda: _save(saver, index), methods=["POST"])
    app.add_url_rule("/read_file", "read_file", lambda: _read(folders), methods=["GET", "POST"])
    app.add_url_rule("/projects/<project_id>/search", "search", lambda project_id: _search(index, project_id))
    app.add_url_rule("/projects/<project_id>/files", "files", lambda project_id: _files(folders, project_id))
    mount_openapi(app, "/openapi.json", title="filesystem service", version="1", operations=_OPERATIONS)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run the service as the command line says, until it is told to stop."""
    arguments = _parser().parse_args(argv)
    with starting("filesystem"):
        app = create_app(arguments.data, projects=arguments.projects)
    with app.extensions["filesystem"]:
        serve(app, host=arguments.host, port=arguments.port, name="filesystem", threads=arguments.threads)


def _parser() -> argparse.ArgumentParser:
    parser = service_parser("filesystem", DEFAULT_PORT)
    parser.add_argument(
        "--projects",
        type=Path,
        default=None,
        help="folder of the projects' files (default: $PROJECTS_DIR, else projects in the data folder)",
    )
    return parser


def _save(saver: Saver, index: SearchIndex) -> Response:
    body = parse(SaveFile)
    saved = saver.save(Save(body.project_id, body.file_path, body.content, body.append), _idempotency_key())
    response = jsonify(saved.answer)
    if saved.written is None:
        response.headers["Idempotency-Replayed"] = "true"
        return response
    try:
        index.update(body.project_id, body.file_path, saved.written)
    except (OSError, sqlite3.Error) as error:
        # The file is saved, and that is what was asked; the index catches up at the next search.
        logger.warning("The search index has not taken a save yet: %s", error)
    return response


def _read(folders: ProjectFolders) -> Response:
    asked = parse(ReadFile) if request.is_json else parse_query(ReadFile)
    stored = folders.read(asked.project_id, asked.file_path)
    return jsonify(
        project_id=asked.project_id, **_described(asked.file_path, stored.info), **_content(stored.data)
    )


def _search(index: SearchIndex, project_id: str) -> Response:
    project_id = _checked_project(project_id)
    query = parse_query(Search)
    results = [
        {"file_path": found.file_path, "snippet": found.snippet, "text": found.text, "score": found.score}
        for found in index.search(project_id, query.q, query.limit)
    ]
    return jsonify(project_id=project_id, query=query.q, results=results)


def _files(folders: ProjectFolders, project_id: str) -> Response:
    project_id = _checked_project(project_id)
    limit = parse_query(Listing).limit
    with closing(folders.files(project_id)) as files:
        found = list(islice(files, limit + 1))
    return jsonify(
        project_id=project_id,
        files=[_described(path, info) for path, info in found[:limit]],
        truncated=len(found) > limit,
    )


def _no_room(error: OSError) -> Response:
    if error.errno not in _NO_ROOM:
        raise error
    logger.error("%s %s found no room: %s", request.method, request.path, error)
    return problem(507, detail="there is no room for the file")


def _described(file_path: str, info: FileInfo) -> dict[str, Any]:
    modified = datetime.fromtimestamp(info.modified_ns / 1e9, UTC)
    return {"file_path": file_path, "size": info.size, "modified_at": modified.isoformat()}


def _content(data: bytes) -> dict[str, str]:
    """Text as it is; bytes that are no UTF-8 in base64, which the answer says."""
    try:
        return {"content": data.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"content": base64.b64encode(data).decode(), "encoding": "base64"}


def _checked_project(project_id: str) -> str:
    try:
        return _PROJECT_ID.validate_python(project_id)
    except ValidationError as error:
        raise Refusal(400, f"project_id: {error.errors()[0]['msg']}", field="project_id") from None


def _idempotency_key() -> str | None:
    given = request.headers.get(IDEMPOTENCY_HEADER)
    if given is None:
        return None
    try:
        return checked_key(given)
    except ValueError:
        detail = f"{IDEMPOTENCY_HEADER}: must be 1 to 255 visible ASCII characters"
        raise Refusal(400, detail, field=IDEMPOTENCY_HEADER) from None
