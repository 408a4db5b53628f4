"""The git service over HTTP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from flask import Flask, Response, jsonify
from pydantic import Field, StringConstraints

from backend.services.common import Refusal, RequestModel, make_service_app, parse, parse_query
from backend.services.git.errors import (
    GitServiceError,
    ProjectBusyError,
    UnknownCommitError,
    UnknownProjectError,
)
from backend.services.git.repository import LOCK_TIMEOUT, Repositories
from backend.services.openapi import INTERNAL, PROJECT_ID, Operation, mount_openapi
from backend.services.serving import projects_dir, serve, service_parser, starting
from service_utils.clock import SYSTEM, Clock
from service_utils.integrations.flask.problems import problem

__all__ = ["DEFAULT_PORT", "create_app", "main"]

DEFAULT_PORT: Final = 6005

_PROJECT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA = re.compile(r"[0-9a-f]{40}")
_MAX_BODY = 64 * 1024
_MOST_SKIPPED_LISTED = 100
_UNKNOWN_AUTHOR = "nobody@localhost"
_STATUS: dict[type[GitServiceError], int] = {
    UnknownProjectError: 404,
    UnknownCommitError: 404,
    ProjectBusyError: 503,
}


class SnapshotRequest(RequestModel):
    """Body of ``POST /snapshot/<project_id>``; ``author`` is a name, or ``name <address>``."""

    message: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000, pattern=r"^[^\x00]+$")
    ]
    author: Annotated[
        str,
        StringConstraints(
            strip_whitespace=True, max_length=200, pattern=r"^[^<>\p{C}]*[^<>\p{C}\s]( <[^<>\p{C}\s]+>)?$"
        ),
    ] = "git service <git@localhost>"

    @property
    def signature(self) -> str:
        """The author as git writes it."""
        return self.author if self.author.endswith(">") else f"{self.author} <{_UNKNOWN_AUTHOR}>"


class HistoryQuery(RequestModel):
    """Query string of ``GET /history/<project_id>``."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 50


_PROJECT_PATH = {"project_id": PROJECT_ID}
_OPERATIONS = {
    "snapshot": Operation(
        summary="Commit a project's files",
        answer="The commit, and what was left out of it",
        body=SnapshotRequest,
        path=_PROJECT_PATH,
        security=INTERNAL,
        problems={404: "there is no such project", 503: "the project is busy"},
    ),
    "history": Operation(
        summary="A project's commits, newest first",
        answer="The commits",
        query=HistoryQuery,
        path=_PROJECT_PATH,
        security=INTERNAL,
        problems={404: "there is no such project"},
        answer_schema={"type": "array", "items": {"type": "object"}},
    ),
    "diff": Operation(
        summary="What a commit changed",
        answer="The diff and the files",
        path={**_PROJECT_PATH, "sha": {"type": "string", "pattern": "^[0-9a-f]{40}$"}},
        security=INTERNAL,
        problems={404: "there is no such project or commit"},
    ),
}


def create_app(
    data: Path, projects: Path, *, clock: Clock = SYSTEM, lock_timeout: float = LOCK_TIMEOUT
) -> Flask:
    """The service as a Flask app.

    A snapshot needs no idempotency key: a repeat finds the files unchanged and gets the same sha again.

    Args:
        data: The folder of the repositories; created if missing.
        projects: The folder of the projects' folders, as the filesystem service writes it.
        clock: Gives commits their time.
        lock_timeout: Seconds a snapshot waits for others of its project before it is answered with 503.

    Raises:
        ValueError: Profile ``production`` has no internal token.
        OSError: The data folder cannot be made.
    """
    repositories = Repositories(data, projects, clock=clock, lock_timeout=lock_timeout)
    app = make_service_app("git", ready=repositories.check, max_body=_MAX_BODY)
    app.register_error_handler(GitServiceError, _refused)

    @app.post("/snapshot/<project_id>")
    def snapshot(project_id: str) -> Response:
        project, wanted = _checked_project(project_id), parse(SnapshotRequest)
        made = repositories.snapshot(project, wanted.message, wanted.signature)
        skipped = [{"path": each.path, "reason": each.reason} for each in made.skipped[:_MOST_SKIPPED_LISTED]]
        return jsonify(sha=made.sha, changed=made.changed, files=made.files, skipped=skipped)

    @app.get("/history/<project_id>")
    def history(project_id: str) -> Response:
        entries = repositories.history(_checked_project(project_id), parse_query(HistoryQuery).limit)
        return jsonify(
            [
                {
                    "sha": entry.sha,
                    "message": entry.message,
                    "author": entry.author,
                    "time": entry.time.isoformat(),
                }
                for entry in entries
            ]
        )

    @app.get("/diff/<project_id>/<sha>")
    def diff(project_id: str, sha: str) -> Response:
        project = _checked_project(project_id)
        if not _SHA.fullmatch(sha):
            raise Refusal(400, "sha: must be 40 hexadecimal digits in lower case", field="sha")
        found = repositories.diff(project, sha)
        files = [{"path": each.path, "change": each.change} for each in found.files]
        return jsonify(sha=sha, diff=found.text, files=files, truncated=found.truncated)

    mount_openapi(app, "/openapi.json", title="git service", version="1", operations=_OPERATIONS)
    return app


def _checked_project(project_id: str) -> str:
    if not _PROJECT.fullmatch(project_id):
        detail = "project_id: must be 1 to 64 letters, digits, hyphens and underscores"
        raise Refusal(400, detail, field="project_id")
    return project_id


def _refused(error: GitServiceError) -> Response:
    status = _STATUS[type(error)]
    return problem(status, detail=str(error), headers={"Retry-After": "1"} if status == 503 else None)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SystemExit: With code 1 and one line on stderr when the data folder or the address cannot be had.
    """
    parser = service_parser("git", DEFAULT_PORT)
    parser.add_argument(
        "--projects",
        type=Path,
        default=projects_dir(),
        help="folder of the projects' files (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    with starting("git"):
        app = create_app(options.data, options.projects)
    serve(app, host=options.host, port=options.port, name="git", threads=options.threads)
