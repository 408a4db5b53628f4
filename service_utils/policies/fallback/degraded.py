"""Which fallbacks had a hand in an answer, so that whoever sends it can say that it is a degraded one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["collect_degradations", "mark_degraded"]

# The lists themselves are shared by all copies of a context: what a thread started with propagate() marks
# counts too.
_collecting: ContextVar[tuple[list[str], ...]] = ContextVar("service_utils_degradations", default=())


@contextmanager
def collect_degradations() -> Iterator[list[str]]:
    """Collect the names of the strategies that step in while this is open.

    Yields:
        The list they are added to as they step in. One collector inside another fills both.
    """
    names: list[str] = []
    token = _collecting.set((*_collecting.get(), names))
    try:
        yield names
    finally:
        _collecting.reset(token)


def mark_degraded(strategy: str) -> None:
    """Note that a strategy other than the first choice answered. Without a collector this does nothing."""
    for names in _collecting.get():
        names.append(strategy)
