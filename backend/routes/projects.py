"""``GET /v1/api/projects/<id>/…``: fail closed."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from backend.answers import accepted, member
from backend.context import backend, checked_project
from backend.models import HistoryQuery
from backend.services.common import Refusal, parse_query
from service_utils import fail_closed

__all__ = ["routes"]

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
    if response.status_code == 404:
        raise Refusal(404, "there is no such file in this project", field="file_path")
    if response.status_code == 400:
        raise Refusal(400, "file_path: not a path within the project's folder", field="file_path")
    return jsonify(
        project_id=project, file_path=file_path, content=member(accepted(response), "content", str)
    )
