"""A breaker that changed state while a rejection was being logged in the same thread hung that thread."""

from __future__ import annotations

import threading

from service_utils.events import CircuitChanged, CircuitRejected, CircuitState
from service_utils.logs import LoggingListener


def test_collected_while_a_rejection_is_counted() -> None:
    """The garbage collector, which may run anywhere, may end a call while the log counts another."""
    listener = LoggingListener()
    changed = CircuitChanged(
        service="s",
        name="s",
        at=0.0,
        from_state=CircuitState.HALF_OPEN,
        to_state=CircuitState.CLOSED,
        reason="service recovered",
        generation=1,
    )

    class Moment(float):
        """Stands for the collector: something is told as soon as the log looks at the time."""

        def __le__(self, other: float) -> bool:
            listener(changed)
            return float(self) <= other

    def work() -> None:
        for _ in range(2):
            listener(
                CircuitRejected(
                    service="s",
                    name="s",
                    at=Moment(1.0),
                    state=CircuitState.OPEN,
                    cooldown_remaining=1.0,
                    generation=1,
                )
            )

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)

    assert not thread.is_alive()
