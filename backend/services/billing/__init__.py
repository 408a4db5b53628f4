"""The billing service (port 6004): balances, charges and reservations over an append-only SQLite ledger.

Money is integer micro-units of a currency (1 USD = 1_000_000). An account is one user in one currency; it
opens with ``BILLING_STARTING_BALANCE`` micro-units, written as its first entry, so that the entries of an
account always sum to its balance. It is a service for one machine and for tests: every account gets that
opening grant, whatever its currency.
"""

from backend.services.billing.app import create_app, main

__all__ = ["create_app", "main"]
