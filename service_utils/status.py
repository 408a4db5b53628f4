"""What a client has done so far, as numbers for people and dashboards: of a process, or of all of a host."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import MutableSequence, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from service_utils.calls import Outcome
from service_utils.forks import guard

__all__ = [
    "BUCKETS",
    "WORDS",
    "CallCounters",
    "Counts",
    "Host",
    "HostCounts",
    "Word",
    "Worker",
    "merged_buckets",
    "percentile",
]

_SUCCESS, _FAILURE = Outcome.SUCCESS, Outcome.FAILURE
_SHARES = (50, 95, 99)
_WINDOW = 512  # attempts whose durations are kept; 4 KiB of floats
_EPOCH = 300.0  # seconds that one half of the buckets is for; people see this one and the one before
_PER_DECADE = 18
_SHORTEST = 1e-4  # seconds; up to it all is one bucket

WORDS = 16
"""Words of a row of counts: floating-point numbers of 64 bits, exact up to 2**53 and never too large."""
BUCKETS = 112
"""Buckets of a histogram of durations, six decades from 0.1 ms on; of 32 bits, exact up to 2**24."""

_BOUNDS = [_SHORTEST * 10 ** (each / _PER_DECADE) for each in range(BUCKETS - 1)]
_NO_BUCKETS = array("f", [0.0] * BUCKETS)


class Word:
    """Where in a row which count is."""

    BEGUN, TOTAL, SUCCEEDED, FAILED, REJECTED, RETRIED, DROPPED = range(7)
    LAST_SUCCESS, LAST_FAILURE = 7, 8  # seconds on the monotonic clock; 0 for never
    FAILURES = 9  # what speaks against the circuit now; no sum
    SPELL = 10  # the circuit's spell at that moment
    EPOCHS = 11  # which epoch each half of the buckets is of


_BEGUN, _TOTAL, _SUCCEEDED, _FAILED = Word.BEGUN, Word.TOTAL, Word.SUCCEEDED, Word.FAILED
_REJECTED, _RETRIED, _DROPPED = Word.REJECTED, Word.RETRIED, Word.DROPPED
_LAST_SUCCESS, _LAST_FAILURE, _EPOCHS = Word.LAST_SUCCESS, Word.LAST_FAILURE, Word.EPOCHS


class Counts:
    """A row of counts: of one client, or of all of one service in this process where a store keeps it.

    Whoever counts does so by statements that no other thread comes between: they hold no call.

    Args:
        timed: Whether durations are counted, too.

    Attributes:
        words: The counts, by :class:`Word`.
        buckets: Two histograms of durations, each for every other epoch.
    """

    __slots__ = ("_at", "_until", "buckets", "words")

    def __init__(self, *, timed: bool = True) -> None:
        self.words: MutableSequence[float] = [0] * WORDS
        self.buckets: MutableSequence[float] = [0] * (2 * BUCKETS if timed else 0)
        self._until = -math.inf  # the end of the present epoch
        self._at = 0  # where its buckets begin

    def took(self, duration: float, now: float) -> None:
        """Put one duration into its bucket."""
        if now >= self._until:
            self._begin_epoch(now)
        bucket = self._at + bisect_left(_BOUNDS, duration)
        self.buckets[bucket] += 1

    def _begin_epoch(self, now: float) -> None:
        epoch = now // _EPOCH
        half = int(epoch) & 1
        at = half * BUCKETS
        if self.words[_EPOCHS + half] != epoch:
            self.buckets[at : at + BUCKETS] = _NO_BUCKETS
            self.words[_EPOCHS + half] = epoch
        self._at, self._until = at, (epoch + 1) * _EPOCH

    def go_on_in(self, words: MutableSequence[float], buckets: MutableSequence[float]) -> None:
        """Count elsewhere from now on; what has been counted comes along."""
        old_words, old_buckets = self.words, self.buckets
        self.words, self.buckets, self._until = words, buckets, -math.inf
        add_counts(words, buckets, old_words, old_buckets)


def add_counts(
    words: MutableSequence[float],
    buckets: MutableSequence[float],
    more_words: Sequence[float],
    more_buckets: Sequence[float],
) -> None:
    """Add one row to another, into which others may be counting meanwhile."""
    for each in range(_DROPPED + 1):
        words[each] += more_words[each]
    for each in (_LAST_SUCCESS, _LAST_FAILURE):
        words[each] = max(words[each], more_words[each])
    for half in (0, 1):
        epoch, at = more_words[_EPOCHS + half], half * BUCKETS
        if epoch > words[_EPOCHS + half]:
            buckets[at : at + BUCKETS] = _NO_BUCKETS
            words[_EPOCHS + half] = epoch
        if epoch == words[_EPOCHS + half]:
            for bucket in range(at, at + BUCKETS):
                if more_buckets[bucket]:
                    buckets[bucket] += more_buckets[bucket]


def merged_buckets(rows: Sequence[tuple[Sequence[float], Sequence[float]]], now: float) -> list[float]:
    """The durations of the present epoch and the one before, of several rows of words and buckets."""
    merged: list[float] = [0] * BUCKETS
    epoch = now // _EPOCH
    for words, buckets in rows:
        for half in (0, 1):
            its = words[_EPOCHS + half]
            if its in (epoch, epoch - 1) and int(its) & 1 == half:
                at = half * BUCKETS
                merged = [sum(pair) for pair in zip(merged, buckets[at : at + BUCKETS], strict=True)]
    return merged


class Worker(NamedTuple):
    """A process that has called a service.

    Attributes:
        pid: Its number.
        since: When it began to count, in UTC.
        requests: Calls that are over.
        in_flight: Calls that are not.
    """

    pid: int
    since: datetime
    requests: int
    in_flight: int


class Host(NamedTuple):
    """What all processes of a host have counted of one service.

    Attributes:
        words: The sums, by :class:`Word`; of those that are no sums the latest or largest.
        buckets: Durations of the last five to ten minutes.
        workers: Those that live.
        last_error: The last sentence that a call failed with.
        last_success: When that was, in UTC.
        last_failure: The same.
    """

    words: Sequence[float]
    buckets: Sequence[float]
    workers: Sequence[Worker]
    last_error: str | None
    last_success: datetime | None
    last_failure: datetime | None


class HostCounts(Protocol):
    """A store that adds up the counts of several processes."""

    def share_counts(self, name: str, counters: CallCounters) -> None:
        """Have a client's counts be part of those of its service."""
        ...

    def host(self, name: str) -> Host | None:
        """What all have counted; None while that cannot be known."""
        ...


