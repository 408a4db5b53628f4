"""Very long numbers, seconds past 60 and years at the end of a century in Retry-After were read wrongly."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from service_utils.http.retry_after import parse_retry_after

NOW = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["9" * 19, "1" + "0" * 400, "9" * 5000])
def test_more_seconds_than_anybody_waits(text: str) -> None:
    """A number of any length is a number: the service asks for a very long rest, not for none."""
    assert parse_retry_after(text, NOW) == 1e18


def test_leading_zeros() -> None:
    """Zeros in front change nothing, however many."""
    assert parse_retry_after("0" * 20 + "5", NOW) == 5.0


@pytest.mark.parametrize("second", [61, 75, 99])
def test_second_that_is_none(second: int) -> None:
    """There is a leap second, but no second after it."""
    assert parse_retry_after(f"Mon, 01 Jan 2024 00:00:{second} GMT", NOW) is None


def test_two_digit_year_at_the_end_of_a_century() -> None:
    """Near the end of a century a small year is one of the next."""
    now = datetime(2099, 12, 31, 23, 59, 50, tzinfo=UTC)
    assert parse_retry_after("Friday, 01-Jan-00 00:00:00 GMT", now) == 10.0
