"""One thread at a time, and whoever comes in again on the same stack is put off."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from service_utils.forks import guard

__all__ = ["Alone"]

T = TypeVar("T")

_MOST = 10_000  # put off at most; there is one, where there is any


class Alone:
    """Runs pieces of work one by one.

    The locks of prometheus_client are not re-entrant and know nothing of forks. So nobody enters that library
    but through here: no other thread while the process forks, and neither the garbage collector nor a signal
    handler that comes in the middle and has something to count, too. What these have is done as soon as the
    work they have come into is over. It must not raise.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._renew_in_child()
        guard(self)

    def _renew_in_child(self) -> None:
        self._busy = False
        self._put_off: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque(maxlen=_MOST)

    def do(self, work: Callable[..., object], *args: Any) -> None:
        """Do it now, or soon if this very thread is in the middle of something."""
        with self._lock:
            if self._busy:
                self._put_off.append((work, args))
            else:
                self._run(work, *args)

    def get(self, work: Callable[[], T]) -> T:
        """What it returns.

        Raises:
            RuntimeError: This very thread is in the middle of something.
        """
        with self._lock:
            if self._busy:
                raise RuntimeError("metrics cannot be read in the middle of counting")
            return self._run(work)

    def _run(self, work: Callable[..., T], *args: Any) -> T:
        try:
            self._busy = True
            try:
                return work(*args)
            finally:
                while self._put_off:
                    later, its = self._put_off.popleft()
                    later(*its)
                self._busy = False
        except BaseException:  # a signal, perhaps in the lines above
            self._busy = False
            raise
