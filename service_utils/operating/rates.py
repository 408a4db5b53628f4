"""From counts at moments to rates: calls per second, the share of failures, and how both went lately."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from service_utils.operating.history import Sample

__all__ = ["Point", "Rates", "rates_of", "series_of"]

RECENT = 60.0
"""Seconds that "now" is."""
SPAN, STEP = 900.0, 15.0
"""Seconds of a series, and of one point of it."""

_SHORTEST = 5.0  # seconds that a rate is of at least: a burst within a moment is no rate


class Point(NamedTuple):
    """What happened in one step of time.

    Attributes:
        calls: Calls that ended.
        failed: Those that failed.
        rejected: Those that were refused on our side.
    """

    calls: int
    failed: int
    rejected: int


class Rates(NamedTuple):
    """How a service has been doing in the last minute.

    Attributes:
        per_second: Calls that reached it, per second; None when nothing is known yet.
        error_rate: Share of these that failed, from 0 to 1; None when there were none.
    """

    per_second: float | None
    error_rate: float | None


def rates_of(samples: Iterable[Sample], now: float) -> dict[str, Rates]:
    """The rates of the last minute by service."""
    found = {}
    for name, mine in _by_name(samples).items():
        recent = [each for each in mine if each.at >= now - RECENT]
        steps = [step for at, step in _steps(recent)]
        begun = min((each.at for each in recent), default=now)
        seconds = max((each.at for each in recent), default=now) - begun
        if seconds <= 0:
            found[name] = Rates(None, None)
            continue
        seconds = max(seconds, _SHORTEST)
        sent = sum(each.calls - each.rejected for each in steps)
        failed = sum(each.failed for each in steps)
        found[name] = Rates(round(sent / seconds, 2), round(failed / sent, 4) if sent else None)
    return found


def series_of(samples: Iterable[Sample], now: float) -> dict[str, list[Point]]:
    """What happened in each step of 15 seconds of the last 15 minutes, oldest first, by service."""
    count = int(SPAN / STEP)
    end = (now // STEP + 1) * STEP
    found = {}
    for name, mine in _by_name(samples).items():
        points = [Point(0, 0, 0)] * count
        for at, step in _steps(mine):
            index = count - 1 - int((end - at) / STEP)
            if 0 <= index < count:
                points[index] = Point(*map(sum, zip(points[index], step, strict=True)))
        found[name] = points
    return found


def _by_name(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for each in samples:
        found.setdefault(each.name, []).append(each)
    return found


def _steps(samples: Sequence[Sample]) -> list[tuple[float, Point]]:
    """What came between each two samples of the same member, with the moment of the later one."""
    before: dict[str, Sample] = {}
    steps = []
    for each in samples:
        earlier = before.get(each.member)
        before[each.member] = each
        if earlier is None:
            continue
        if each.total < earlier.total:  # it has begun anew
            earlier = Sample(
                at=earlier.at, name=each.name, member=each.member, total=0, failed=0, rejected=0, retried=0
            )
        step = Point(
            max(each.total - earlier.total, 0),
            max(each.failed - earlier.failed, 0),
            max(each.rejected - earlier.rejected, 0),
        )
        steps.append((each.at, step))
    return steps
