"""What is asked of a cache, and within which bounds it keeps answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from service_utils.policies.fallback.lasting import LastingKey

__all__ = ["Limits", "Question", "no_key"]


def _any_time() -> None:
    """The patience of a caller who has no deadline."""


def no_key(secret: bytes) -> None:
    """The lasting key of a question that no other process could know again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the answers that are kept.

    Attributes:
        ttl: Seconds one is fresh.
        max_age: Seconds until it is of no use at all.
        max_entries: How many are kept.
        max_bytes: How many bytes all of them take.
    """

    ttl: float
    max_age: float
    max_entries: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Question:
    """What one caller asks.

    Attributes:
        key: The same for two questions only if they have the same answer.
        func: Makes the call that answers it.
        copy: Makes a copy of an answer.
        limits: What else must be the same for one caller to wait for the other's call.
        patience: Tells the seconds he may wait; None for any time.
        lasting: Makes the key by which a store keeps the answer.
    """

    key: Hashable
    func: Callable[[], Any]
    copy: Callable[[Any], Any]
    limits: Hashable = None
    patience: Callable[[], float | None] = _any_time
    lasting: LastingKey = no_key
