"""Making a circuit breaker: its arguments, and what the environment says about all of them."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.policies.breaker import BreakerConfig, CircuitBreaker
from service_utils.testing import FakeClock
from tests.policies.circuits import THRESHOLD, fail, make_breaker, totals


def test_disabled_by_the_environment(fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIRCUIT_BREAKER_ENABLED=false makes new breakers let everything through, and still count."""
    monkeypatch.setenv("CIRCUIT_BREAKER_ENABLED", " False ")
    breaker = make_breaker(fake_clock)
    fail(breaker, THRESHOLD * 5)

    assert breaker.state == "disabled"
    assert totals(breaker) == (0, THRESHOLD * 5, 0, 0)
    assert breaker.get_stats()["reason"] == "CIRCUIT_BREAKER_ENABLED=false"


@pytest.mark.parametrize("text", ["", "  ", "true", "1", "YES", "on"])
def test_enabled_by_the_environment(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """An empty CIRCUIT_BREAKER_ENABLED is no setting, and true is what it is anyway."""
    monkeypatch.setenv("CIRCUIT_BREAKER_ENABLED", text)
    assert make_breaker(fake_clock).state == "closed"


def test_unclear_environment(fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is neither true nor false is an error that names the variable."""
    monkeypatch.setenv("CIRCUIT_BREAKER_ENABLED", "maybe")
    with pytest.raises(ValueError, match="CIRCUIT_BREAKER_ENABLED='maybe'"):
        make_breaker(fake_clock)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"name": ""}, ValueError, "name=''"),
        ({"name": 5}, ValueError, "name=5"),
        ({"name": "b", "store": object()}, TypeError, "store="),
        ({"name": "b", "config": {}}, TypeError, "config="),
        ({"name": "b", "config": BreakerConfig(), "failure_threshold": 2}, ValueError, "failure_threshold"),
        ({"name": "b", "failure_threshold": 0}, ValueError, "failure_threshold=0"),
        ({"name": "b", "treshold": 3}, TypeError, "treshold"),
        ({"name": "b", "ignore": "KeyError"}, TypeError, "ignore='KeyError'"),
        ({"name": "b", "ignore": [KeyError]}, TypeError, "ignore="),
        ({"name": "b", "ignore": (KeyError, 5)}, TypeError, "ignore="),
        ({"name": "b", "classify": True}, TypeError, "classify=True"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], named: str) -> None:
    """A bad argument is refused when the breaker is made, and named."""
    with pytest.raises(error, match=named):
        CircuitBreaker(**arguments)


def test_limits_from_a_config() -> None:
    """Limits come from a BreakerConfig or, one by one, from keyword arguments."""
    config = BreakerConfig(failure_threshold=2)
    assert CircuitBreaker("b", config).config is config
    assert CircuitBreaker("b", failure_threshold=2).config == config
    assert CircuitBreaker("b").config == BreakerConfig()
