"""What somebody on call has to see first: which service is sick, since when, and what it costs users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from service_utils.clock import Clock
from service_utils.events import CircuitState
from service_utils.operating.history import History
from service_utils.operating.rates import SPAN, STEP, Point, Rates, rates_of, series_of

__all__ = ["is_sick", "overview_of"]

_SICK = frozenset({CircuitState.OPEN, CircuitState.FORCED_OPEN, CircuitState.HALF_OPEN})
_ORDER = [
    CircuitState.OPEN.value,
    CircuitState.FORCED_OPEN.value,
    CircuitState.HALF_OPEN.value,
    CircuitState.DISABLED.value,
    CircuitState.CLOSED.value,
]
_SHOWN_CHANGES = 50


def is_sick(status: Mapping[str, Any]) -> bool:
    """Whether a service, by its status, is not used as usual: open, forced open, half open, or unknown."""
    return status.get("state", CircuitState.OPEN) in _SICK


def overview_of(
    services: Mapping[str, Mapping[str, Any]],
    history: History,
    clock: Clock,
    *,
    level: Mapping[str, Any] | None = None,
    letters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The overview. JSON-ready; times are ISO 8601 in UTC.

    Args:
        services: The status of each.
        history: What has happened lately.
        clock: Where the time comes from.
        level: The status of the degradation, or None.
        letters: The numbers of dead letters, or None.

    Returns:
        ``now``, ``sick`` (names), ``services`` (cards, sick ones first, in the order given otherwise),
        ``changes`` (latest first), ``level`` and ``letters`` (None where there are none).
    """
    today = clock.now()
    now = today.timestamp()
    samples = history.samples(now - SPAN - STEP)
    rates, series = rates_of(samples, now), series_of(samples, now)
    cards = []
    for name, status in services.items():
        card = {
            **status,
            **_rates(rates.get(name)),
            **_lately(series.get(name, [])),
            "next_probe_at": None,
        }
        card["in_flight"] = _in_flight(status)
        left = status.get("next_probe_in", status.get("cooldown_remaining"))
        if left and status.get("state") == CircuitState.OPEN:
            # To the second: two looks at the same moment to come shall find the same.
            card["next_probe_at"] = (today + timedelta(seconds=left + 0.5)).replace(microsecond=0).isoformat()
        cards.append(card)
    cards.sort(key=lambda card: _rank(card.get("state")))
    return {
        "now": today.isoformat(),
        "sick": [card["name"] for card in cards if is_sick(card)],
        "services": cards,
        "changes": [each.as_dict() for each in history.changes(_SHOWN_CHANGES)],
        "level": None if level is None else dict(level),
        "letters": None if letters is None else dict(letters),
    }


def _rank(state: Any) -> int:
    return _ORDER.index(state) if state in _ORDER else 0


def _rates(rates: Rates | None) -> dict[str, Any]:
    known = rates or Rates(None, None)
    return {"per_second": known.per_second, "error_rate": known.error_rate}


def _lately(points: Sequence[Point]) -> dict[str, Any]:
    """The last quarter of an hour; ``lost`` is what users felt: calls that failed or were refused."""
    return {
        "series": [list(each) for each in points],
        "lost": sum(each.failed + each.rejected for each in points),
    }


def _in_flight(status: Mapping[str, Any]) -> dict[str, Any] | None:
    """How many calls are under way, in all processes if that is known, and how many may be."""
    workers, bulkhead = status.get("workers"), status.get("bulkhead")
    if workers is not None:
        limit = None if bulkhead is None else bulkhead["max_concurrent"] * max(len(workers), 1)
        return {"now": sum(each["in_flight"] for each in workers), "limit": limit}
    if bulkhead is not None:
        return {"now": bulkhead["in_flight"], "limit": bulkhead["max_concurrent"]}
    return None
