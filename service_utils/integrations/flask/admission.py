"""How one request comes into a protected route and out of it again: slots, permit, and the way back.

What a request holds lies in its :class:`Admission` from the moment it is taken, so that whoever drops out on
whatever way has only to close that. It is closed with the answer: by the WSGI server, when the body has been
sent or the caller has hung up; else, with what the request was made of, by the garbage collector.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from service_utils.calls import Outcome
from service_utils.clock import Clock
from service_utils.errors import BulkheadFullError, CircuitOpenError, DeadlineExceeded
from service_utils.events import Listener
from service_utils.forks import guard
from service_utils.integrations.flask.limits import Limits
from service_utils.policies.breaker import CircuitBreaker, Permit
from service_utils.policies.bulkhead import Bulkhead, Slot
from service_utils.policies.deadline import Deadline

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Admission", "Body", "Gate", "Queue", "Shed", "run"]


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
        """The bulkhead's, less what is not its own business."""
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


class Admission:
    """What one request holds of a gate, from the moment it is let in until its answer is closed.

    Attributes:
        gate: The gate.
        slots: What it holds of places.
        permit: What it holds of the route's circuit.
        asked: Whether it has been asked for: once, however often Flask goes through its request.
    """

    __slots__ = ("_began", "_outcome", "asked", "gate", "permit", "slots")

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.slots: list[Slot] = []
        self.permit: Permit | None = None
        self.asked = False
        self._began: float | None = None
        self._outcome = Outcome.IGNORED  # what the circuit is told when nothing else is known at the end

    def begin(self) -> None:
        """The request is in; from now on its time is the route's."""
        self._began = self.gate.clock.monotonic()

    def answered(self, status: int, *, says_when: bool) -> None:
        """The head of the answer is there. A bad one counts at once, a good one when the body is made."""
        failed = self.gate.limits.is_failure(status, says_when=says_when)
        if failed is False:
            self._outcome = Outcome.SUCCESS
        else:
            self._settle(Outcome.IGNORED if failed is None else Outcome.FAILURE, f"status {status}")

    def progressed(self) -> None:
        """A piece of the body is there. A probe has shown enough: slow readers must not keep it waiting."""
        if self.permit is not None and self.permit.half_open:
            self._settle(self._outcome)

    def broke(self, error: BaseException) -> None:
        """The app has raised, in its head or in its body."""
        failed = isinstance(error, Exception)
        self._settle(Outcome.FAILURE if failed else Outcome.IGNORED, type(error).__name__ if failed else None)

    def close(self) -> None:
        """Give everything back. Any number of times, from any thread, after interrupts too."""
        try:
            self._give_back()
        except BaseException:  # a signal in this very moment
            self._give_back()
            raise

    def _give_back(self) -> None:
        while self.slots:
            self.slots[-1].release()  # does nothing if a signal came after it was done
            self.slots.pop()
        self._settle(self._outcome)

    def _settle(self, outcome: Outcome, error: str | None = None) -> None:
        """Tell the circuit; only the first word counts."""
        permit, breaker = self.permit, self.gate.breaker
        if permit is None or breaker is None:
            return
        began = self._began
        duration = 0.0 if began is None else self.gate.clock.monotonic() - began
        breaker.record(permit, outcome, duration, error=error)

    def __del__(self) -> None:
        self.close()


class Body:
    """The body of an answer, which gives back what its request holds when it is closed."""

    def __init__(self, body: Iterable[bytes], admission: Admission) -> None:
        self._body = body
        self._pieces: Iterator[bytes] = iter(body)
        self._admission = admission

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            raise
        except BaseException as error:
            self._admission.broke(error)
            raise
        self._admission.progressed()
        return piece

    def close(self) -> None:
        """Close the body, then the admission."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._admission.broke(error)
            raise
        finally:
            self._admission.close()


def run(
    app: WSGIApplication, admission: Admission, environ: WSGIEnvironment, start_response: StartResponse
) -> Body:
    """Have an app answer a request, and see that the admission is closed on every way out."""

    def starting(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
        says_when = any(name.lower() == "retry-after" for name, _ in headers)
        admission.answered(int(status[:3]), says_when=says_when)
        return start_response(status, headers, exc_info)

    try:
        return Body(app(environ, starting), admission)
    except BaseException as error:
        try:
            admission.broke(error)
        finally:
            admission.close()
        raise
