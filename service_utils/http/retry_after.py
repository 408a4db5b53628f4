"""``Retry-After``: how long a service asks to be left alone (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["parse_retry_after"]

_SECONDS = re.compile(r"[0-9]+")
_LONGEST = 1e18  # more is cut down to this, lest it become infinite: no JSON has a number for that
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_DAY, _LONG_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH, _TIME = "(?P<month>[A-Z][a-z]{2})", r"(?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2})"
# The three forms of RFC 9110, section 5.6.7: IMF-fixdate, RFC 850 and asctime.
_DATES = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"{_DAY}, (?P<day>\d{{2}}) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"{_LONG_DAY}, (?P<day>\d{{2}})-{_MONTH}-(?P<year>\d{{2}}) {_TIME} GMT",
        rf"{_DAY} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds from ``now`` that the header asks for, or None when it is absent or not well formed.

    Args:
        value: The header: non-negative whole seconds, or one of the three HTTP date forms.
        now: The time of day, aware. A date gone by gives 0.0.
    """
    if value is None:
        return None
    text = value.strip(" \t")
    if _SECONDS.fullmatch(text):
        return min(float(text), _LONGEST)
    for form in _DATES:
        if match := form.fullmatch(text):
            moment = _moment(match.groupdict(), now)
            return None if moment is None else max((moment - now).total_seconds(), 0.0)
    return None


def _moment(parts: dict[str, str], now: datetime) -> datetime | None:
    month = _MONTHS.get(parts["month"])
    if month is None:
        return None
    year = int(parts["year"])
    if len(parts["year"]) == 2:
        # RFC 9110: one that would be more than 50 years ahead is the most recent with these digits.
        year = now.year - (now.year - year) % 100
        if year + 100 <= now.year + 50:
            year += 100
    second = int(parts["second"])
    if second == 60:
        second = 59  # a leap second is as good as the one before it
    try:
        return datetime(
            year, month, int(parts["day"]), int(parts["hour"]), int(parts["minute"]), second, tzinfo=UTC
        )
    except ValueError:
        return None
