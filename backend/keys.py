"""Idempotency keys: the one a user's request carries, and those of the calls made on its behalf."""

from __future__ import annotations

import hashlib
import re
import uuid

from backend.services.common import Refusal

__all__ = ["HEADER", "checked_key", "derived_key", "new_key"]

HEADER = "Idempotency-Key"

_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")


def checked_key(given: str | None) -> str | None:
    """The key a request carries, or None.

    Raises:
        Refusal: 400: it is empty, too long or has other characters than visible ASCII.
    """
    if given is not None and not _VISIBLE.fullmatch(given):
        raise Refusal(400, f"{HEADER}: must be 1 to 255 visible ASCII characters", field=HEADER)
    return given


def new_key() -> str:
    """A key for a request that carries none."""
    return uuid.uuid4().hex


def derived_key(*parts: str) -> str:
    """A key that is always the same for the same parts and tells nothing about them.

    The user's name is one of the parts, so that no user meets another's key.
    """
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    exact = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(exact.encode("utf-8", "surrogatepass")).hexdigest()
