"""What one request holds of a protected route, and how it is given back.

It lies in the request's :class:`Admission` from the moment it is taken, so that whoever drops out on whatever
way has only to close that. It is closed with the answer: by the WSGI server, when the body has been sent or
the caller has hung up; else, with what the request was made of, by the garbage collector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from service_utils.calls import Outcome
from service_utils.integrations.flask.gates import Gate
from service_utils.policies.breaker import Permit
from service_utils.policies.bulkhead import Slot

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Admission", "Body", "run"]


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
        if hasattr(self, "_outcome"):  # the last that __init__ sets, which a signal can interrupt, too
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
