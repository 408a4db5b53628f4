"""The thread that looks after a store in each process."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Protocol

__all__ = ["Keeper"]

_logger = logging.getLogger("service_utils")

_PATIENCE = 2.0  # seconds for which it may be in the middle of something
_ROUND = 0.05  # seconds between two rounds: so late do listeners hear of what others have done


class Kept(Protocol):
    """What the thread needs of a store."""

    def tick(self) -> None:
        """One round."""
        ...


class Keeper:
    """Calls a store's :meth:`Kept.tick` again and again, and keeps no store alive.

    Args:
        store: The store.
    """

    def __init__(self, store: Kept) -> None:
        self._store = weakref.ref(store)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shared-state", daemon=True)

    def start(self) -> None:
        """Begin.

        Raises:
            RuntimeError: The system gives us no more threads.
        """
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether it has begun, in this process, and not ended."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Have it end, and wait for it where that makes sense."""
        self._over.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._over.wait(_ROUND) and self._round():
            pass

    def _round(self) -> bool:
        store = self._store()
        if store is None:
            return False
        try:
            store.tick()
        except (Exception, SystemExit, KeyboardInterrupt):  # a listener's, too: the next round may go well
            _logger.exception("The shared state could not be looked after")
        return True
