"""The requests of the billing service."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from backend.services.billing.schema import MONEY_LIMIT
from backend.services.common import RequestModel

__all__ = [
    "DEFAULT_CURRENCY",
    "USER",
    "BalanceQuery",
    "Capture",
    "Deduction",
    "LedgerQuery",
    "Release",
    "Reserve",
]

DEFAULT_CURRENCY = "USD"

# No space, slash or control character: a user is one segment of a path and one word of an idempotency scope.
User = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\s\p{C}/]+$")]
USER: TypeAdapter[str] = TypeAdapter(User)
"""Validates the user in a path."""

Micros = Annotated[int, Field(gt=0, lt=MONEY_LIMIT)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
ReservationId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Deduction(RequestModel):
    """Body of ``POST /deduct_cost``."""

    user: User
    amount: Micros
    currency: Currency = DEFAULT_CURRENCY
    description: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] | None = None


class Reserve(RequestModel):
    """Body of ``POST /reserve``."""

    user: User
    amount: Micros
    currency: Currency = DEFAULT_CURRENCY
    ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] = 120


class Capture(RequestModel):
    """Body of ``POST /capture``."""

    reservation_id: ReservationId
    amount: Micros


class Release(RequestModel):
    """Body of ``POST /release``."""

    reservation_id: ReservationId


class BalanceQuery(RequestModel):
    """Query string of ``GET /balance/<user>``."""

    currency: Currency = DEFAULT_CURRENCY


class LedgerQuery(RequestModel):
    """Query string of ``GET /ledger/<user>``; ``after`` is the id of the last entry already seen."""

    currency: Currency | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Annotated[int, Field(ge=0, lt=2**63)] = 0
