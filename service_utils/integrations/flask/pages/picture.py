"""From the overview to what the templates draw: words, shapes and points."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from service_utils.events import CircuitState
from service_utils.operating.overview import is_sick

__all__ = ["picture_of"]

_NO_ID = re.compile(r"[^A-Za-z0-9_-]+")
_WIDTH, _HEIGHT = 240, 36  # of a sparkline, in its own units

# State: its word, what it means to who is on call, and the name of its shape.
_STATES: dict[str, tuple[str, str, str]] = {
    CircuitState.CLOSED.value: ("Closed", "working", "disc"),
    CircuitState.OPEN.value: ("Open", "calls are refused", "square"),
    CircuitState.HALF_OPEN.value: ("Half open", "being tried", "half"),
    CircuitState.FORCED_OPEN.value: ("Forced open", "calls are refused, by hand", "triangle"),
    CircuitState.DISABLED.value: ("Disabled", "all calls go through, by hand", "ring"),
}
_UNKNOWN = ("Unknown", "its status cannot be told", "triangle")


def picture_of(overview: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """What templates need of an overview. Two overviews that look the same give the same picture.

    So there are no seconds left and no ages in it, only moments; the page counts.
    """
    cards = [_card(each) for each in overview["services"]]
    return {
        "cards": cards,
        "sick": [each for each in cards if each["sick"]],
        "changes": [_change(each) for each in overview["changes"]],
        "level": _level(overview["level"], now),
        "letters": _letters(overview["letters"], now),
    }


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    word, meaning, shape = _STATES.get(str(card.get("state")), _UNKNOWN)
    return {
        **card,
        "id": _id_of(str(card["name"])),
        "word": word,
        "meaning": meaning,
        "shape": shape,
        "sick": is_sick(card),
        "key": str(card.get("state", "unknown")).lower().replace("_", "-"),
        "spark": _spark(card["series"]),
        "requests": card.get("requests") or {},
        "latency_ms": card.get("latency_ms") or {},
    }


def _id_of(name: str) -> str:
    """The name as part of an id of the page, which knows letters, digits, - and _ only."""
    plain = _NO_ID.sub("-", name)
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode('utf-8', 'surrogatepass')):x}"


def _spark(series: Sequence[Sequence[int]]) -> dict[str, Any] | None:
    """A line of calls, and bars of what failed or was refused; None without any call."""
    calls = sum(each[0] for each in series)
    if not calls:
        return None
    highest = max(each[0] for each in series)
    step = _WIDTH / len(series)
    points, bars = [], []
    for index, (total, failed, rejected) in enumerate(series):
        height = total / highest * (_HEIGHT - 2)
        points.append(f"{index * step + step / 2:.1f},{_HEIGHT - 1 - height:.1f}")
        bad = (failed + rejected) / highest * (_HEIGHT - 2)
        if bad:
            bars.append((f"{index * step:.1f}", f"{_HEIGHT - 1 - bad:.1f}", f"{bad:.1f}"))
    lost = sum(each[1] + each[2] for each in series)
    return {
        "points": " ".join(points),
        "bars": bars,
        "bar_width": f"{max(step - 0.5, 0.5):.1f}",
        "width": _WIDTH,
        "height": _HEIGHT,
        "words": f"Last 15 minutes: {calls} calls, {lost} of them failed or refused",
    }


def _change(change: Mapping[str, Any]) -> dict[str, Any]:
    before, after = (_word(str(change[each])) for each in ("from", "to"))
    return {**change, "before": before, "after": after, "key": str(change["to"]).lower().replace("_", "-")}


def _word(state: str) -> str:
    return state.replace("_", " ").lower()


def _level(level: Mapping[str, Any] | None, now: datetime) -> dict[str, Any] | None:
    if level is None:
        return None
    override = level.get("override")
    ends = None
    if override is not None and override.get("expires_in") is not None:
        ends = _to_the_second(now + timedelta(seconds=override["expires_in"]))
    return {
        "level": level["level"],
        "reasons": level["reasons"],
        "since": level["since"],
        "override": None if override is None else {**override, "ends": ends},
    }


def _letters(letters: Mapping[str, Any] | None, now: datetime) -> dict[str, Any] | None:
    if letters is None:
        return None
    age = letters.get("oldest_age_seconds")
    oldest = None if age is None else _to_the_second(now - timedelta(seconds=age))
    return {**letters, "oldest_at": oldest, "bytes": None, "oldest_age_seconds": None}


def _to_the_second(at: datetime) -> str:
    return (at + timedelta(seconds=0.5)).replace(microsecond=0).isoformat()
