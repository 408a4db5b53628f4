"""``POST /v1/api/documents``: save (best effort), index (fail closed), snapshot (best effort)."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, jsonify

from backend.context import backend, current_user
from backend.ingest import IndexingFailed
from backend.models import DocumentsRequest
from backend.services.common import parse
from service_utils import mark_degraded
from service_utils.degradation import DegradationLevel
from service_utils.integrations.flask import requires_level

__all__ = ["routes"]

routes = Blueprint("documents", __name__)


@routes.post("/documents")
@requires_level(DegradationLevel.SEVERE)
def documents() -> Response:
    """Take documents into a project."""
    job = parse(DocumentsRequest)
    done = backend().ingestion.run(current_user(), job)
    saved = set(done.saved)
    not_saved = [key for key in done.indexed if key not in saved]
    degraded = bool(not_saved) or not done.copied or done.snapshot is None
    if degraded:
        mark_degraded("documents")
    return jsonify(
        project_id=job.project_id,
        indexed=done.indexed,
        saved=done.saved,
        not_saved=not_saved,
        snapshot=done.snapshot,
        degraded=degraded,
    )


@routes.errorhandler(IndexingFailed)
def indexing_failed(error: IndexingFailed) -> Response:
    """The problem that any failed call makes, and which documents can be found nevertheless."""
    answer: Response = current_app.make_response(current_app.handle_user_exception(error.cause))
    answer.set_data(current_app.json.dumps({**answer.get_json(), **error.members()}) + "\n")
    return answer
