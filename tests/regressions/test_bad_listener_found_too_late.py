"""A breaker took anything for a listener or a clock, and failed or filled the log when it first used it."""

from __future__ import annotations

from typing import Any

import pytest

from service_utils.policies.breaker import CircuitBreaker


@pytest.mark.parametrize("listeners", [[None], ["print"], 5])
def test_bad_listeners(listeners: Any) -> None:
    """Listeners that cannot be called are refused when the breaker is made."""
    with pytest.raises(TypeError, match="listeners"):
        CircuitBreaker("b", listeners=listeners)


@pytest.mark.parametrize("clock", [object(), 0.0, float])
def test_bad_clock(clock: Any) -> None:
    """So is a clock that tells no time."""
    with pytest.raises(TypeError, match="clock"):
        CircuitBreaker("b", clock=clock)
