"""Records of idempotency keys: the question, the answer, and what beginning with a key can come to."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = [
    "KEEP_SECONDS",
    "MAX_ANSWER",
    "Answer",
    "Began",
    "Mismatch",
    "Question",
    "Replay",
    "Running",
    "Started",
    "Unknown",
    "UnknownRecord",
    "is_kept",
    "new_token",
]

KEEP_SECONDS = 30 * 86_400.0
"""How long answers are kept; dead letters are delivered for 7 days."""

MAX_ANSWER = 2**20
"""Bytes of the longest body that is kept."""

_PASSING = frozenset({408, 409, 425, 429})  # they tell of the moment, not of what was asked


def is_kept(status: int) -> bool:
    """Whether an answer is given again: below 500, other than 408, 409, 425 and 429.

    The others say that nothing was done and that it may be tried again; so the key is free afterwards.
    """
    return status < 500 and status not in _PASSING


def new_token() -> int:
    """The name of one execution: 62 random bits, so that no two executions anywhere have the same."""
    return secrets.randbits(62)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked under a key.

    Attributes:
        record_id: The record's name, by :func:`~service_utils.idempotency.keys.record_id`.
        fingerprint: Of what is asked, by :func:`~service_utils.idempotency.keys.fingerprint_of`.
        caller: Who asks. For people; part of ``record_id``.
        method: The HTTP method. For people, likewise.
        path: The path without the query string. For people, likewise.
        token: The name of the execution, should this be the first one. It fences: once another execution has
            the key, nothing said with this token counts.
    """

    record_id: str
    fingerprint: bytes = field(repr=False)
    caller: str = ""
    method: str = ""
    path: str = ""
    token: int = field(default_factory=new_token)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it is kept.

    Attributes:
        status: The HTTP status.
        headers: Those that are given again, in their order.
        body: The whole body; None when it was too long to be kept.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Started:
    """The key is new: go on, then ``finish`` or ``forget``, and ``leave`` in any case."""


@dataclass(frozen=True, slots=True)
class Replay:
    """It was answered already."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody is at it at this moment."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Somebody was at it and never said what came of it.

    Attributes:
        token: The execution that was broken off.
        since: When it began, in seconds since the epoch.
    """

    token: int
    since: float


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something else was asked under this key."""


Began: TypeAlias = Started | Replay | Running | Unknown | Mismatch


@dataclass(frozen=True, slots=True)
class UnknownRecord:
    """A broken-off execution that an operator has to look into.

    Attributes:
        record_id: Its name, for ``settle``.
        token: The execution, for ``settle``.
        caller: Who asked.
        method: The HTTP method.
        path: The path without the query string.
        since: When it began, in seconds since the epoch.
    """

    record_id: str
    token: int
    caller: str
    method: str
    path: str
    since: float
