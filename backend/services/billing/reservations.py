"""Reservations: money held for a while, then captured, released, or free again by itself."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any

from backend.services.billing.accounts import Account, append, insufficient
from backend.services.billing.transaction import SECOND, Answer, Transaction, iso

__all__ = ["Reservation", "capture", "find_reservation", "release", "reserve", "unknown"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation as stored; ``state`` is ``held``, ``captured``, ``released`` or ``expired``."""

    id: str
    user: str
    currency: str
    amount: int
    state: str
    expires_at: int

    def members(self) -> dict[str, Any]:
        """The reservation as members of an answer."""
        return {
            "reservation_id": self.id,
            "state": self.state,
            "reserved": self.amount,
            "expires_at": iso(self.expires_at),
        }


def find_reservation(tx: Transaction, reservation_id: str) -> Reservation | None:
    """The reservation of that id."""
    row = tx.execute(
        "SELECT id, user, currency, amount, state, expires_at FROM reservations WHERE id = ?", reservation_id
    ).fetchone()
    return None if row is None else Reservation(*row)


def reserve(tx: Transaction, account: Account, amount: int, ttl_seconds: int) -> Answer:
    """Hold money: 200, or 402 when less is available."""
    if amount > account.available:
        return insufficient(account, amount)
    held = Reservation(
        id=uuid.uuid4().hex,
        user=account.user,
        currency=account.currency,
        amount=amount,
        state="held",
        expires_at=tx.now + ttl_seconds * SECOND,
    )
    tx.execute(
        "INSERT INTO reservations (id, user, currency, amount, state, created_at, expires_at)"
        " VALUES (?, ?, ?, ?, 'held', ?, ?)",
        held.id,
        held.user,
        held.currency,
        held.amount,
        tx.now,
        held.expires_at,
    )
    after = replace(account, held=account.held + amount)
    return Answer(200, {**held.members(), "amount": amount, **after.amounts()})


def capture(tx: Transaction, account: Account, held: Reservation, amount: int, key: str) -> Answer:
    """Take ``amount`` of what is held and free the rest: 200, or 409 when it is settled or holds less."""
    if held.state != "held":
        return _settled(held, "nothing can be captured")
    if amount > held.amount:
        detail = f"reservation {held.id} holds {held.amount} micro-units, {amount} cannot be captured"
        return Answer(409, {"detail": detail, **held.members()})
    _settle(tx, held, "captured", amount)
    freed = replace(account, held=account.held - held.amount)
    after, entry_id = append(tx, freed, "capture", amount, key, reservation_id=held.id)
    done = replace(held, state="captured")
    return Answer(
        200,
        {
            "entry_id": entry_id,
            **done.members(),
            "amount": amount,
            "freed": held.amount - amount,
            **after.amounts(),
        },
    )


def release(tx: Transaction, account: Account, held: Reservation) -> Answer:
    """Free what is held: 200, also when it is free already; 409 when it was captured."""
    if held.state == "captured":
        return _settled(held, "nothing can be released")
    if held.state != "held":
        return Answer(200, {**held.members(), "freed": 0, **account.amounts()})
    _settle(tx, held, "released", None)
    after = replace(account, held=account.held - held.amount)
    done = replace(held, state="released")
    return Answer(200, {**done.members(), "freed": held.amount, **after.amounts()})


def unknown(reservation_id: str) -> Answer:
    """The 404 answer."""
    return Answer(404, {"detail": f"there is no reservation {reservation_id}", "field": "reservation_id"})


def _settle(tx: Transaction, held: Reservation, state: str, captured: int | None) -> None:
    tx.execute(
        "UPDATE reservations SET state = ?, captured = ?, settled_at = ? WHERE id = ?",
        state,
        captured,
        tx.now,
        held.id,
    )


def _settled(held: Reservation, consequence: str) -> Answer:
    when = f" at {iso(held.expires_at)}" if held.state == "expired" else ""
    detail = f"reservation {held.id} is {held.state}{when}: {consequence}"
    return Answer(409, {"detail": detail, **held.members()})
