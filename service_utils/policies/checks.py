"""Checks of arguments: each names argument and value, so that a bad setting is found where it was made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from service_utils.clock import SYSTEM, Clock
from service_utils.events import Listener

__all__ = [
    "checked_clock",
    "checked_label",
    "checked_listeners",
    "require_blocking",
    "require_count",
    "require_fraction",
    "require_number",
    "require_seconds",
]


def checked_clock(clock: Clock | None) -> Clock:
    """The clock given, or the machine's. Requires the methods of :class:`~service_utils.clock.Clock`."""
    if clock is None:
        return SYSTEM
    if not isinstance(clock, Clock):
        raise TypeError(f"clock={clock!r}: must have monotonic(), now(), sleep() and async_sleep()")
    return clock


def checked_label(name: Any, label: Any) -> tuple[str, str]:
    """Short name and display name. Requires strings that are not empty; the second may be left out."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name!r}: must be a non-empty string")
    if label is None:
        return name, name
    if not isinstance(label, str) or not label:
        raise ValueError(f"label={label!r}: must be a non-empty string")
    return name, label


def checked_listeners(listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """The listeners as a tuple. Requires that each can be called."""
    if not isinstance(listeners, Iterable):
        raise TypeError(f"listeners={listeners!r}: must be listeners in a tuple or list")
    given = tuple(listeners)
    for listener in given:
        if not callable(listener):
            raise TypeError(f"listeners: {listener!r}: must be a callable that takes one event")
    return given


def require_blocking(func: Any, awaited: str) -> None:
    """Require a function that has done its work when it returns, so that one can wait before it begins.

    Args:
        func: The function.
        awaited: What its callers wait for, in words.
    """
    if not callable(func):
        raise TypeError(f"{func!r}: must be a function")
    if inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__):
        raise TypeError(f"{func!r}: is async, and waiting for {awaited} would block its event loop")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(f"{func!r}: a generator function runs nothing when it is called")


def require_count(name: str, value: Any, *, least: int = 1) -> None:
    """Require an integer, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: must be an integer")
    if value < least:
        raise ValueError(f"{name}={value!r}: must be at least {least}")


def require_seconds(name: str, value: Any, *, zero: bool = True) -> None:
    """Require a finite number of seconds, not negative, and not zero either unless ``zero`` allows it."""
    require_number(name, value)
    if not _is_finite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}={value!r}: must be a finite number of seconds {'>= 0' if zero else '> 0'}")


def require_fraction(name: str, value: Any, *, zero: bool = True) -> None:
    """Require a number in [0, 1], or in (0, 1] unless ``zero`` allows it."""
    require_number(name, value)
    if not 0 <= value <= 1 or (value == 0 and not zero):
        raise ValueError(f"{name}={value!r}: must be a number in {'[0, 1]' if zero else '(0, 1]'}")


def require_number(name: str, value: Any) -> None:
    """Require a number of any size and sign."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: must be a number")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
