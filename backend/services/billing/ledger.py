"""The ledger: each write one transaction, together with the answer that its repeats will get."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.services.billing import accounts, reservations
from backend.services.billing.models import Capture, Deduction, Release, Reserve
from backend.services.billing.reservations import Reservation
from backend.services.billing.schema import MONEY_LIMIT, SCHEMA
from backend.services.billing.transaction import Answer, Transaction, micros
from backend.services.common import open_database
from service_utils.clock import SYSTEM, Clock
from service_utils.idempotency import SQLiteIdempotency

__all__ = ["Ledger"]

OnReservation = Callable[[Transaction, accounts.Account, Reservation], Answer]


class Ledger:
    """Balances, charges and reservations, for any number of threads, and of processes on one file.

    The writes take the request's idempotency key, and run in the transaction of :attr:`records`, in which
    their answer is kept as well: either all of it happens or nothing, whenever the process dies, and a repeat
    that comes at the same time waits for the first one's transaction. An exception
    (``sqlite3.OperationalError``: other writers took too long, or the disk failed) leaves nothing behind, so
    the caller may try again with the same key.

    Args:
        path: Where it is kept; the file and its folder are made when missing.
        starting_balance: What a new account opens with, in micro-units.
        clock: Its ``now()`` decides what has expired.

    Attributes:
        records: The answers that are kept, for the routes' ``@idempotent``.

    Raises:
        ValueError: ``starting_balance`` is negative or too large.
        OSError, sqlite3.Error: The file cannot be had, or is no database.
    """

    def __init__(self, path: Path, *, starting_balance: int, clock: Clock = SYSTEM) -> None:
        if not 0 <= starting_balance < MONEY_LIMIT:
            raise ValueError(f"starting_balance={starting_balance!r}: must be >= 0 and below {MONEY_LIMIT}")
        self._database = open_database(path, "billing", SCHEMA)
        self._starting_balance = starting_balance
        self._clock = clock
        self.records = SQLiteIdempotency(self._database, clock=clock).in_transaction()

    def deduct(self, request: Deduction, key: str) -> Answer:
        """Charge an account: 200, or 402 when less is available."""
        tx = self._transaction()
        account = self._open(tx, request.user, request.currency)
        earlier = accounts.charge_by_key(tx, request.user, key)
        if earlier is not None:
            detail = f"this Idempotency-Key made entry {earlier}; its answer is no longer kept"
            return Answer(409, {"detail": detail, "entry_id": earlier})
        if request.amount > account.available:
            return accounts.insufficient(account, request.amount)
        after, entry_id = accounts.append(
            tx, account, "charge", request.amount, key, description=request.description
        )
        return Answer(200, {"entry_id": entry_id, "amount": request.amount, **after.amounts()})

    def reserve(self, request: Reserve, _key: str) -> Answer:
        """Hold money for ``ttl_seconds``: 200, or 402 when less is available."""
        tx = self._transaction()
        account = self._open(tx, request.user, request.currency)
        return reservations.reserve(tx, account, request.amount, request.ttl_seconds)

    def capture(self, request: Capture, key: str) -> Answer:
        """Charge at most what is held and free the rest: 200.

        An unknown reservation is a 404; one that is settled, has expired or holds less is a 409.
        """
        return self._on_reservation(
            request, lambda tx, account, held: reservations.capture(tx, account, held, request.amount, key)
        )

    def release(self, request: Release, _key: str) -> Answer:
        """Free what is held: 200, also when it is free already; 404 if unknown, 409 if captured."""
        return self._on_reservation(request, reservations.release)

    def owner(self, reservation_id: str) -> str | None:
        """The user whose reservation it is."""
        with self._reading() as tx:
            found = reservations.find_reservation(tx, reservation_id)
        return None if found is None else found.user

    def balance(self, user: str, currency: str) -> dict[str, Any]:
        """The account's amounts; one that nobody has seen yet is opened."""
        with self._reading() as tx:
            account = accounts.find_account(tx, user, currency)
        if account is None:
            with self._writing() as tx:
                account = self._open(tx, user, currency)
        return account.amounts()

    def entries(self, user: str, currency: str | None, *, limit: int, after: int) -> dict[str, Any]:
        """A page of a user's entries, oldest first; ``next_after`` is None on the last one."""
        with self._reading() as tx:
            found = accounts.entries(tx, user, currency, limit=limit + 1, after=after)
        page = found[:limit]
        return {
            "user": user,
            "entries": page,
            "next_after": page[-1]["id"] if len(found) > limit else None,
        }

    def check(self) -> None:
        """Return if the ledger can be read.

        Raises:
            sqlite3.Error: It cannot.
        """
        with self._reading() as tx:
            tx.execute("SELECT id FROM ledger LIMIT 1").fetchone()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _on_reservation(self, request: Capture | Release, act: OnReservation) -> Answer:
        tx = self._transaction()
        found = reservations.find_reservation(tx, request.reservation_id)
        if found is None:
            return reservations.unknown(request.reservation_id)
        account = self._open(tx, found.user, found.currency)
        # Read again: opening the account may have settled it as expired.
        current = reservations.find_reservation(tx, request.reservation_id)
        assert current is not None  # reservations are never deleted
        return act(tx, account, current)

    def _open(self, tx: Transaction, user: str, currency: str) -> accounts.Account:
        return accounts.open_account(tx, user, currency, self._starting_balance)

    def _transaction(self) -> Transaction:
        """The one in which the route of this moment runs."""
        # The time is asked for only now: while it waited for its turn, later moments may have been written.
        return Transaction(self.records.connection, micros(self._clock.now()))

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        with self._database.write() as connection:
            yield Transaction(connection, micros(self._clock.now()))

    @contextmanager
    def _reading(self) -> Iterator[Transaction]:
        with self._database.read() as connection:
            yield Transaction(connection, micros(self._clock.now()))
