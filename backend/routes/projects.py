"""``GET /v1/api/projects/<id>/…``: fail closed."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from backend.answers import accepted, member, members
from backend.context import backend, checked_project
from backend.models import HistoryQuery
from backend.services.common import Refusal, parse_query
from service_utils import fail_closed

__all__ = ["routes"]

_BAD_PATH = 400
_NO_SUCH_FILE = frozenset({404, 409})  # 409: it is a folder

routes = Blueprint("projects", __name__, url_prefix="/projects/<project_id>")


@routes.get("/history")
@fail_closed
def history(project_id: str) -> Response:
    """The last questions and answers, oldest first."""
    project = checked_project(project_id)
    entries = backend().history.read(project, parse_query(HistoryQuery).limit)
    return jsonify(project_id=project, entries=entries)


@routes.get("/files/<path:file_path>")
@fail_closed
def file(project_id: str, file_path: str) -> Response:
    """One file of the project."""
    project = checked_project(project_id)
    response = backend().clients.filesystem.post(
        "/read_file", json={"project_id": project, "file_path": file_path}
    )
    if response.status_code in _NO_SUCH_FILE:
        raise Refusal(404, "there is no such file in this project", field="file_path")
    if response.status_code == _BAD_PATH:
        raise Refusal(400, "file_path: not a path within the project's folder", field="file_path")
    found = members(accepted(response))
    return jsonify(
        project_id=project,
        file_path=file_path,
        content=member(response, "content", str),
        encoding=found.get("encoding", "utf-8"),
    )
