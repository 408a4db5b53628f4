"""The billing service over HTTP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from flask import Flask, Response, jsonify, request
from pydantic import ValidationError

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
from backend.services.billing.schema import MONEY_LIMIT
from backend.services.billing.transaction import Answer
from backend.services.common import Refusal, make_service_app, parse, parse_query
from backend.services.openapi import INTERNAL, Key, Operation, mount_openapi
from backend.services.serving import serve, service_parser, starting
from service_utils.clock import SYSTEM, Clock
from service_utils.http.idempotency import IDEMPOTENCY_HEADER, checked_key
from service_utils.integrations.flask.problems import problem

__all__ = ["DEFAULT_PORT", "create_app", "main", "starting_balance_from_env"]

DEFAULT_PORT: Final = 6004
DEFAULT_STARTING_BALANCE: Final = 1_000_000_000
_STARTING_BALANCE_VARIABLE = "BILLING_STARTING_BALANCE"
_MAX_BODY = 64 * 1024
_REPLAYED_HEADER = "Idempotency-Replayed"


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
    @app.post("/deduct_cost")
    def deduct_cost() -> Response:
        return _response(ledger.deduct(parse(Deduction), _key()))

    @app.post("/reserve")
    def reserve() -> Response:
        return _response(ledger.reserve(parse(Reserve), _key()))

    @app.post("/capture")
    def capture() -> Response:
        return _response(ledger.capture(parse(Capture), _key()))

    @app.post("/release")
    def release() -> Response:
        return _response(ledger.release(parse(Release), _key()))


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


def _key() -> str:
    given = request.headers.get(IDEMPOTENCY_HEADER)
    if given is None:
        raise Refusal(400, f"the header {IDEMPOTENCY_HEADER} is missing", field=IDEMPOTENCY_HEADER)
    try:
        return checked_key(given)
    except ValueError:
        detail = f"the header {IDEMPOTENCY_HEADER} must be 1 to 255 visible ASCII characters"
        raise Refusal(400, detail, field=IDEMPOTENCY_HEADER) from None


def _checked_user(user: str) -> str:
    try:
        return USER.validate_python(user)
    except ValidationError as error:
        raise Refusal(400, f"user: {error.errors()[0]['msg']}", field="user") from None


def _response(answer: Answer) -> Response:
    failed = answer.status >= 400
    response = problem(answer.status, **answer.body) if failed else jsonify(answer.body)
    if answer.replayed:
        response.headers[_REPLAYED_HEADER] = "true"
    return response


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
