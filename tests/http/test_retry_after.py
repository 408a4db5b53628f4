"""Retry-After: seconds or one of three dates, and nothing else."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.http.retry_after import parse_retry_after

NOW = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("1", 1.0), ("120", 120.0), ("007", 7.0), (" 5\t", 5.0), ("86400", 86400.0)],
)
def test_seconds(text: str, seconds: float) -> None:
    """Whole seconds are taken as they are."""
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "  Sun, 06 Nov 1994 08:49:37 GMT ",
    ],
)
def test_three_forms_of_dates(text: str) -> None:
    """The three forms of the HTTP standard mean the same moment."""
    assert parse_retry_after(text, NOW) == 30.0


def test_two_digit_day_of_asctime() -> None:
    """In the oldest form the day is two characters wide."""
    assert parse_retry_after("Wed Nov 16 08:49:07 1994", NOW) == 10 * 86400.0


@pytest.mark.parametrize("text", ["Sun, 06 Nov 1994 08:49:06 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_date_gone_by(text: str) -> None:
    """A date in the past means now."""
    assert parse_retry_after(text, NOW) == 0.0


def test_leap_second() -> None:
    """The second 60 is as good as the one before it."""
    now = datetime(2016, 12, 31, 23, 59, 50, tzinfo=UTC)
    assert parse_retry_after("Sat, 31 Dec 2016 23:59:60 GMT", now) == 9.0


def test_own_time_zone_does_not_matter() -> None:
    """The present may be given in any zone."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", elsewhere) == 30.0


@pytest.mark.parametrize(
    ("now", "two_digits", "year"),
    [
        (2024, "24", 2024),
        (2024, "25", 2025),
        (2024, "74", 2074),
        (2024, "75", 1975),
        (2024, "94", 1994),
        (2060, "05", 2105),
    ],
)
def test_years_of_two_digits(now: int, two_digits: str, year: int) -> None:
    """A year of two digits is at most 50 years ahead."""
    present = datetime(now, 1, 1, tzinfo=UTC)
    expected = max((datetime(year, 6, 1, tzinfo=UTC) - present).total_seconds(), 0.0)
    assert parse_retry_after(f"Monday, 01-Jun-{two_digits} 00:00:00 GMT", present) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "5s",
        "5 6",
        "5,6",
        "0x10",
        "٣",
        "½",
        "inf",
        "nan",
        "soon",
        "1\n",
        "\x0b5",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 gmt",
        "sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "Sun,  06 Nov 1994 08:49:37 GMT",
        "Son, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Sun, 29 Feb 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sunday, 06 Nov 94 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 1994 GMT",
        "1994-11-06T08:49:37Z",
        "Sun, 06 Nov 1994 08:49:37 GMT, 5",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_strictness(text: str) -> None:
    """What is neither whole seconds nor one of the three forms is as good as no header."""
    assert parse_retry_after(text, NOW) is None


def test_absent() -> None:
    """Without the header nothing is asked."""
    assert parse_retry_after(None, NOW) is None


MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


@given(MOMENTS, MOMENTS)
def test_dates_as_others_write_them(moment: datetime, now: datetime) -> None:
    """A date written by the standard library is read as the moment that it is."""
    text = format_datetime(moment, usegmt=True)
    assert parse_retry_after(text, now) == max((moment - now).total_seconds(), 0.0)


@given(MOMENTS, MOMENTS)
def test_oldest_form_as_others_write_it(moment: datetime, now: datetime) -> None:
    """So is one in the form of C's asctime()."""
    assert parse_retry_after(moment.ctime(), now) == max((moment - now).total_seconds(), 0.0)


PIECES = ["Sun", "Sunday", ", ", " ", "-", "06", " 6", "Nov", "94", "1994", "08:49:37", ":", " GMT", "0", "٣"]
ALMOST = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(st.text() | ALMOST | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_nothing_makes_it_fail(text: str) -> None:
    """Whatever a server sends, the answer is a number of seconds or none."""
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
