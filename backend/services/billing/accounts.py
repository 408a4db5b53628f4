"""Accounts: the entries of one user in one currency, and what of their sum is held."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from backend.services.billing.transaction import Answer, Transaction, iso

__all__ = ["Account", "append", "charge_by_key", "entries", "find_account", "insufficient", "open_account"]

Kind = Literal["charge", "capture"]

_ENTRIES = """
SELECT id, kind, amount, currency, balance AS balance_after, reservation_id, idempotency_key, description,
    created_at
FROM ledger WHERE user = ? AND id > ? AND currency = coalesce(?, currency) ORDER BY id LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Account:
    """An account at the moment of a transaction; amounts in micro-units.

    Attributes:
        user: Whose it is.
        currency: Three letters.
        number: How many entries it has.
        balance: The sum of its entries.
        held: The sum of its reservations that are neither settled nor expired.
    """

    user: str
    currency: str
    number: int
    balance: int
    held: int

    @property
    def available(self) -> int:
        """What can be charged or reserved."""
        return self.balance - self.held

    def amounts(self) -> dict[str, Any]:
        """The account as members of an answer."""
        return {
            "user": self.user,
            "currency": self.currency,
            "balance": self.balance,
            "held": self.held,
            "available": self.available,
        }


def find_account(tx: Transaction, user: str, currency: str) -> Account | None:
    """The account, or None before its first entry. Reads only: expired holds are left out, not settled."""
    last = tx.execute(
        "SELECT number, balance FROM ledger WHERE user = ? AND currency = ? ORDER BY number DESC LIMIT 1",
        user,
        currency,
    ).fetchone()
    if last is None:
        return None
    (held,) = tx.execute(
        "SELECT COALESCE(SUM(amount), 0) FROM reservations"
        " WHERE user = ? AND currency = ? AND state = 'held' AND expires_at > ?",
        user,
        currency,
        tx.now,
    ).fetchone()
    return Account(user, currency, number=last[0], balance=last[1], held=held)


def open_account(tx: Transaction, user: str, currency: str, starting_balance: int) -> Account:
    """The account, ready for a write: its expired holds settled, and its grant entered if it is new."""
    # Settled, not only left out: once their money may be spent, a clock set back must not revive them.
    tx.execute(
        "UPDATE reservations SET state = 'expired', settled_at = ?"
        " WHERE user = ? AND currency = ? AND state = 'held' AND expires_at <= ?",
        tx.now,
        user,
        currency,
        tx.now,
    )
    account = find_account(tx, user, currency)
    if account is not None:
        return account
    tx.execute(
        "INSERT INTO ledger (user, currency, number, kind, amount, balance, description, created_at)"
        " VALUES (?, ?, 1, 'grant', ?, ?, 'starting balance', ?)",
        user,
        currency,
        starting_balance,
        starting_balance,
        tx.now,
    )
    return Account(user, currency, number=1, balance=starting_balance, held=0)


def append(
    tx: Transaction,
    account: Account,
    kind: Kind,
    amount: int,
    key: str,
    *,
    description: str | None = None,
    reservation_id: str | None = None,
) -> tuple[Account, int]:
    """Enter money that leaves the account; the account afterwards, and the id of the entry."""
    after = replace(account, number=account.number + 1, balance=account.balance - amount)
    cursor = tx.execute(
        "INSERT INTO ledger (user, currency, number, kind, amount, balance, reservation_id,"
        " idempotency_key, description, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        after.user,
        after.currency,
        after.number,
        kind,
        -amount,
        after.balance,
        reservation_id,
        key,
        description,
        tx.now,
    )
    entry_id = cursor.lastrowid
    assert entry_id is not None  # it is, after an INSERT
    return after, entry_id


def charge_by_key(tx: Transaction, user: str, key: str) -> int | None:
    """The id of the entry that this key made; the ledger remembers it longer than answers are kept."""
    row = tx.execute(
        "SELECT id FROM ledger WHERE user = ? AND idempotency_key = ? AND kind = 'charge'", user, key
    ).fetchone()
    return None if row is None else int(row[0])


def insufficient(account: Account, needed: int) -> Answer:
    """The 402 answer."""
    detail = f"{needed} {account.currency} micro-units are needed, {account.available} are available"
    return Answer(402, {"detail": detail, **account.amounts(), "needed": needed})


def entries(
    tx: Transaction, user: str, currency: str | None, *, limit: int, after: int
) -> list[dict[str, Any]]:
    """A user's entries with an id above ``after``, oldest first, JSON-ready."""
    found = tx.execute(_ENTRIES, user, after, currency, limit)
    names = [column[0] for column in found.description]
    return [{**dict(zip(names, row, strict=True)), "created_at": iso(row[-1])} for row in found]
