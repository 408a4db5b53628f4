"""Deadlines: moments that do not move."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.policies.deadline import Deadline
from service_utils.testing import FakeClock


def test_counts_down() -> None:
    """The time left shrinks with the clock."""
    clock = FakeClock(start=100.0)
    deadline = Deadline.after(10, clock)
    clock.advance(4)
    assert deadline.remaining() == 6.0
    assert deadline.at == 110.0


def test_expires_on_the_dot() -> None:
    """At its very moment a deadline has passed, and not a moment before."""
    clock = FakeClock()
    deadline = Deadline.after(10, clock)
    clock.advance(9.75)
    assert not deadline.expired
    clock.advance(0.25)
    assert deadline.expired
    assert deadline.remaining() == 0.0


def test_never_below_zero() -> None:
    """Long after it there are 0 seconds left, not less."""
    clock = FakeClock()
    deadline = Deadline.after(1, clock)
    clock.advance(100)
    assert deadline.remaining() == 0.0


def test_no_time_at_all() -> None:
    """Zero seconds are a deadline that has passed at once."""
    assert Deadline.after(0, FakeClock()).expired


def test_for_ever() -> None:
    """An infinite time never passes."""
    deadline = Deadline.after(math.inf, FakeClock())
    assert not deadline.expired
    assert deadline.remaining() == math.inf


def test_uses_the_machines_clock_by_default() -> None:
    """Without a clock the machine's counts."""
    deadline = Deadline.after(1000)
    assert 999 < deadline.remaining() <= 1000


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, -math.inf])
def test_refuses_what_is_no_time(seconds: float) -> None:
    """A deadline in the past is a mistake, named with its value."""
    with pytest.raises(ValueError, match=f"seconds={seconds!r}"):
        Deadline.after(seconds, FakeClock())


def test_refuses_a_moment_that_is_none() -> None:
    """NaN is no moment."""
    with pytest.raises(ValueError, match="at=nan"):
        Deadline(math.nan)


@pytest.mark.parametrize("attribute", ["at_once", "other"])
def test_has_no_room_for_more(attribute: str) -> None:
    """A misspelt attribute is an error, not a silent new one."""
    deadline: Any = Deadline(1.0, FakeClock())
    with pytest.raises(AttributeError):
        setattr(deadline, attribute, 1)


def test_repr_says_how_long() -> None:
    """Somebody who prints a deadline sees the time left."""
    assert repr(Deadline.after(1.5, FakeClock())) == "Deadline(remaining=1.500)"


@given(seconds=st.floats(0, 1e6), steps=st.lists(st.floats(0, 1e5), max_size=20))
def test_time_left_is_what_was_given_less_what_has_passed(seconds: float, steps: list[float]) -> None:
    """However the clock moves, time passed and time left make up the whole, until none is left."""
    clock = FakeClock()
    deadline = Deadline.after(seconds, clock)
    for step in steps:
        clock.advance(step)
        assert deadline.remaining() == max(deadline.at - clock.monotonic(), 0.0)
        assert deadline.expired == (deadline.remaining() == 0.0)
