"""What has happened lately: changes of state, and counts of calls at regular moments."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from service_utils.forks import guard

__all__ = ["Change", "ChangeKind", "History", "MemoryHistory", "Sample", "moment"]

KEPT_CHANGES = 2000
KEPT_SECONDS = 1200.0
"""Seconds for which samples are kept: a quarter of an hour for the page, and some more."""


class ChangeKind(StrEnum):
    """What has changed."""

    CIRCUIT = "circuit"
    DEGRADATION = "degradation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A circuit, or the level of degradation, has changed.

    Attributes:
        at: When, in seconds since 1970.
        kind: Which of both.
        name: Short name of the service; ``system`` for the level.
        service: The same for people.
        from_state: State or level before.
        to_state: The one after.
        reason: Why.
    """

    at: float
    kind: ChangeKind
    name: str
    service: str
    from_state: str
    to_state: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "at": moment(self.at),
            "kind": self.kind.value,
            "name": self.name,
            "service": self.service,
            "from": self.from_state,
            "to": self.to_state,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What has been counted of one service up to a moment.

    Attributes:
        at: When, in seconds since 1970.
        name: The service.
        member: Whose counts these are: those of one process, or ``host`` for the sum of all.
        total: Calls that are over.
        failed: Those that failed.
        rejected: Those that were refused on our side.
        retried: Attempts beyond the first of their call.
    """

    at: float
    name: str
    member: str
    total: int
    failed: int
    rejected: int
    retried: int


class History(Protocol):
    """Where both are kept."""

    def add(self, changes: Sequence[Change], samples: Sequence[Sample]) -> None:
        """Keep some more, and forget what is too old."""
        ...

    def changes(self, limit: int, since: float = 0.0) -> list[Change]:
        """The last changes, latest first."""
        ...

    def samples(self, since: float) -> list[Sample]:
        """All samples since a moment, oldest first."""
        ...


class MemoryHistory:
    """Keeps them in memory, for this process. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changes: deque[Change] = deque(maxlen=KEPT_CHANGES)
        self._samples: deque[Sample] = deque()
        guard(self)

    def add(self, changes: Sequence[Change], samples: Sequence[Sample]) -> None:
        """Keep some more, and forget what is too old."""
        with self._lock:
            self._changes.extend(changes)
            self._samples.extend(samples)
            latest = self._samples[-1].at if self._samples else 0.0
            while self._samples and self._samples[0].at < latest - KEPT_SECONDS:
                self._samples.popleft()

    def changes(self, limit: int, since: float = 0.0) -> list[Change]:
        """The last changes, latest first."""
        with self._lock:
            found = [each for each in self._changes if each.at >= since]
        return latest_first(found)[:limit]

    def samples(self, since: float) -> list[Sample]:
        """All samples since a moment, oldest first."""
        with self._lock:
            return [each for each in self._samples if each.at >= since]


def latest_first(changes: Iterable[Change]) -> list[Change]:
    """By time; of two at the same moment the one that was kept later goes first."""
    return sorted(changes, key=lambda each: each.at)[::-1]


def moment(at: float) -> str:
    """Seconds since 1970 as people and dashboards read them: ISO 8601 in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat()
