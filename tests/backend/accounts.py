"""What the billing service has written down about a user, read behind its back."""

from __future__ import annotations

from tests.backend.running import Services

START = 1_000_000


def charges(services: Services, user: str = "dev") -> list[int]:
    """What was taken from the user, each time it was."""
    ledger = services.billing.app.extensions["billing"]
    page = ledger.entries(user, None, limit=1000, after=0)
    return [-entry["amount"] for entry in page["entries"] if entry["kind"] != "grant"]


def held(services: Services, user: str = "dev") -> int:
    """What is set aside."""
    return int(services.billing.app.extensions["billing"].balance(user, "USD")["held"])
