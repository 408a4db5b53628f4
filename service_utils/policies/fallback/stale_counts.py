"""How often a ``StaleCache`` gave each kind of answer."""

from __future__ import annotations

import threading

from service_utils.forks import guard

__all__ = ["StaleCounts"]

_NAMES = ("hits", "misses", "stale", "coalesced", "passed")


class StaleCounts:
    """Counters. For any number of threads; a forked child begins at zero.

    ``hits``: fresh answers. ``misses``: calls that were made. ``stale``: stale answers. ``coalesced``:
    results of another thread's call. ``passed``: calls that were made as if there were no cache.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(_NAMES, 0)
        guard(self)

    def _renew_in_child(self) -> None:
        self._counts = dict.fromkeys(_NAMES, 0)

    def note(self, name: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[name] += 1

    def snapshot(self) -> dict[str, int]:
        """All of them."""
        with self._lock:
            return dict(self._counts)
