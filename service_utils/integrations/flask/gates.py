"""The gate of one protected route: its places, those who wait for one, its circuit and its counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from service_utils.clock import Clock
from service_utils.errors import BulkheadFullError, CircuitOpenError, DeadlineExceeded
from service_utils.events import Listener
from service_utils.forks import guard
from service_utils.integrations.flask.limits import Limits
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.bulkhead import Bulkhead
from service_utils.policies.deadline import Deadline

if TYPE_CHECKING:
    from service_utils.integrations.flask.admission import Admission

__all__ = ["Gate", "Queue", "Shed", "take"]


class Shed(Exception):
    """A request is turned away.

    Attributes:
        reason: Why, in the words of the event.
        retry_after: Seconds after which trying again makes sense.
    """

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Queue:
    """Places for requests and, in a second bulkhead round them, for a bounded number of those who wait."""

    def __init__(
        self,
        places: int,
        waiting: int,
        max_wait: float,
        *,
        name: str,
        clock: Clock,
        listeners: tuple[Listener, ...],
    ) -> None:
        self.places = Bulkhead(places, max_wait, name=name, clock=clock, listeners=listeners)
        self.hall = (
            Bulkhead(places + waiting, name=f"{name} queue", clock=clock, listeners=listeners)
            if max_wait > 0
            else None
        )

    def enter(self, admission: Admission, patience: Deadline, what: str, retry_after: float) -> None:
        """Take a place, waiting for it if one may.

        Raises:
            Shed: There is none.
        """
        if self.hall is not None:
            take(self.hall, admission, patience, f"{what}queue full", retry_after)
        take(self.places, admission, patience, f"{what}full", retry_after)

    def get_status(self) -> dict[str, Any]:
        """JSON-ready: that of the places, as :meth:`Bulkhead.get_status` has it."""
        return self.places.get_status()


def take(
    bulkhead: Bulkhead, admission: Admission, patience: Deadline, reason: str, retry_after: float
) -> None:
    """Take a slot of one bulkhead into an admission.

    Raises:
        Shed: There is none.
    """
    try:
        # Between the two calls there is no place where a signal could come in and the slot get lost.
        admission.slots.append(bulkhead.acquire(patience))
    except (BulkheadFullError, DeadlineExceeded):
        raise Shed(reason, retry_after) from None


class Gate:
    """One protected route: its places, its circuit and its counts.

    Args:
        prefix: The path, which stands for all below it.
        limits: Its limits.
        clock: Whose seconds count.
        listeners: Told of what happens, besides those of the process.
    """

    def __init__(self, prefix: str, limits: Limits, clock: Clock, listeners: tuple[Listener, ...]) -> None:
        self.prefix = prefix
        self.limits = limits
        self.clock = clock
        name, most, circuit = f"route {prefix}", limits.max_concurrent, limits.circuit
        self.queue: Queue | None = None
        if most is not None:
            waiting, seconds = limits.max_queue or most, limits.max_queue_seconds
            self.queue = Queue(most, waiting, seconds, name=name, clock=clock, listeners=listeners)
        self.breaker: CircuitBreaker | None = None
        if circuit is not None:
            self.breaker = CircuitBreaker(name, circuit, clock=clock, listeners=listeners)
        self._lock = threading.RLock()
        self._renew_in_child()
        guard(self)

    def _renew_in_child(self) -> None:
        self._admitted = 0
        self._shed: Counter[str] = Counter()

    def enter(self, admission: Admission, house: Sequence[Queue], deadline: Deadline | None) -> None:
        """Let a request in.

        Args:
            admission: What it takes is put there.
            house: The whole app's places: those of its priority, for which it may wait, and then those of
                all higher ones, for which it may not.
            deadline: By when it has to be answered.

        Raises:
            Shed: There is no room, or the circuit is open. What it had taken is still in ``admission``.
        """
        usual = self.limits.retry_after
        patience = Deadline.after(self.limits.max_queue_seconds, self.clock)
        if deadline is not None and deadline.remaining() < patience.remaining():
            patience = deadline
        self._check_circuit()
        if self.queue is not None:
            self.queue.enter(admission, patience, "", usual)
        for number, queue in enumerate(house):
            if number == 0:
                queue.enter(admission, patience, "app ", usual)
            else:
                take(queue.places, admission, Deadline.after(0.0, self.clock), "app full", usual)
        self._take_permit(admission)
        with self._lock:
            self._admitted += 1

    def _check_circuit(self) -> None:
        """Nobody waits for a place behind an open circuit."""
        if self.breaker is not None:
            try:
                self.breaker.check()
            except CircuitOpenError as error:
                raise self._circuit_open(error) from None

    def _take_permit(self, admission: Admission) -> None:
        if self.breaker is not None:
            try:
                admission.permit = self.breaker.acquire()
            except CircuitOpenError as error:
                raise self._circuit_open(error) from None

    def _circuit_open(self, error: CircuitOpenError) -> Shed:
        return Shed("circuit open", error.retry_after or self.limits.retry_after)

    def count_shed(self, reason: str) -> None:
        """Note that a request was turned away."""
        with self._lock:
            self._shed[reason] += 1

    def get_status(self) -> dict[str, Any]:
        """JSON-ready: limits, who is inside, who was turned away and why, and the circuit."""
        with self._lock:
            admitted, shed = self._admitted, dict(self._shed)
        places = self.queue.get_status() if self.queue is not None else {}
        return {
            "priority": self.limits.priority.value,
            "max_concurrent": self.limits.max_concurrent,
            "max_queue_seconds": self.limits.max_queue_seconds,
            "in_flight": places.get("in_flight"),
            "waiting": places.get("waiting", 0),
            "admitted": admitted,
            "shed": shed,
            "circuit": None if self.breaker is None else self.breaker.get_stats(),
        }
