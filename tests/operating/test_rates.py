"""Rates and series out of samples."""

from __future__ import annotations

from service_utils.operating import Sample
from service_utils.operating.rates import Point, rates_of, series_of

NOW = 1_000_000.0


def sample(ago: float, total: int, failed: int = 0, rejected: int = 0, member: str = "host") -> Sample:
    """A sample so many seconds ago."""
    return Sample(
        at=NOW - ago,
        name="chroma",
        member=member,
        total=total,
        failed=failed,
        rejected=rejected,
        retried=0,
    )


def test_rates_are_of_the_last_minute() -> None:
    """What was before counts no more; rejected calls never reached the service."""
    samples = [sample(600, 0), sample(60, 1000), sample(30, 1060, 10), sample(0, 1140, 20, 20)]
    rates = rates_of(samples, NOW)["chroma"]
    assert rates.per_second == 2.0
    assert rates.error_rate == round(20 / 120, 4)


def test_one_sample_is_no_rate() -> None:
    """Nothing is known yet."""
    assert rates_of([sample(1, 100)], NOW)["chroma"] == (None, None)


def test_silence_has_a_rate_but_no_share_of_errors() -> None:
    """No calls are 0 per second, and nobody can say how many of none failed."""
    assert rates_of([sample(30, 5), sample(0, 5)], NOW)["chroma"] == (0.0, None)


def test_a_burst_between_two_samples_is_no_enormous_rate() -> None:
    """Three calls within a hundredth of a second are not three hundred per second."""
    assert rates_of([sample(0.01, 0), sample(0, 3)], NOW)["chroma"].per_second == 0.6


def test_a_process_that_began_anew_counts_from_zero() -> None:
    """Its counts fall; calls are not taken back for that."""
    rates = rates_of([sample(30, 500), sample(20, 3), sample(0, 63)], NOW)["chroma"]
    assert rates.per_second == 2.1


def test_members_add_up() -> None:
    """Each process's counts are compared with its own before."""
    samples = [
        sample(10, 100, member="1"),
        sample(10, 5, member="2"),
        sample(0, 110, member="1"),
        sample(0, 15, member="2"),
    ]
    assert rates_of(samples, NOW)["chroma"].per_second == 2.0


def test_a_series_has_sixty_points_of_fifteen_seconds() -> None:
    """The last one is of now, the first of fifteen minutes ago; older ones are gone."""
    samples = [sample(950, 0), sample(940, 7), sample(100, 17, 1), sample(1, 20, 2, 1)]
    series = series_of(samples, NOW)["chroma"]
    assert len(series) == 60
    assert series[-1] == Point(3, 1, 1)
    assert sum(each.calls for each in series) == 13
