"""The tables of the ledger. What must always hold is written down here, out of reach of the code's own bugs.

- An account's entries are numbered 1, 2, 3…; each carries the balance after it, which is the balance before
  it plus its amount. So the last entry's balance is the sum of all of them. Only the first is a grant.
- Entries are never changed or deleted; a reservation is settled once and never comes back.
- What is held is never more than the balance, neither when money leaves nor when more is held.
- One idempotency key of a user charges once, for ever. (Answers are kept by service_utils.idempotency.)

Times are microseconds since the epoch. They are times of day, not of a monotonic clock, because a
reservation must expire at its moment also when the service was restarted meanwhile.
"""

from __future__ import annotations

__all__ = ["MONEY_LIMIT", "SCHEMA"]

MONEY_LIMIT = 1 << 53
"""Amounts and balances stay below it, so that every JSON reader sees the exact number."""

_LEDGER = """
CREATE TABLE IF NOT EXISTS ledger (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL CHECK (length(user) BETWEEN 1 AND 128),
    currency TEXT NOT NULL CHECK (currency GLOB '[A-Z][A-Z][A-Z]'),
    number INTEGER NOT NULL CHECK (typeof(number) = 'integer' AND number >= 1),
    kind TEXT NOT NULL CHECK (kind IN ('grant', 'charge', 'capture')),
    amount INTEGER NOT NULL
        CHECK (typeof(amount) = 'integer' AND amount > -(1 << 53) AND amount < (1 << 53)),
    balance INTEGER NOT NULL
        CHECK (typeof(balance) = 'integer' AND balance >= 0 AND balance < (1 << 53)),
    reservation_id TEXT UNIQUE,
    idempotency_key TEXT,
    description TEXT,
    created_at INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    UNIQUE (user, currency, number),
    CHECK ((kind = 'grant') = (number = 1)),
    CHECK ((kind = 'grant') = (idempotency_key IS NULL)),
    CHECK ((kind = 'capture') = (reservation_id IS NOT NULL)),
    CHECK (CASE kind WHEN 'grant' THEN amount >= 0 ELSE amount < 0 END)
);
CREATE UNIQUE INDEX IF NOT EXISTS one_charge_per_key ON ledger (user, idempotency_key) WHERE kind = 'charge';
CREATE INDEX IF NOT EXISTS ledger_of_user ON ledger (user, id);

CREATE TRIGGER IF NOT EXISTS ledger_no_update BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER IF NOT EXISTS ledger_no_delete BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER IF NOT EXISTS ledger_chain BEFORE INSERT ON ledger
WHEN NEW.number <> 1 + COALESCE(
        (SELECT MAX(number) FROM ledger WHERE user = NEW.user AND currency = NEW.currency), 0)
    OR NEW.balance <> NEW.amount + COALESCE(
        (SELECT balance FROM ledger WHERE user = NEW.user AND currency = NEW.currency
         ORDER BY number DESC LIMIT 1), 0)
BEGIN SELECT RAISE(ABORT, 'the entry does not follow the one before it'); END;

CREATE TRIGGER IF NOT EXISTS ledger_keeps_holds BEFORE INSERT ON ledger
WHEN NEW.balance < (SELECT COALESCE(SUM(amount), 0) FROM reservations
                    WHERE user = NEW.user AND currency = NEW.currency AND state = 'held')
BEGIN SELECT RAISE(ABORT, 'the entry would spend money that is held'); END;

CREATE TRIGGER IF NOT EXISTS ledger_capture BEFORE INSERT ON ledger
WHEN NEW.kind = 'capture' AND NOT EXISTS (
    SELECT 1 FROM reservations WHERE id = NEW.reservation_id AND user = NEW.user
        AND currency = NEW.currency AND state = 'captured' AND captured = -NEW.amount)
BEGIN SELECT RAISE(ABORT, 'the entry captures something else than its reservation'); END;
"""

_RESERVATIONS = """
CREATE TABLE IF NOT EXISTS reservations (
    id TEXT PRIMARY KEY NOT NULL,
    user TEXT NOT NULL CHECK (length(user) BETWEEN 1 AND 128),
    currency TEXT NOT NULL CHECK (currency GLOB '[A-Z][A-Z][A-Z]'),
    amount INTEGER NOT NULL CHECK (typeof(amount) = 'integer' AND amount > 0 AND amount < (1 << 53)),
    state TEXT NOT NULL CHECK (state IN ('held', 'captured', 'released', 'expired')),
    captured INTEGER CHECK (captured IS NULL OR
        (typeof(captured) = 'integer' AND captured > 0 AND captured <= amount)),
    created_at INTEGER NOT NULL CHECK (typeof(created_at) = 'integer'),
    expires_at INTEGER NOT NULL CHECK (typeof(expires_at) = 'integer' AND expires_at > created_at),
    settled_at INTEGER CHECK (settled_at IS NULL OR typeof(settled_at) = 'integer'),
    CHECK ((state = 'captured') = (captured IS NOT NULL)),
    CHECK ((state = 'held') = (settled_at IS NULL))
);
CREATE INDEX IF NOT EXISTS held ON reservations (user, currency, expires_at, amount) WHERE state = 'held';

CREATE TRIGGER IF NOT EXISTS reservations_no_delete BEFORE DELETE ON reservations
BEGIN SELECT RAISE(ABORT, 'reservations are kept'); END;

CREATE TRIGGER IF NOT EXISTS reservations_settle_once BEFORE UPDATE ON reservations
WHEN OLD.state <> 'held' OR NEW.state = 'held' OR NEW.id <> OLD.id OR NEW.user <> OLD.user
    OR NEW.currency <> OLD.currency OR NEW.amount <> OLD.amount
    OR NEW.created_at <> OLD.created_at OR NEW.expires_at <> OLD.expires_at
BEGIN SELECT RAISE(ABORT, 'a reservation is settled once and changed in nothing else'); END;

CREATE TRIGGER IF NOT EXISTS reservations_covered BEFORE INSERT ON reservations
WHEN NEW.state <> 'held' OR NEW.amount + (
        SELECT COALESCE(SUM(amount), 0) FROM reservations
        WHERE user = NEW.user AND currency = NEW.currency AND state = 'held')
    > COALESCE((SELECT balance FROM ledger WHERE user = NEW.user AND currency = NEW.currency
                ORDER BY number DESC LIMIT 1), 0)
BEGIN SELECT RAISE(ABORT, 'the reservation is not covered by the balance'); END;
"""

SCHEMA = _LEDGER + _RESERVATIONS + "DROP TABLE IF EXISTS answers;\n"
"""Statements for the whole schema; an earlier release kept answers in a table of its own."""
