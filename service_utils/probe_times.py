"""When services are probed next: the process that probes knows, and tells the others of its host."""

from __future__ import annotations

import contextlib
import json
from weakref import WeakKeyDictionary

from service_utils.forks import in_child
from service_utils.policies.store import BreakerStore, StoreUnavailable
from service_utils.sharing import HostNotes, notes_of

__all__ = ["ProbeTimes", "probe_times_of"]

_NOTE = "probes"
_ROOM = 1900  # bytes of a note


class ProbeTimes:
    """Moments of the next probes by service, in seconds on the monotonic clock. May be used from any thread.

    Args:
        notes: Where the processes of a host tell each other; None keeps them to this one.
    """

    def __init__(self, notes: HostNotes | None = None) -> None:
        self._notes = notes
        self._mine: dict[str, float] = {}
        in_child(self._begin_in_child)

    def set(self, name: str, at: float) -> None:
        """A service will be probed then, by this process."""
        self._mine[name] = at
        self._post()

    def forget(self, name: str) -> None:
        """This process probes it no more."""
        if self._mine.pop(name, None) is not None:
            self._post()

    def get(self, name: str) -> float | None:
        """When it is probed next; a past moment while that is under way; None when nobody says so."""
        mine = self._mine.get(name)
        if mine is not None or self._notes is None:
            return mine
        with contextlib.suppress(StoreUnavailable, ValueError, AttributeError):
            at = json.loads(self._notes.posted(_NOTE) or b"{}").get(name)
            return float(at) if isinstance(at, int | float) else None
        return None

    def _begin_in_child(self) -> None:
        self._mine = {}  # what the parent probes

    def _post(self) -> None:
        if self._notes is None:
            return
        soonest = sorted(self._mine.copy().items(), key=lambda each: each[1])
        while len(value := json.dumps({name: round(at, 2) for name, at in soonest}).encode()) > _ROOM:
            soonest.pop()
        with contextlib.suppress(StoreUnavailable):  # the store has said so; the time is only for show
            self._notes.post(_NOTE, value)


_shared: WeakKeyDictionary[BreakerStore, ProbeTimes] = WeakKeyDictionary()


def probe_times_of(store: BreakerStore | None) -> ProbeTimes:
    """The times that go with a store: of all its clients together where it has notes."""
    notes = notes_of(store)
    if store is None or notes is None:
        return ProbeTimes()
    return _shared.setdefault(store, ProbeTimes(notes))
