"""The crew: one lane per service that has letters and is well, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from service_utils.dead_letters.lane import Counts, Lane
from service_utils.dead_letters.letter import Lease
from service_utils.policies.deadline import Deadline
from service_utils.storage import StorageError

__all__ = ["Crew", "report"]

_logger = logging.getLogger("service_utils")


class _Shift:
    """One lane at work in its thread, from its first batch to its last."""

    def __init__(self, lane: Lane, next_batch: Callable[[str], Sequence[Lease]]) -> None:
        self.lane = lane
        self.error: BaseException | None = None
        self._next_batch = next_batch
        self.thread = threading.Thread(target=self._run, name=f"dead-letters-{lane.name}", daemon=True)

    def _run(self) -> None:
        try:
            while self.lane.work():
                leases = self._next_batch(self.lane.name)
                if not leases:
                    return
                self.lane.take(leases)
        except BaseException as error:  # told by whoever looks after the crew
            self.error = error


class Crew:
    """Lanes side by side, none of which waits for another.

    One thread begins lanes; any may stop them.

    Args:
        make_lane: Makes the lane of a name, which begins no further letter once the event is set.
        next_batch: Leases what a lane goes on with after a batch; nothing ends it.
        counts: Where the numbers of each lane are added when it has ended.
    """

    def __init__(
        self,
        make_lane: Callable[[str, threading.Event], Lane],
        next_batch: Callable[[str], Sequence[Lease]],
        counts: Callable[[Counts], object],
    ) -> None:
        self.stopping = threading.Event()
        self._make_lane = make_lane
        self._next_batch = next_batch
        self._counts = counts
        self._shifts: list[_Shift] = []

    def busy(self, name: str) -> bool:
        """Whether this lane is at work."""
        return any(shift.lane.name == name and shift.thread.is_alive() for shift in self._shifts)

    def begin(self, name: str, leases: Sequence[Lease]) -> None:
        """Have a lane work off these letters."""
        lane = self._make_lane(name, self.stopping)
        lane.take(leases)
        try:
            shift = _Shift(lane, self._next_batch)
            shift.thread.start()
            self._shifts.append(shift)
        except BaseException:  # the machine has no thread left for us, or a signal came
            lane.give_back(lane.counts)
            raise

    def collect(self) -> list[BaseException]:
        """Take note of the lanes that have ended. Returns what they ended with, where that was not well."""
        ended = [shift for shift in self._shifts if not shift.thread.is_alive()]
        for shift in ended:
            self._shifts.remove(shift)
            self._counts(shift.lane.counts)
        return [shift.error for shift in ended if shift.error is not None]

    def stop(self) -> None:
        """Have no further letter begun, and those that were not begun given back now."""
        self.stopping.set()
        counts = Counts()
        for shift in tuple(self._shifts):
            shift.lane.give_back(counts)
        self._counts(counts)

    def wait(self, deadline: Deadline | None = None) -> bool:
        """Wait for the lanes to end, but for that of this very thread. Returns whether all have."""
        threads = [shift.thread for shift in tuple(self._shifts)]
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else deadline.remaining())
        return not any(thread.is_alive() for thread in threads)


def report(errors: Sequence[BaseException]) -> None:
    """Log what lanes ended with. What is in store is safe: what they had in hand comes up again."""
    for error in errors:
        if isinstance(error, StorageError):
            _logger.error("Dead letters cannot be worked off just now: %s", error)
        else:
            _logger.error("A lane of dead letters has failed and begins anew", exc_info=error)
