"""Something done at each place of a piece of work at which a signal can come."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import service_utils

__all__ = ["done_at"]

_OURS = os.path.dirname(service_utils.__file__)
# CPython looks for signals when a function begins, and when one of C has returned.
_PLACES = ("call", "c_return")


def done_at(place: int, work: Callable[[], Any], action: Callable[[], Any]) -> bool:
    """Do some work, and something else at one place in the middle of it.

    Args:
        place: Which one, from 0 on.
        work: What is done; only code of the package and of context managers counts.
        action: What comes between; it may raise.

    Returns:
        Whether there is such a place.
    """
    left = place

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal left
        file = frame.f_code.co_filename
        if event in _PLACES and (file.startswith(_OURS) or file == contextlib.__file__):
            left -= 1
            if left == -1:
                sys.setprofile(None)
                action()

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return left < 0
