"""Locks on files. All of them end with the process that holds them, whatever ends it.

``flock`` and *open file description* locks belong to one opening of a file: a second opening in the same
process neither shares nor loses them, unlike POSIX locks, which vanish as soon as any descriptor of the file
is closed. What a fork copies is the same opening, so a child has to open the file anew.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from contextlib import suppress

from service_utils.clock import SYSTEM

__all__ = ["SUPPORTED", "is_taken", "let_go", "lock_file", "take", "unlock_file"]

SUPPORTED = sys.platform == "linux"
"""Whether this system has locks that belong to an opening of a file."""

_FLOCK = struct.Struct("hhqqi4x")
_PAUSES = (0.0, 0.0, 0.0001, 0.0002, 0.0005)
_PAUSE = 0.001


def lock_file(descriptor: int, patience: float) -> bool:
    """Lock a file for this opening of it alone. Returns whether it could be had within so many seconds."""
    ends = SYSTEM.monotonic() + patience
    tries = 0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if SYSTEM.monotonic() >= ends:
                return False
            SYSTEM.sleep(_PAUSES[tries] if tries < len(_PAUSES) else _PAUSE)
            tries += 1
        else:
            return True


def unlock_file(descriptor: int) -> None:
    """Unlock it. A descriptor that somebody else has closed has no lock any more."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def take(descriptor: int, number: int) -> bool:
    """Take the lock of that number in a file, if nobody has it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _packed(fcntl.F_WRLCK, number))
    except (BlockingIOError, PermissionError):
        return False
    return True


def let_go(descriptor: int, number: int) -> None:
    """Give a lock back that :func:`take` has taken."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _packed(fcntl.F_UNLCK, number))


def is_taken(descriptor: int, number: int) -> bool:
    """Whether another opening of the file has that lock."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _packed(fcntl.F_WRLCK, number))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _packed(kind: int, number: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0)
