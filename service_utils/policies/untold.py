"""What a member of a shared circuit has to tell the store that was away when it happened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from service_utils.events import CircuitState
from service_utils.policies.permit import Report
from service_utils.policies.reasons import RESET
from service_utils.policies.record import Asking, CircuitRecord
from service_utils.policies.store import BreakerStore

__all__ = ["Untold"]

_BY_HAND = frozenset((CircuitState.FORCED_OPEN, CircuitState.DISABLED))


class _Word(NamedTuple):
    """What was decided by hand, when, and in which generation that all knew of."""

    state: CircuitState
    reason: str
    at: float
    generation: int

    def is_overruled(self, record: CircuitRecord) -> bool:
        """Whether somebody else has decided by hand since."""
        by_hand = record.state in _BY_HAND or record.reason == RESET
        return by_hand and record.generation != self.generation and (record.changed_at or 0.0) > self.at


class _Probed(NamedTuple):
    """What became of a probe, and when."""

    token: int
    report: Report
    at: float


class Untold:
    """Results of probes, the last word of an operator and the last pause, kept until they can be told.

    For any thread. A forked child begins with nothing: its parent tells.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: tuple[_Probed, ...] = ()
        self._word: _Word | None = None
        self._pause: tuple[float, float] | None = None

    def keep_report(self, token: int, report: Report, at: float) -> None:
        """Keep the result of a probe."""
        with self._lock:
            self._reports = (*self._reports, _Probed(token, report, at))

    def keep_word(self, state: CircuitState, reason: str, at: float, generation: int) -> None:
        """Keep what was decided by hand, in place of what was before."""
        self._word = _Word(state, reason, at, generation)

    def drop_word(self) -> None:
        """A newer one has been told."""
        self._word = None

    def keep_pause(self, until: float, seconds: float) -> None:
        """Keep that the service has asked callers to stay away, or that this is over."""
        self._pause = until, seconds

    def drop_pause(self) -> None:
        """A newer one has been told."""
        self._pause = None

    def tell(
        self,
        store: BreakerStore,
        name: str,
        record: CircuitRecord,
        asking: Callable[[float], Asking],
        now: float,
    ) -> CircuitRecord:
        """Tell all of it, in the order in which it bears on the circuit; the store fences what is void.

        Args:
            store: The store.
            name: The circuit's.
            record: As the store has it.
            asking: Makes the one who asks at a moment.
            now: The time.

        Returns:
            The record then.

        Raises:
            StoreUnavailable: It is away again; what has not been told is kept.
        """
        with self._lock:  # taken at once: the store may call us in the middle of it
            reports, self._reports = self._reports, ()
            word, self._word = self._word, None
            pause, self._pause = self._pause, None
        left = list(reports)
        try:
            while left:
                token, report, at = left[0]
                record = store.report(name, token, report, asking(at))
                del left[0]
            if word is not None and not word.is_overruled(record):
                at = max(word.at, record.changed_at or word.at)
                record = store.override(name, word.state, word.reason, asking(at))
            word = None
            if pause is not None and (pause[0] > now or not pause[0]):
                record = store.pause(name, *pause)
        except BaseException:
            with self._lock:
                self._reports = (*left, *self._reports)
                self._word = self._word or word
                self._pause = self._pause or pause
            raise
        return record
