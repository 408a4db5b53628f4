"""A call killed while the breaker told its listeners kept a probe's slot until the probe expired."""

from __future__ import annotations

import pytest

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


@pytest.mark.parametrize("kill", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_killed_while_listeners_are_told(kill: type[BaseException]) -> None:
    """Ctrl-C during the line "entering HALF_OPEN" leaves the way free for the next probe."""
    clock = FakeClock()
    killing = [True]

    def listener(event: object) -> None:
        if killing[0]:
            raise kill

    breaker = CircuitBreaker("b", failure_threshold=1, recovery_timeout=5, clock=clock, listeners=[listener])
    with pytest.raises(kill):
        breaker.record(breaker.acquire(), Outcome.FAILURE)
    clock.advance(5)
    with pytest.raises(kill):
        breaker.acquire()
    killing[0] = False

    assert breaker.state == "half_open"
    assert breaker.get_stats()["half_open_in_use"] == 0
    breaker.record(breaker.acquire(), Outcome.SUCCESS)
    assert breaker.state == "closed"
