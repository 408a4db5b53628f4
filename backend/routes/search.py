"""``POST /v1/api/search``: fail open."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from backend.context import backend
from backend.models import SearchRequest
from backend.services.common import parse

__all__ = ["routes"]

routes = Blueprint("search", __name__)


@routes.post("/search")
def search() -> Response:
    """The best matches, and who found them."""
    wanted = parse(SearchRequest)
    found = backend().search.run(wanted.query, wanted.project_id, wanted.n_results)
    return jsonify(
        query=wanted.query,
        project_id=wanted.project_id,
        results=found.results,
        source=found.source,
        degraded=found.degraded,
    )
