"""Removing what nobody waits for any more, but never on the word of a clock that has just jumped."""

from __future__ import annotations

import logging

from service_utils.clock import Clock
from service_utils.dead_letters.queue import DeadLetterQueue

__all__ = ["Expiry"]

_logger = logging.getLogger("service_utils")

_EVERY = 3600.0  # seconds
_JUMP = 60.0  # seconds; more than NTP ever slews in an hour


class Expiry:
    """Has a queue remove its expired letters once an hour.

    How old a letter is only the wall clock knows, and that may jump: set forward by a week for a moment, it
    would make every letter expire. So nothing is removed unless the wall clock has gone at the pace of the
    monotonic one for a whole hour, the first of a process included.

    Args:
        queue: The queue.
        clock: Tells both times.
    """

    def __init__(self, queue: DeadLetterQueue, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._since = self._clock.monotonic()
        self._today = self._clock.now()

    def look(self) -> int:
        """Remove what has expired, if the hour is over. Returns how many.

        Raises:
            StorageError: The queue cannot be written.
        """
        passed = self._clock.monotonic() - self._since
        if passed < _EVERY:
            return 0
        shown = (self._clock.now() - self._today).total_seconds()
        self._begin()
        if abs(shown - passed) > _JUMP:
            _logger.warning(
                "The clock has jumped by %.0f s: no dead letters expire in this hour", shown - passed
            )
            return 0
        return self._queue.expire()