class CallCounters:
    """Counts the calls of one client. May be used from any thread; a forked child begins at zero.

    It needs no lock: CPython does not let another thread go first between assignments with no call among
    them (see :mod:`service_utils.policies.local_breaker`), so that each method counts all it has to at one
    stroke.

    Args:
        name: The service's.
        store: Where all processes of a host count; None counts for this one alone.
    """

    __slots__ = ("__weakref__", "_durations", "_name", "_store", "counts", "last_error")

    def __init__(self, name: str = "", store: HostCounts | None = None) -> None:
        self._name = name
        self._store = store
        self._renew_in_child()
        guard(self)
        if store is not None:
            store.share_counts(name, self)

    def _renew_in_child(self) -> None:
        self.counts = Counts(timed=self._store is not None)
        self.last_error: tuple[float, str] | None = None
        self._durations: deque[float] = deque(maxlen=_WINDOW)

    def began(self) -> None:
        """Count a call that begins."""
        self.counts.words[_BEGUN] += 1

    def dropped(self) -> None:
        """Take back that a call has begun: it was none."""
        self.counts.words[_DROPPED] += 1

    def succeeded(self, duration: float, now: float) -> None:
        """Count a call whose first attempt was a success, as most are.

        Args:
            duration: Seconds of the attempt.
            now: Seconds on the monotonic clock.
        """
        if self._store is None:
            self._durations.append(duration)
        else:
            self.counts.took(duration, now)
        words = self.counts.words
        words[_TOTAL] += 1
        words[_SUCCEEDED] += 1
        words[_LAST_SUCCESS] = now

    def finished(self, outcome: Outcome, durations: Sequence[float], error: str | None, now: float) -> None:
        """Count a call that made attempts.

        Args:
            outcome: What the breaker saw of it.
            durations: Seconds of each attempt.
            error: The sentence it failed with, or None.
            now: Seconds on the monotonic clock.
        """
        if self._store is None:
            self._durations.extend(durations)
        else:
            for duration in durations:
                self.counts.took(duration, now)
        if error is not None:
            self.last_error = now, error
        retries = len(durations) - 1
        words = self.counts.words
        words[_TOTAL] += 1
        words[_RETRIED] += retries
        if outcome is _SUCCESS:
            words[_SUCCEEDED] += 1
            words[_LAST_SUCCESS] = now
        elif outcome is _FAILURE:
            words[_FAILED] += 1
            words[_LAST_FAILURE] = now

    def rejected(self) -> None:
        """Count a call that was refused on our side before its first attempt."""
        words = self.counts.words
        words[_TOTAL] += 1
        words[_REJECTED] += 1

    def refused(self) -> None:
        """Count a call that was refused as soon as it began."""
        words = self.counts.words
        words[_BEGUN] += 1
        words[_TOTAL] += 1
        words[_REJECTED] += 1

    def snapshot(self) -> dict[str, Any]:
        """``requests``, ``latency_ms`` and ``last_error`` of the status; of a host some more."""
        host = None if self._store is None else self._store.host(self._name)
        if host is not None:
            return _shown(host)
        words, last = list(self.counts.words), self.last_error
        if self._store is None:
            durations = sorted(self._durations.copy())
            latency = {f"p{share}": percentile(durations, share) for share in _SHARES}
        else:
            last_end = max(words[_LAST_SUCCESS], words[_LAST_FAILURE])
            buckets = merged_buckets([(words, list(self.counts.buckets))], last_end)
            latency = {f"p{share}": _percentile_of(buckets, share) for share in _SHARES}
        return {
            "requests": _requests(words),
            "latency_ms": latency,
            "last_error": None if last is None else last[1],
        }


