"""Ids of letters, which sort by the time they were made."""

from __future__ import annotations

import secrets
import threading
from typing import Final

from service_utils.forks import guard

__all__ = ["new_letter_id"]

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no letter looks like another
_RANDOM_BITS: Final = 80
_STEP_BITS: Final = 64  # of chance between two ids of one millisecond: a forked child takes other steps


class _Ids:
    """Makes ids, each larger than the last one of the same millisecond."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.RLock()
        guard(self)

    def number(self, milliseconds: int) -> int:
        chance = secrets.randbits(_RANDOM_BITS)
        with self._lock:
            if self._last >> _RANDOM_BITS == milliseconds:
                self._last += 1 + (chance >> (_RANDOM_BITS - _STEP_BITS))
            else:
                self._last = milliseconds << _RANDOM_BITS | chance
            return self._last


_ids = _Ids()


def new_letter_id(seconds: float) -> str:
    """An id that sorts by time, and is nobody else's: 48 bits of milliseconds and 80 random ones.

    Those that one process makes in one millisecond sort in the order in which they were made.

    Args:
        seconds: The time, since 1970.

    See https://github.com/ulid/spec for the form.
    """
    milliseconds = min(max(int(seconds * 1000), 0), 2**48 - 2)
    number = _ids.number(milliseconds)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
