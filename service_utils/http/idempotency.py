"""Idempotency keys: one name per logical write, the same in all its attempts."""

from __future__ import annotations

import os
import re

__all__ = ["IDEMPOTENCY_HEADER", "KEYED_METHODS", "checked_key", "new_key"]

IDEMPOTENCY_HEADER = "Idempotency-Key"
KEYED_METHODS = frozenset({"POST", "PATCH"})

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def new_key() -> str:
    """A fresh key: 122 random bits of the operating system, so that forked children never share one.

    It is a UUID of version 4; making one by way of :mod:`uuid` takes three times as long.
    """
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def checked_key(key: str) -> str:
    """The key, if it can travel in a header as it is.

    Raises:
        TypeError: It is no string.
        ValueError: It is not 1 to 255 visible ASCII characters.
    """
    if not isinstance(key, str):
        raise TypeError(f"idempotency_key={key!r}: must be a string")
    if not _KEY.fullmatch(key):
        raise ValueError(f"idempotency_key={key!r}: must be 1 to 255 visible ASCII characters")
    return key
