"""The monitor of the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service_utils import default_registry
from service_utils.degradation import (
    DegradationLevel,
    DegradationMonitor,
    Rule,
    get_degradation_handler,
    set_degradation_handler,
)
from service_utils.registry import get_circuit_breaker
from tests.side_by_side import together


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """No test leaves a monitor or circuits in the process."""
    set_degradation_handler(None)
    yield
    set_degradation_handler(None)
    default_registry().close()


def test_there_is_one() -> None:
    """Everybody who asks for the monitor of the process gets the same one."""
    assert len({id(each) for each in together(8, lambda _: get_degradation_handler())}) == 1


def test_it_goes_by_the_share_of_open_circuits() -> None:
    """Nobody has to write a rule for a start."""
    get_circuit_breaker("exa").force_open("drill")
    get_circuit_breaker("tavily")
    handler = get_degradation_handler()
    assert handler.evaluate() is DegradationLevel.SEVERE
    assert handler.reasons == ("1 of 2 circuits open",)


def test_an_application_sets_its_own() -> None:
    """The application's own monitor takes the place of the one before it, which is stopped."""
    earlier = get_degradation_handler()
    earlier.start()
    own = DegradationMonitor(default_registry(), [Rule("severe", "billing")])
    set_degradation_handler(own)
    assert get_degradation_handler() is own
    assert not earlier.running
    own.start()
    set_degradation_handler(own)
    assert own.running
    own.stop()


def test_what_is_no_monitor() -> None:
    """Anything else is refused."""
    with pytest.raises(TypeError, match="monitor=5"):
        set_degradation_handler(5)  # type: ignore[arg-type]
