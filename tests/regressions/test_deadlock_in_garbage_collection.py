"""A generator inside ``with breaker:``, collected while the breaker was at work, hung its thread."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from datetime import datetime

from service_utils.calls import Outcome
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock


class CollectingClock(FakeClock):
    """Has the garbage collector run whenever it is asked for the time of day, as it may run at any moment."""

    def now(self) -> datetime:
        gc.collect()
        return super().now()


def forget_generator(breaker: CircuitBreaker) -> None:
    """Leave a generator behind that only the garbage collector will find."""

    def guarded() -> Iterator[object]:
        with breaker:
            yield itself

    itself = guarded()
    next(itself)


def test_generator_collected_while_a_result_is_recorded() -> None:
    """The garbage collector may give a permit back at any moment, also while the breaker is at work."""
    breaker = CircuitBreaker("b", clock=CollectingClock())

    def work() -> None:
        permit = breaker.acquire()
        forget_generator(breaker)
        breaker.record(permit, Outcome.SUCCESS)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)

    assert not thread.is_alive()
    assert breaker.get_stats()["total"] == {"succeeded": 1, "failed": 0, "ignored": 1, "rejected": 0}