def _requests(words: Sequence[float]) -> dict[str, int]:
    return {
        "total": int(words[_TOTAL]),
        "succeeded": int(words[_SUCCEEDED]),
        "failed": int(words[_FAILED]),
        "rejected": int(words[_REJECTED]),
        "retried": int(words[_RETRIED]),
    }


def _shown(host: Host) -> dict[str, Any]:
    return {
        "requests": _requests(host.words),
        "latency_ms": {f"p{share}": _percentile_of(host.buckets, share) for share in _SHARES},
        "last_error": host.last_error,
        "failure_count": int(host.words[Word.FAILURES]),
        "last_success": None if host.last_success is None else host.last_success.isoformat(),
        "last_failure": None if host.last_failure is None else host.last_failure.isoformat(),
        "workers": [{**worker._asdict(), "since": worker.since.isoformat()} for worker in host.workers],
    }


def percentile(ordered: Sequence[float], share: int) -> float | None:
    """The nearest-rank percentile of sorted seconds, in milliseconds; None when there are none."""
    if not ordered:
        return None
    rank = max(math.ceil(len(ordered) * share / 100), 1)
    return round(ordered[rank - 1] * 1000, 3)


def _percentile_of(buckets: Sequence[float], share: int) -> float | None:
    """The same of a histogram: the middle of the bucket, at most 7 % off between 0.1 ms and 100 s."""
    rank: float = max(math.ceil(sum(buckets) * share / 100), 1)
    for bucket, count in enumerate(buckets):
        rank -= count
        if rank <= 0:
            seconds = _SHORTEST * 10 ** ((max(bucket, 0.5) - 0.5) / _PER_DECADE)
            return round(seconds * 1000, 3)
    return None
