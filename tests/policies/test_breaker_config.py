"""BreakerConfig: the limits of a breaker, checked at birth."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from service_utils.policies.breaker import BreakerConfig


def test_defaults() -> None:
    """The defaults are those of the contract."""
    assert dataclasses.asdict(BreakerConfig()) == {
        "failure_threshold": 5,
        "recovery_timeout": 60.0,
        "success_threshold": 1,
        "half_open_max_calls": 1,
        "half_open_timeout": None,
        "window_size": None,
        "window_seconds": None,
        "minimum_requests": 10,
        "failure_rate_threshold": 0.5,
        "slow_call_seconds": None,
        "slow_call_rate_threshold": 1.0,
        "half_open_quota": None,
        "max_recovery_timeout": None,
        "recovery_jitter": 0.0,
        "max_retry_after": 60.0,
    }


COUNTS = ["failure_threshold", "success_threshold", "half_open_max_calls", "minimum_requests"]
SECONDS = ["recovery_timeout", "half_open_timeout", "max_recovery_timeout", "max_retry_after"]
FRACTIONS = ["recovery_jitter", "failure_rate_threshold", "slow_call_rate_threshold"]


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one(field: str, value: int) -> None:
    """A number of calls is at least 1; the error names field and value."""
    with pytest.raises(ValueError, match=f"{field}={value}"):
        BreakerConfig(**{field: value})


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [1.0, "5", True, None])
def test_counts_that_are_none(field: str, value: Any) -> None:
    """A number of calls is a whole number."""
    with pytest.raises(TypeError, match=f"{field}={value!r}"):
        BreakerConfig(**{field: value})


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", [-0.001, math.nan, math.inf, -math.inf])
def test_seconds_out_of_range(field: str, value: Any) -> None:
    """Times are finite and not negative."""
    with pytest.raises(ValueError, match=f"{field}={value}"):
        BreakerConfig(**{field: value})


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", ["60", True, [1]])
def test_seconds_that_are_none(field: str, value: Any) -> None:
    """Times are numbers."""
    with pytest.raises(TypeError, match=f"{field}="):
        BreakerConfig(**{field: value})


@pytest.mark.parametrize("field", FRACTIONS)
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, 50])
def test_fractions_out_of_range(field: str, value: Any) -> None:
    """Shares lie between 0 and 1: 50 % is 0.5."""
    with pytest.raises(ValueError, match=f"{field}={value}"):
        BreakerConfig(**{field: value})


@pytest.mark.parametrize("field", ["failure_rate_threshold", "slow_call_rate_threshold"])
def test_rates_of_zero(field: str) -> None:
    """A rate of 0 would open the circuit at once and for ever."""
    with pytest.raises(ValueError, match=f"{field}=0"):
        BreakerConfig(**{field: 0})


def test_values_at_the_edge() -> None:
    """The limits of each range are allowed."""
    config = BreakerConfig(
        failure_threshold=1,
        recovery_timeout=0,
        half_open_timeout=1e-9,
        max_recovery_timeout=0,
        recovery_jitter=1,
        failure_rate_threshold=1,
        max_retry_after=0,
    )
    assert config.recovery_timeout == 0


def test_probe_needs_time() -> None:
    """A probe that may take no time could never succeed."""
    with pytest.raises(ValueError, match="half_open_timeout=0"):
        BreakerConfig(half_open_timeout=0)


def test_longest_open_time_below_the_first() -> None:
    """Open times grow: the longest cannot be below the first."""
    with pytest.raises(ValueError, match=r"max_recovery_timeout=5: .+ recovery_timeout=60"):
        BreakerConfig(max_recovery_timeout=5)


OPTIONAL_COUNTS = ["window_size", "half_open_quota"]
OPTIONAL_SECONDS = ["window_seconds", "slow_call_seconds"]


@pytest.mark.parametrize("field", OPTIONAL_COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1_000_001, 10**400])
def test_windows_and_quotas_out_of_range(field: str, value: int) -> None:
    """A window or quota holds between one and a million results."""
    with pytest.raises(ValueError, match=f"{field}={value}"):
        BreakerConfig(**{field: value})


@pytest.mark.parametrize("field", OPTIONAL_COUNTS)
@pytest.mark.parametrize("value", [1.0, "5", True])
def test_windows_and_quotas_that_are_no_numbers(field: str, value: Any) -> None:
    """A window or quota of results is a whole number."""
    with pytest.raises(TypeError, match=f"{field}={value!r}"):
        BreakerConfig(**{field: value})


@pytest.mark.parametrize("field", OPTIONAL_SECONDS)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_seconds_of_windows_out_of_range(field: str, value: float) -> None:
    """A window covers some time, and slow calls take some."""
    with pytest.raises(ValueError, match=f"{field}={value}"):
        BreakerConfig(**{"half_open_quota": 5, field: value})


@pytest.mark.parametrize("field", OPTIONAL_SECONDS)
@pytest.mark.parametrize("value", ["60", True])
def test_seconds_of_windows_that_are_no_numbers(field: str, value: Any) -> None:
    """Times of windows and slow calls are numbers."""
    with pytest.raises(TypeError, match=f"{field}={value!r}"):
        BreakerConfig(**{"half_open_quota": 5, field: value})


def test_shortest_time_window() -> None:
    """A window shorter than a millisecond would hold a single call at best."""
    with pytest.raises(ValueError, match=r"window_seconds=0\.0009: must be at least 0\.001"):
        BreakerConfig(window_seconds=0.0009)
    assert BreakerConfig(window_seconds=0.001).window_seconds == 0.001


def test_two_windows() -> None:
    """A window counts either calls or seconds."""
    with pytest.raises(ValueError, match=r"window_size=20, window_seconds=30"):
        BreakerConfig(window_size=20, window_seconds=30)


def test_window_that_never_holds_enough() -> None:
    """A circuit that could never open is refused, if it was asked for."""
    with pytest.raises(ValueError, match=r"minimum_requests=10: .+ window_size=9"):
        BreakerConfig(window_size=9, minimum_requests=10)
    assert BreakerConfig(window_size=10, minimum_requests=10).least_calls == 10


def test_default_minimum_gives_way_to_a_small_window() -> None:
    """A window smaller than the default of minimum_requests counts as soon as it is full."""
    small = BreakerConfig(window_size=4)
    assert (small.least_calls, small.minimum_requests) == (4, 10)
    assert BreakerConfig(window_size=40).least_calls == BreakerConfig(window_seconds=1).least_calls == 10


@pytest.mark.parametrize(
    "again", [copy.deepcopy, dataclasses.replace, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_default_minimum_gives_way_in_copies_too(again: Callable[[BreakerConfig], BreakerConfig]) -> None:
    """A copy of the limits, with a smaller window then, still knows that nobody asked for ten calls."""
    assert dataclasses.replace(again(BreakerConfig(window_size=8)), window_size=4).least_calls == 4


def test_quota_beside_a_number_of_successes() -> None:
    """Probes are judged by one rule."""
    with pytest.raises(ValueError, match=r"half_open_quota=5, success_threshold=2"):
        BreakerConfig(half_open_quota=5, success_threshold=2)


def test_slow_calls_that_nobody_counts() -> None:
    """Slow calls need a window or a quota to be counted in."""
    with pytest.raises(
        ValueError, match=r"slow_call_seconds=2: .+ window_size, window_seconds or half_open_quota"
    ):
        BreakerConfig(slow_call_seconds=2)
    for counted_in in ({"window_size": 20}, {"window_seconds": 30}, {"half_open_quota": 5}):
        assert BreakerConfig(slow_call_seconds=2, **counted_in).slow_call_seconds == 2


def test_is_a_value() -> None:
    """Limits compare, hash, copy and pickle as values, and cannot be changed."""
    config = BreakerConfig(failure_threshold=2, recovery_jitter=0.1)
    assert config == BreakerConfig(failure_threshold=2, recovery_jitter=0.1) != BreakerConfig()
    assert hash(config) == hash(copy.deepcopy(config))
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.failure_threshold = 3  # type: ignore[misc]


def test_changed_copies_are_checked_too() -> None:
    """dataclasses.replace() makes no limits that could not be made directly."""
    with pytest.raises(ValueError, match="success_threshold=0"):
        dataclasses.replace(BreakerConfig(), success_threshold=0)


def test_keywords_only() -> None:
    """Limits are given by name: nobody can mix up two numbers."""
    with pytest.raises(TypeError):
        BreakerConfig(5)  # type: ignore[call-arg]
