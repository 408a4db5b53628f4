"""Windows: the last calls, or the calls of the last seconds, counted in constant memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.policies import window
from service_utils.policies.window import MAX_SLOTS, CountWindow, TimeWindow, Window
from tests.one_stroke import interrupted

Counts: TypeAlias = tuple[int, int, int]

QUICK, FAILED, SLOW, BOTH = (False, False), (True, False), (False, True), (True, True)
RESULTS = st.sampled_from([QUICK, FAILED, SLOW, BOTH])
NONE: Counts = (0, 0, 0)


def recounted(results: list[tuple[bool, bool]]) -> Counts:
    return len(results), sum(failed for failed, _ in results), sum(slow for _, slow in results)


# -- the last N calls --------------------------------------------------------------------------------


@given(size=st.integers(1, 8), results=st.lists(RESULTS | st.none(), max_size=60))
def test_last_calls_equal_a_recount(size: int, results: list[tuple[bool, bool] | None]) -> None:
    """After each result a window of N calls holds what a recount of the last N results gives."""
    ring, kept = CountWindow(size), list[tuple[bool, bool]]()
    for result in results:
        if result is None:
            ring.clear()
            kept.clear()
        else:
            ring.record(0.0, *result)
            kept.append(result)
        last = kept[-size:]
        assert ring.counts(0.0) == recounted(last)
        assert ring.full is (len(kept) >= size)
        assert ring.settled is (last == [QUICK] * size)


def test_last_calls_do_not_age() -> None:
    """A window of N calls keeps them however long nobody calls."""
    ring = CountWindow(3)
    ring.record(1.0, *FAILED)
    assert ring.counts(1e9) == (1, 1, 0)


@given(size=st.integers(1, 5), results=st.lists(RESULTS, max_size=20))
def test_settled_means_that_successes_change_nothing(size: int, results: list[tuple[bool, bool]]) -> None:
    """Where a window says that a success changes nothing, it goes on the same way without it."""
    told, untold = CountWindow(size), CountWindow(size)
    for result in results:
        told.record(0.0, *result)
        if not (untold.settled and result == QUICK):
            untold.record(0.0, *result)
        assert told.counts(0.0) == untold.counts(0.0)


# -- the last seconds --------------------------------------------------------------------------------


class Recount:
    """A time window that remembers every call."""

    def __init__(self, width: float, slots: int) -> None:
        self.width, self.slots = width, slots
        self.seen = -sys.float_info.max
        self.kept: list[tuple[float, tuple[bool, bool]]] = []

    def slice_at(self, moment: float) -> int:
        return int(moment // self.width)

    def counts(self, now: float) -> Counts:
        self.seen = max(self.seen, now)
        first = self.slice_at(self.seen) - self.slots + 1
        return recounted([result for at, result in self.kept if self.slice_at(at) >= first])


MOMENTS = st.floats(0, 400) | st.sampled_from([0.0, 63.0, 63.5, 64.0, 127.0, 128.0, 1e6, 1e9])


@given(
    seconds=st.sampled_from([0.001, 0.3, 1.0, 10.0, 60.0, 64.0]),
    slots=st.sampled_from([1, 2, 7, 64]),
    start=st.sampled_from([-1000.0, 0.0, 12345.678]),
    story=st.lists(st.tuples(MOMENTS, RESULTS | st.none()), max_size=40),
    orderly=st.booleans(),
)
def test_last_seconds_equal_a_recount(
    seconds: float,
    slots: int,
    start: float,
    story: list[tuple[float, tuple[bool, bool] | None]],
    orderly: bool,
) -> None:
    """A time window always holds what a recount of its slices gives, in whatever order moments come."""
    slices, recount = TimeWindow(seconds, slots), Recount(seconds / slots, slots)
    unit = seconds / 64  # so that moments fall together with the ends of slices, too
    moments = [start + moment * unit for moment, _ in story]
    for now, (_, result) in zip(sorted(moments) if orderly else moments, story, strict=True):
        recount.seen = max(recount.seen, now)
        if result is not None:
            slices.record(now, *result)
            recount.kept.append((recount.seen, result))
        assert slices.counts(now) == recount.counts(now)
        assert not slices.settled


@given(st.lists(st.integers(0, 90), max_size=40))
def test_last_seconds_are_the_last_seconds(steps: list[int]) -> None:
    """No call older than the window is counted, and each is that is younger by a 64th of it."""
    slices, moments, now = TimeWindow(64.0), list[int](), 0
    for step in steps:
        now += step
        slices.record(float(now), *FAILED)
        moments.append(now)
        _, failures, _ = slices.counts(now)
        assert sum(now - at <= 63 for at in moments) <= failures <= sum(now - at < 64 for at in moments)


def test_calls_leave_slice_by_slice() -> None:
    """Calls drop out of a time window as they grow older than it, not all at once."""
    slices = TimeWindow(10.0, slots=10)
    for second in range(10):
        slices.record(second + 0.5, *BOTH)
    left = [slices.counts(float(now)) for now in range(9, 21)]
    assert left == [(calls, calls, calls) for calls in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0)]


def test_cleared_seconds() -> None:
    """A cleared time window is empty, and counts on."""
    slices = TimeWindow(10.0)
    slices.record(5.0, *FAILED)
    slices.clear()
    assert slices.counts(5.0) == NONE
    slices.record(5.0, *SLOW)
    assert slices.counts(6.0) == (1, 0, 1)


@pytest.mark.parametrize("slots", [0, -1, 65])
def test_number_of_slots(slots: int) -> None:
    """A time window has at most 64 slots."""
    with pytest.raises(ValueError, match=f"slots={slots}"):
        TimeWindow(10.0, slots)


# -- both --------------------------------------------------------------------------------------------


def size_of(counted: Window) -> int:
    """Bytes of all that a window holds."""
    held = [getattr(counted, name) for name in type(counted).__slots__]  # type: ignore[attr-defined]
    return sum(sys.getsizeof(each) for each in held if not isinstance(each, int | float))


@pytest.mark.parametrize("make", [lambda: CountWindow(100), lambda: TimeWindow(10.0)])
def test_memory_does_not_grow_with_traffic(make: Callable[[], Window]) -> None:
    """Twenty thousand calls at ever later times leave a window as large as it was when it was empty."""
    counted = make()
    empty = size_of(counted)
    for number in range(20_000):
        counted.record(number / 300, *BOTH)
        assert size_of(counted) == empty
    calls, failures, slow = counted.counts(20_000 / 300)
    assert calls == failures == slow > 0
    assert empty < 2500


def test_a_time_window_has_64_slots_however_long() -> None:
    """A window of a year takes as much memory as one of a second."""
    assert MAX_SLOTS == 64
    assert size_of(TimeWindow(1.0)) == size_of(TimeWindow(365 * 86400.0))


def test_interrupts_leave_totals_that_add_up() -> None:
    """Nothing can come between the parts of what one result changes."""
    assert interrupted(window.CountWindow.record, "_next", "_calls") == []
    assert interrupted(window.TimeWindow.record, "_newest", "_slow") == []
