"""Waiting for something that happens by itself, for a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], within: float = 10.0, every: float = 0.05) -> None:
    """Poll until the condition holds.

    Raises:
        AssertionError: It did not hold within so many seconds.
    """
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(every)
