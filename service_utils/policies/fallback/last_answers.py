"""The last answers to questions: fresh ones, new ones, and old ones where no new one can be had."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable
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
from service_utils.policies.fallback.lasting import Lasting, LastingAnswers, LastingKey
from service_utils.policies.fallback.questions import Limits, Question, no_key
from service_utils.policies.fallback.shelf import Fetching, Kept, Shelf
from service_utils.policies.fallback.single_flight import Ending, Flight, SingleFlight
from service_utils.policies.fallback.stale_counts import StaleCounts

__all__ = ["LastAnswers"]

_ENDINGS = {Worth.PRIVATE: Ending.ALONE, Worth.OWN: Ending.AGAIN}


class LastAnswers:
    """Keeps answers and makes calls for new ones. For any number of threads.

    Args:
        limits: See :class:`Limits`.
        name: What it is called in events and degraded answers.
        failures: Which exceptions an old answer may stand in for.
        clock: Where the time comes from.
        listeners: Told of every stale answer, before those of the process.
        lasting: Where answers outlive the process, or None.

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
        lasting: LastingAnswers | None = None,
    ) -> None:
        self._limits = limits
        self._name = name
        self._failures = failures
        self._clock = clock
        self._listeners = listeners
        self._lasting = lasting
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
        if self._lasting is not None:
            self._lasting.forget(None)

    def forget(self, key: Hashable, lasting: LastingKey = no_key) -> None:
        """Forget the answer to one question; see :meth:`clear`."""
        self._flights.outdate(lambda flight: flight.key[0] == key)
        self._shelf.outdate(key)
        if self._lasting is not None:
            self._lasting.forget(lasting)

    def status(self) -> dict[str, Any]:
        """Limits, what is kept, and the counts; with a store, whether it can be used."""
        entries, size = self._shelf.counts(self._clock.monotonic())
        return {
            "max_entries": self._limits.max_entries,
            "max_bytes": self._limits.max_bytes,
            "entries": entries,
            "bytes": size,
            **self.counts.snapshot(),
            **({} if self._lasting is None else {"store": "failing" if self._lasting.failing else "ok"}),
        }

    def fresh(self, ask: Question) -> Kept | None:
        """What is kept and still fresh."""
        return self._shelf.find(ask.key, self._clock.monotonic(), self._limits.ttl)

    def fresh_elsewhere(self, ask: Question) -> Kept | None:
        """What the store has and is still fresh."""
        kept = self.restored(ask)
        return kept if kept is not None and self._clock.monotonic() - kept.at < self._limits.ttl else None

    def restored(self, ask: Question) -> Kept | None:
        """What the store has that is newer than what is kept here; it is kept here from then on.

        What the store knows to be gone is forgotten here.
        """
        if self._lasting is None:
            return None
        fetching = Fetching(ask.key, self._clock.monotonic())
        try:
            self._shelf.begin(fetching)
            found = self._lasting.find(ask.lasting)
            return None if found is None else self._taken_over(ask, found, fetching)
        finally:
            self._shelf.end(fetching)

    def _taken_over(self, ask: Question, found: Lasting, fetching: Fetching) -> Kept | None:
        here = self._shelf.find(ask.key, self._clock.monotonic(), self._limits.max_age)
        if found.gone:
            if here is not None and here.began <= found.at:
                self._shelf.outdate(ask.key, but=fetching)
            return None
        if here is not None and here.began >= found.began:
            return None
        size = size_of(found.answer, self._limits.max_bytes)
        kept = Kept(found.answer, size, found.began, found.at)
        self._shelf.put(fetching, kept)
        return None if fetching.outdated else kept

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
            at = self._clock.monotonic()
            self._shelf.put(fetching, Kept(kept, size, fetching.began, at))
            if self._lasting is not None and not fetching.outdated:
                self._lasting.keep(ask.lasting, kept, fetching.began, at)
        if flight is not None:
            flight.result, flight.ending = kept, _ENDINGS.get(worth, Ending.SHARED)
        return answer

    def _stale(self, ask: Question, first: Exception) -> tuple[Any] | None:
        """The answer in place of a failed call, if there is one; an old one is marked and told."""
        restored = self.restored(ask)
        now = self._clock.monotonic()
        kept = restored or self._shelf.find(ask.key, now, self._limits.max_age)
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
        if self._lasting is not None:
            self._lasting.forget(ask.lasting)


@dataclass(frozen=True, slots=True)
class _Asking:
    """One caller among those who ask the same: a :class:`~.single_flight.Turn`."""

    answers: LastAnswers
    ask: Question

    def lead(self, flight: Flight) -> Any:
        kept = self.answers.fresh(self.ask) or self.answers.fresh_elsewhere(self.ask)
        if kept is None:
            return self.answers.fetch(self.ask, flight)
        # Another thread's call has ended since this one looked, or another process has made one.
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
