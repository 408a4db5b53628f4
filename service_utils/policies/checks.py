"""Checks of arguments: each names argument and value, so that a bad setting is found where it was made."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

__all__ = ["require_count", "require_fraction", "require_seconds"]


def require_count(name: str, value: Any, *, least: int = 1) -> None:
    """Require an integer, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: must be an integer")
    if value < least:
        raise ValueError(f"{name}={value!r}: must be at least {least}")


def require_seconds(name: str, value: Any, *, zero: bool = True) -> None:
    """Require a finite number of seconds, not negative, and not zero either unless ``zero`` allows it."""
    _require_number(name, value)
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}={value!r}: must be a finite number of seconds {'>= 0' if zero else '> 0'}")


def require_fraction(name: str, value: Any, *, zero: bool = True) -> None:
    """Require a number in [0, 1], or in (0, 1] unless ``zero`` allows it."""
    _require_number(name, value)
    if not 0 <= value <= 1 or (value == 0 and not zero):
        raise ValueError(f"{name}={value!r}: must be a number in {'[0, 1]' if zero else '(0, 1]'}")


def _require_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: must be a number")
