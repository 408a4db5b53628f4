"""Back-offs: how long each retry waits."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.policies.backoff import (
    Backoff,
    apply_jitter,
    exponential,
    fibonacci,
    fixed,
    linear,
)

ALL = [exponential(), linear(), fixed(), fibonacci()]
SECONDS = st.floats(min_value=0, max_value=1e308)
FACTORS = st.floats(min_value=1, max_value=1e308)
RETRY_NUMBERS = st.one_of(st.integers(1, 50), st.integers(1, 10**400))
CAPPED = st.one_of(
    st.builds(exponential, base=SECONDS, factor=FACTORS, cap=SECONDS),
    st.builds(linear, base=SECONDS, step=SECONDS, cap=SECONDS),
    st.builds(fibonacci, base=SECONDS, cap=SECONDS),
)


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (exponential(), [1, 2, 4, 8, 16, 30, 30]),
        (exponential(base=0.5, factor=3, cap=10), [0.5, 1.5, 4.5, 10]),
        (exponential(factor=1), [1, 1, 1]),
        (linear(), [1, 2, 3, 4]),
        (linear(base=1, step=2.5, cap=5), [1, 3.5, 5, 5]),
        (linear(base=2, step=0), [2, 2, 2]),
        (fixed(), [1, 1, 1]),
        (fixed(0.25), [0.25, 0.25]),
        (fibonacci(), [1, 1, 2, 3, 5, 8, 13, 21, 30, 30]),
        (fibonacci(base=2, cap=7), [2, 2, 4, 6, 7]),
    ],
)
def test_delays(backoff: Backoff, delays: list[float]) -> None:
    """Each back-off grows as its name says, up to its cap."""
    assert [backoff(number) for number in range(1, len(delays) + 1)] == delays


@pytest.mark.parametrize("backoff", ALL)
def test_seconds_are_floats(backoff: Backoff) -> None:
    """Whole numbers given as ints come back as floats, like all seconds."""
    assert type(backoff(1)) is float


@pytest.mark.parametrize("base", [0, 0.0])
@pytest.mark.parametrize("make", [exponential, fibonacci])
def test_no_delay_at_all(make: Callable[..., Backoff], base: float) -> None:
    """A base of zero means no waiting, however many retries there are."""
    assert [make(base=base)(number) for number in (1, 5, 10**9)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("number", [10**9, 10**400])
@pytest.mark.parametrize("backoff", ALL)
def test_never_overflows(backoff: Backoff, number: int) -> None:
    """The billionth retry waits for the cap, and finding that out takes no time."""
    assert backoff(number) == (1.0 if backoff == fixed() else 30.0)


@given(backoff=CAPPED, number=RETRY_NUMBERS)
def test_stays_within_bounds(backoff: Backoff, number: int) -> None:
    """No delay is negative, infinite or above the cap."""
    delay = backoff(number)
    assert 0 <= delay <= backoff.cap  # type: ignore[attr-defined]
    assert math.isfinite(delay)


@given(backoff=CAPPED, number=st.integers(1, 200))
def test_never_shrinks(backoff: Backoff, number: int) -> None:
    """A later retry waits at least as long as an earlier one."""
    assert backoff(number) <= backoff(number + 1)


@pytest.mark.parametrize("backoff", ALL)
@pytest.mark.parametrize("number", [0, -1])
def test_retries_are_counted_from_one(backoff: Backoff, number: int) -> None:
    """There is no retry number 0."""
    with pytest.raises(ValueError, match=f"retry_number={number}"):
        backoff(number)


@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf])
@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (exponential, "base"),
        (exponential, "factor"),
        (exponential, "cap"),
        (linear, "base"),
        (linear, "step"),
        (linear, "cap"),
        (fixed, "delay"),
        (fibonacci, "base"),
        (fibonacci, "cap"),
    ],
)
def test_out_of_range(make: Callable[..., Backoff], argument: str, value: float) -> None:
    """A number that is no length of time is refused by argument and value."""
    with pytest.raises(ValueError, match=f"{argument}={value!r}"):
        make(**{argument: value})


@pytest.mark.parametrize("value", [True, "1", None])
@pytest.mark.parametrize(
    ("make", "argument"), [(exponential, "base"), (exponential, "factor"), (linear, "step"), (fixed, "delay")]
)
def test_wrong_type(make: Callable[..., Backoff], argument: str, value: Any) -> None:
    """What is no number is refused by argument and value; True is no number."""
    with pytest.raises(TypeError, match=f"{argument}={value!r}"):
        make(**{argument: value})


def test_factor_below_one() -> None:
    """Delays that get shorter are a mistake."""
    with pytest.raises(ValueError, match=r"factor=0\.5"):
        exponential(factor=0.5)


@pytest.mark.parametrize("backoff", ALL)
def test_is_a_value(backoff: Backoff) -> None:
    """Back-offs compare by their settings, and survive copy and pickle."""
    assert pickle.loads(pickle.dumps(backoff)) == copy.deepcopy(backoff) == backoff
    assert exponential(base=2) != exponential(base=3)


def test_prints_its_settings() -> None:
    """A back-off in a log line or an error says what it does."""
    assert repr(exponential(base=0.5)) == "Exponential(base=0.5, factor=2.0, cap=30.0)"


@pytest.mark.parametrize(
    ("jitter", "drawn", "delay"), [(0, 0.7, 8.0), (1, 0.75, 2.0), (0.5, 0.5, 6.0), (0.5, 0.0, 8.0)]
)
def test_jitter_takes_a_part_off(jitter: float, drawn: float, delay: float) -> None:
    """The delay loses the share that is drawn, of the share that may be lost."""
    assert apply_jitter(8.0, jitter, lambda: drawn) == delay


@given(
    delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_jitter_bounds(delay: float, jitter: float, drawn: float) -> None:
    """With jitter j a delay d lies between d * (1 - j) and d."""
    jittered = apply_jitter(delay, jitter, lambda: drawn)
    assert delay * (1 - jitter) <= jittered <= delay
