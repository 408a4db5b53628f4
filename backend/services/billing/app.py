"""The billing service over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar, cast

from flask import Flask, Response, g, jsonify
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ValidationError

from backend.services.billing.ledger import Ledger
from backend.services.billing.models import (
    USER,
    BalanceQuery,
    Capture,
    Deduction,
    LedgerQuery,
    Release,
    Reserve,
)
from backend.services.billing.reservations import unknown
from backend.services.billing.schema import MONEY_LIMIT
from backend.services.billing.transaction import Answer
from backend.services.common import Refusal, make_service_app, parse, parse_query
from backend.services.openapi import INTERNAL, Key, Operation, mount_openapi
from backend.services.serving import serve, service_parser, starting
from service_utils.clock import SYSTEM, Clock
from service_utils.integrations.flask.idempotency import idempotency_key, idempotent
from service_utils.integrations.flask.problems import problem

__all__ = ["DEFAULT_PORT", "create_app", "main", "starting_balance_from_env"]

DEFAULT_PORT: Final = 6004
DEFAULT_STARTING_BALANCE: Final = 1_000_000_000
_STARTING_BALANCE_VARIABLE = "BILLING_STARTING_BALANCE"
_MAX_BODY = 64 * 1024
_ROUTES: Final[dict[type[BaseModel], str]] = {
    Deduction: "deduct_cost",
    Reserve: "reserve",
    Capture: "capture",
    Release: "release",
}

Body = TypeVar("Body", bound=BaseModel)


_USER_PATH = {"user": {"type": "string", "minLength": 1, "maxLength": 128}}
_KEY_PROBLEMS = {
    409: "the same key is being worked on, or the reservation is over",
    422: "the key was used with another body",
}
_OPERATIONS = {
    "deduct_cost": Operation(
        summary="Charge a user",
        answer="The entry in the ledger and the new balance",
        body=Deduction,
        key=Key(required=True),
        security=INTERNAL,
        problems={402: "the balance does not cover it", **_KEY_PROBLEMS},
    ),
    "reserve": Operation(
        summary="Set money aside",
        answer="The reservation",
        body=Reserve,
        key=Key(required=True),
        security=INTERNAL,
        problems={402: "the balance does not cover it", **_KEY_PROBLEMS},
    ),
    "capture": Operation(
        summary="Take the real cost out of a reservation",
        answer="The entry in the ledger",
        body=Capture,
        key=Key(required=True),
        security=INTERNAL,
        problems={404: "there is no such reservation", **_KEY_PROBLEMS},
    ),
    "release": Operation(
        summary="Give a reservation back",
        answer="The reservation",
        body=Release,
        key=Key(required=True),
        security=INTERNAL,
        problems={404: "there is no such reservation", **_KEY_PROBLEMS},
    ),
    "balance": Operation(
        summary="A user's account in one currency",
        answer="Balance, held and available",
        query=BalanceQuery,
        path=_USER_PATH,
        security=INTERNAL,
    ),
    "entries": Operation(
        summary="A user's ledger",
        answer="A page of entries",
        query=LedgerQuery,
        path=_USER_PATH,
        security=INTERNAL,
    ),
}


def create_app(
    data: Path,
    *,
    starting_balance: int | None = None,
    clock: Clock = SYSTEM,
) -> Flask:
    """The service as a Flask app. Its ledger is ``app.extensions["billing"]``, which the caller closes.

    Args:
        data: The folder of the ledger; created if missing.
        starting_balance: What a new account opens with, in micro-units; None: ``BILLING_STARTING_BALANCE``.
        clock: Its ``now()`` decides when reservations expire.

    Raises:
        ValueError: ``starting_balance`` or the variable is no amount, or profile ``production`` has no
            internal token.
        OSError, sqlite3.Error: The ledger cannot be opened.
    """
    if starting_balance is None:
        starting_balance = starting_balance_from_env()
    ledger = Ledger(data / "billing.sqlite3", starting_balance=starting_balance, clock=clock)
    app = make_service_app("billing", ready=ledger.check, max_body=_MAX_BODY)
    app.extensions["billing"] = ledger
    _add_writes(app, ledger)
    _add_reads(app, ledger)
    mount_openapi(app, "/openapi.json", title="billing service", version="1", operations=_OPERATIONS)
    return app


def starting_balance_from_env() -> int:
    """``BILLING_STARTING_BALANCE`` in micro-units; 1_000_000_000 when it is unset or empty.

    Raises:
        ValueError: It is no integer from 0 to 2**53 - 1.
    """
    text = os.environ.get(_STARTING_BALANCE_VARIABLE, "").strip()
    if not text:
        return DEFAULT_STARTING_BALANCE
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) < MONEY_LIMIT):
        raise ValueError(
            f"{_STARTING_BALANCE_VARIABLE}={text!r}: must be an integer from 0 to {MONEY_LIMIT - 1}"
        )
    return int(text)


def _add_writes(app: Flask, ledger: Ledger) -> None:
    def user(body: Deduction | Reserve) -> str:
        return body.user

    def owner(body: Capture | Release) -> str:
        found = ledger.owner(body.reservation_id)
        if found is None:
            missing = unknown(body.reservation_id)
            raise Refusal(missing.status, **missing.body)
        return found

    _add_write(app, ledger, Deduction, user, ledger.deduct)
    _add_write(app, ledger, Reserve, user, ledger.reserve)
    _add_write(app, ledger, Capture, owner, ledger.capture)
    _add_write(app, ledger, Release, owner, ledger.release)


def _add_write(
    app: Flask,
    ledger: Ledger,
    model: type[Body],
    user: Callable[[Body], str],
    write: Callable[[Body, str], Answer],
) -> None:
    """Add the route of a write.

    Its body is checked first: a wrong one does not use up its key. Keys are scoped by the user whose money it
    is, because a key may have been chosen by one, and two users may choose the same.
    """

    def body() -> Body:
        return cast(Body, g.billing_body)

    @idempotent(ledger.records, caller=lambda: user(body()), fingerprint=lambda: _meaning(body()))
    def once() -> ResponseReturnValue:
        return _response(write(body(), idempotency_key() or ""))

    def view() -> ResponseReturnValue:
        g.billing_body = parse(model)
        return once()

    name = _ROUTES[model]
    app.add_url_rule(f"/{name}", name, view, methods=["POST"])


def _meaning(body: BaseModel) -> bytes:
    """What a request means: defaults count as if written out, spacing counts for nothing."""
    return json.dumps(body.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


def _add_reads(app: Flask, ledger: Ledger) -> None:
    @app.get("/balance/<user>")
    def balance(user: str) -> Response:
        query = parse_query(BalanceQuery)
        return jsonify(ledger.balance(_checked_user(user), query.currency))

    @app.get("/ledger/<user>")
    def entries(user: str) -> Response:
        query = parse_query(LedgerQuery)
        page = ledger.entries(_checked_user(user), query.currency, limit=query.limit, after=query.after)
        return jsonify(page)


def _checked_user(user: str) -> str:
    try:
        return USER.validate_python(user)
    except ValidationError as error:
        raise Refusal(400, f"user: {error.errors()[0]['msg']}", field="user") from None


def _response(answer: Answer) -> Response:
    failed = answer.status >= 400
    return problem(answer.status, **answer.body) if failed else jsonify(answer.body)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SystemExit: With code 1 and one line on stderr when the ledger or the address cannot be had.
    """
    options = service_parser("billing", DEFAULT_PORT).parse_args(argv)
    with starting("billing"):
        app = create_app(options.data)
    with closing(app.extensions["billing"]):
        serve(app, host=options.host, port=options.port, name="billing", threads=options.threads)
