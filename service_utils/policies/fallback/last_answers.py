"""The last answers to questions: fresh ones, new ones, and old ones where no new one can be had."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from service_utils.clock import Clock
from service_utils.events import Listener
from service_utils.policies.fallback.answers import (
    Worth,
    error_for_another,
    is_response,
    size_of,
    worth_of_answer,
    worth_of_error,
)
from service_utils.policies.fallback.degraded import mark_degraded
from service_utils.policies.fallback.failures import Failures, raise_if_failed, tell
from service_utils.policies.fallback.shelf import Fetching, Kept, Shelf
from service_utils.policies.fallback.single_flight import Ending, Flight, SingleFlight
from service_utils.policies.fallback.stale_counts import StaleCounts

__all__ = ["LastAnswers", "Limits", "Question"]

_ENDINGS = {Worth.PRIVATE: Ending.ALONE, Worth.OWN: Ending.AGAIN}


def _any_time() -> None:
    """The patience of a caller who has no deadline."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the answers that are kept.

    Attributes:
        ttl: Seconds one is fresh.
        max_age: Seconds until it is of no use at all.
        max_entries: How many are kept.
        max_bytes: How many bytes all of them take.
    """

    ttl: float
    max_age: float
    max_entries: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Question:
    """What one caller asks.

    Attributes:
        key: The same for two questions only if they have the same answer.
        func: Makes the call that answers it.
        copy: Makes a copy of an answer.
        limits: What else must be the same for one caller to wait for the other's call.
        patience: Tells the seconds he may wait; None for any time.
    """

    key: Hashable
    func: Callable[[], Any]
    copy: Callable[[Any], Any]
    limits: Hashable = None
    patience: Callable[[], float | None] = _any_time


class LastAnswers:
    """Keeps answers and makes calls for new ones. For any number of threads.

    Args:
        limits: See :class:`Limits`.
        name: What it is called in events and degraded answers.
        failures: Which exceptions an old answer may stand in for.
        clock: Where the time comes from.
        listeners: Told of every stale answer, before those of the process.

    Attributes:
        counts: How often each kind of answer was given.
    """

    def __init__(
        self,
        limits: Limits,
        name: str,
        failures: Failures,
        clock: Clock,
        listeners: tuple[Listener, ...],
    ) -> None:
        self._limits = limits
        self._name = name
        self._failures = failures
        self._clock = clock
        self._listeners = listeners
        self._shelf = Shelf(limits.max_entries, limits.max_bytes, limits.max_age)
        self._flights = SingleFlight(clock)
        self.counts = StaleCounts()

    def to(self, ask: Question) -> Any:
        """The answer to a question: one that is kept, or that of a call.

        Raises:
            Exception: The call's, when there is nothing to answer with instead.
        """
        kept = self.fresh(ask)
        if kept is not None:
            self.counts.note("hits")
            return ask.copy(kept.answer)
        try:
            answer = self._flights.run((ask.key, ask.limits), _Asking(self, ask))
        except Exception as error:
            if worth_of_error(error) is Worth.SPENT or not self._failures.cover(error):
                raise
            stale = self._stale(ask, error)
            if stale is None:
                raise
            return stale[0]
        if worth_of_answer(answer) is Worth.FAILURE:
            stale = self._stale(ask, _error_of(answer))
            return answer if stale is None else stale[0]
        return answer

    def clear(self) -> None:
        """Forget all answers; those of calls that are under way will not be kept either."""
        self._flights.outdate(lambda flight: True)
        self._shelf.outdate()

    def forget(self, key: Hashable) -> None:
        """Forget the answer to one question; see :meth:`clear`."""
        self._flights.outdate(lambda flight: flight.key[0] == key)
        self._shelf.outdate(key)

    def status(self) -> dict[str, int]:
        """Limits, what is kept, and the counts."""
        entries, size = self._shelf.counts(self._clock.monotonic())
        return {
            "max_entries": self._limits.max_entries,
            "max_bytes": self._limits.max_bytes,
            "entries": entries,
            "bytes": size,
            **self.counts.snapshot(),
        }

    def fresh(self, ask: Question) -> Kept | None:
        """What is kept and still fresh."""
        return self._shelf.find(ask.key, self._clock.monotonic(), self._limits.ttl)

    def fetch(self, ask: Question, flight: Flight | None) -> Any:
        """Make the call, and see to what becomes of its result."""
        self.counts.note("misses")
        fetching = Fetching(ask.key, self._clock.monotonic())
        try:
            self._shelf.begin(fetching)
            return self._fetched(ask, flight, fetching)
        finally:
            self._shelf.end(fetching)

    def _fetched(self, ask: Question, flight: Flight | None, fetching: Fetching) -> Any:
        try:
            answer = ask.func()
        except Exception as error:
            worth = worth_of_error(error)
            self._let_go(ask, worth, flight, fetching)
            if flight is not None:
                flight.ending = _ENDINGS.get(worth, Ending.SHARED)
                # Whoever gets the error itself may change the response in it meanwhile.
                carries = is_response(getattr(error, "response", None))
                flight.result = error_for_another(error, ask.copy) if carries else error
            raise
        worth = worth_of_answer(answer)
        self._let_go(ask, worth, flight, fetching)
        kept = None if worth is Worth.PRIVATE else ask.copy(answer)
        if worth is Worth.KEPT and getattr(answer, "_stale_age", None) is None:  # not another cache's old one
            size = size_of(kept, self._limits.max_bytes)
            self._shelf.put(fetching, Kept(kept, size, fetching.began, self._clock.monotonic()))
        if flight is not None:
            flight.result, flight.ending = kept, _ENDINGS.get(worth, Ending.SHARED)
        return answer

    def _stale(self, ask: Question, first: Exception) -> tuple[Any] | None:
        """The answer in place of a failed call, if there is one; an old one is marked and told."""
        now = self._clock.monotonic()
        kept = self._shelf.find(ask.key, now, self._limits.max_age)
        if kept is None:
            return None
        answer = ask.copy(kept.answer)
        if now - kept.at < self._limits.ttl:  # it came from another call, while this one failed
            self.counts.note("hits")
            return (answer,)
        if is_response(answer):
            with contextlib.suppress(AttributeError):  # some other library's, with slots
                answer._stale_age = now - kept.at
        self.counts.note("stale")
        mark_degraded(self._name)
        tell(
            pattern="stale_cache",
            strategy=self._name,
            status="success",
            first=first,
            clock=self._clock,
            label=self._name,
            listeners=self._listeners,
        )
        return (answer,)

    def _let_go(self, ask: Question, worth: Worth, flight: Flight | None, fetching: Fetching) -> None:
        """Forget what was kept before, and see that no earlier call brings it back."""
        if worth not in (Worth.SPENT, Worth.PRIVATE):
            return
        self._flights.outdate(lambda other: other.key[0] == ask.key and other is not flight)
        self._shelf.outdate(ask.key, but=fetching)


@dataclass(frozen=True, slots=True)
class _Asking:
    """One caller among those who ask the same: a :class:`~.single_flight.Turn`."""

    answers: LastAnswers
    ask: Question

    def lead(self, flight: Flight) -> Any:
        kept = self.answers.fresh(self.ask)
        if kept is None:
            return self.answers.fetch(self.ask, flight)
        # Another thread's call has ended since this one looked.
        self.answers.counts.note("hits")
        flight.result, flight.ending = kept.answer, Ending.SHARED
        return self.ask.copy(kept.answer)

    def follow(self, flight: Flight) -> Any:
        self.answers.counts.note("coalesced")
        result = flight.result
        if isinstance(result, Exception):
            raise error_for_another(result, self.ask.copy)
        return self.ask.copy(result)

    def alone(self) -> Any:
        return self.answers.fetch(self.ask, None)

    def patience(self) -> float | None:
        return self.ask.patience()


def _error_of(answer: Any) -> Exception:
    """What a failed response would be as an error."""
    try:
        raise_if_failed(answer)
    except Exception as error:
        return error
    raise AssertionError("a failed response raises")
