"""The five levels."""

from __future__ import annotations

import pytest

from service_utils.degradation import DegradationLevel


def test_levels_are_numbers_from_normal_to_critical() -> None:
    """A worse level is a greater number, as dashboards show it."""
    assert [(level.name, int(level)) for level in DegradationLevel] == [
        ("NORMAL", 0),
        ("MINOR", 1),
        ("MODERATE", 2),
        ("SEVERE", 3),
        ("CRITICAL", 4),
    ]


@pytest.mark.parametrize("said", ["moderate", "MODERATE", " Moderate ", "2", 2, DegradationLevel.MODERATE])
def test_a_level_is_found_by_name_or_number(said: str | int) -> None:
    """An operator may write a level as he likes."""
    assert DegradationLevel.parse(said) is DegradationLevel.MODERATE


@pytest.mark.parametrize("said", ["bad", "", "5", "-1", 5, -1])
def test_a_level_that_there_is_not(said: str | int) -> None:
    """Whoever mistypes a level is told which ones there are."""
    with pytest.raises(ValueError, match=f"level={said!r}: .*normal, minor, moderate, severe, critical"):
        DegradationLevel.parse(said)


@pytest.mark.parametrize("said", [None, True, 2.0, [2]])
def test_a_level_that_is_neither_name_nor_number(said: object) -> None:
    """A value of another type is a mistake of whoever wrote the code."""
    with pytest.raises(TypeError, match="level="):
        DegradationLevel.parse(said)  # type: ignore[arg-type]


def test_a_level_has_the_label_of_log_lines() -> None:
    """Log lines and JSON say levels in small letters."""
    assert DegradationLevel.SEVERE.label == "severe"
