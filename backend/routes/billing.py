"""``/v1/api/billing``: fail closed."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, after_this_request, jsonify, request

from backend.context import backend, current_user
from backend.keys import HEADER, checked_key, derived_key, new_key
from backend.models import BalanceQuery, DeductRequest
from backend.services.common import parse, parse_query
from service_utils import fail_closed

__all__ = ["routes"]

routes = Blueprint("billing", __name__, url_prefix="/billing")


@routes.post("/deduct")
@fail_closed
def deduct() -> Response:
    """Charge the user, once for each Idempotency-Key."""
    key = checked_key(request.headers.get(HEADER)) or new_key()
    # Told on every answer, an error's too: only with this key can the charge be tried again without harm.
    after_this_request(lambda response: _with_key(response, key))
    charge = parse(DeductRequest)
    done = backend().billing.deduct(current_user(), charge, derived_key(current_user(), "deduct", key))
    return jsonify(
        amount=charge.amount,
        currency=charge.currency,
        idempotency_key=key,
        **_picked(done, "entry_id", "balance", "available"),
    )


@routes.get("/balance")
@fail_closed
def balance() -> Response:
    """What the user has."""
    query = parse_query(BalanceQuery)
    account = backend().billing.balance(current_user(), query.currency)
    return jsonify(
        user=current_user(), currency=query.currency, **_picked(account, "balance", "held", "available")
    )


def _with_key(response: Response, key: str) -> Response:
    response.headers[HEADER] = key
    return response


def _picked(answer: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: answer.get(name) for name in names}
