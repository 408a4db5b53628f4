"""Checks of arguments: what passes, and how the errors read."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from service_utils.clock import SYSTEM
from service_utils.policies.checks import (
    checked_clock,
    checked_listeners,
    require_count,
    require_fraction,
    require_seconds,
)
from service_utils.testing import FakeClock


@pytest.mark.parametrize("value", [1, 2, 10**400])
def test_counts(value: int) -> None:
    """Any whole number from 1 on is a count."""
    require_count("n", value)


def test_least_count() -> None:
    """What counts as too few can be said."""
    require_count("n", 0, least=0)
    with pytest.raises(ValueError, match="n=2: must be at least 3"):
        require_count("n", 2, least=3)


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, Fraction(1)])
def test_no_counts(value: Any) -> None:
    """What is no int is no count, truth values included."""
    with pytest.raises(TypeError, match=r"n=.*: must be an integer"):
        require_count("n", value)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, 1e-300, 1e308, 5, Fraction(1, 3)])
def test_seconds(value: Any) -> None:
    """Any finite number that is not negative is a time."""
    require_seconds("t", value)


@pytest.mark.parametrize("value", [-1, -1e-300, math.inf, -math.inf, math.nan, 10**400, -(10**400)])
def test_bad_seconds(value: float) -> None:
    """Negative and infinite times are refused by name and value."""
    with pytest.raises(ValueError, match=f"t={value!r}: must be a finite number of seconds >= 0"):
        require_seconds("t", value)


@pytest.mark.parametrize("value", [0, 0.0, -0.0])
def test_no_time_at_all(value: float) -> None:
    """Where a time must be above 0, zero is refused."""
    with pytest.raises(ValueError, match="must be a finite number of seconds > 0"):
        require_seconds("t", value, zero=False)


@pytest.mark.parametrize("check", [require_seconds, require_fraction])
@pytest.mark.parametrize("value", ["1", None, True, [1], 1j, Decimal(1)])
def test_no_numbers(check: Any, value: Any) -> None:
    """What is no real number is refused as such."""
    with pytest.raises(TypeError, match=r"x=.*: must be a number"):
        check("x", value)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0, Fraction(1, 3)])
def test_fractions(value: Any) -> None:
    """Numbers from 0 to 1 are fractions."""
    require_fraction("f", value)


@pytest.mark.parametrize("value", [-0.001, 1.001, math.nan, math.inf, 10**400])
def test_bad_fractions(value: float) -> None:
    """Others are not."""
    with pytest.raises(ValueError, match=r"f=.*: must be a number in \[0, 1\]"):
        require_fraction("f", value)


def test_fraction_of_nothing() -> None:
    """Where a share must be above 0, zero is refused."""
    with pytest.raises(ValueError, match=r"f=0: must be a number in \(0, 1\]"):
        require_fraction("f", 0, zero=False)
    require_fraction("f", 1e-9, zero=False)


def test_clocks(fake_clock: FakeClock) -> None:
    """A clock is the one given, or the machine's."""
    assert checked_clock(fake_clock) is fake_clock
    assert checked_clock(None) is SYSTEM


def test_bad_clock() -> None:
    """What lacks a clock's methods is none."""
    clock: Any = math
    with pytest.raises(TypeError, match=r"clock=.*monotonic"):
        checked_clock(clock)


def test_listeners() -> None:
    """Listeners come in any order and container, and stay in that order."""
    assert checked_listeners([print, len]) == (print, len)
    assert checked_listeners(iter([print])) == (print,)
    assert checked_listeners(()) == ()


@pytest.mark.parametrize("listeners", [None, print, [print, None], "abc"])
def test_bad_listeners(listeners: Any) -> None:
    """What cannot be called cannot listen, and a single listener is no collection of them."""
    with pytest.raises(TypeError, match="listeners"):
        checked_listeners(listeners)
