"""``POST /v1/api/chat``: fail closed about money, fail open about context, best effort about the rest."""

from __future__ import annotations

import sqlite3
from typing import Any

from flask import Blueprint, Response, jsonify, request

from backend.context import backend, current_user
from backend.keys import HEADER, checked_key, derived_key, new_key
from backend.models import ChatRequest
from backend.money import ReservationOver
from backend.services.common import parse
from service_utils import best_effort, fail_closed, mark_degraded

__all__ = ["routes"]

routes = Blueprint("chat", __name__)


@routes.post("/chat")
@fail_closed
def chat() -> Response:
    """Answer a message."""
    key = checked_key(request.headers.get(HEADER))
    asked = parse(ChatRequest)
    if key is None:
        return jsonify(_reply(asked, new_key()))
    return _once(asked, derived_key(current_user(), "chat", key))


def _once(asked: ChatRequest, key: str) -> Response:
    """Answer a message that carries a key: a repeat gets the first answer."""
    replays = backend().replays
    turn = replays.begin(key, derived_key(asked.project_id, asked.message))
    if turn.reply is not None:
        response = jsonify(turn.reply)
        response.headers["Idempotency-Replayed"] = "true"
        return response
    try:
        reply = _reply(asked, derived_key(key, str(turn.run)))
    except Exception as error:
        # No money was taken by us, so the user may try again under the same key. A process that is being
        # killed is another matter: nobody knows how far it came, and every run after it looks under its keys,
        # until one has heard that its reservation came to nothing.
        certain = not turn.resumed or isinstance(error, ReservationOver)
        with best_effort("free the key", catch=sqlite3.Error):
            (replays.abandon if certain else replays.let_go)(key)
        raise
    # The money is taken by now, and so the answer is given even if a repeat would not find it.
    with best_effort("keep the reply", catch=sqlite3.Error):
        replays.finish(key, reply)
    return jsonify(reply)


def _reply(asked: ChatRequest, key: str) -> dict[str, Any]:
    reply = backend().chat.reply(current_user(), asked, key)
    if reply.degraded:
        mark_degraded("chat")
    return reply.as_json()
