"""The level of a whole host: one process finds out what the rules come to, and an override holds for all."""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from service_utils.clock import Clock
from service_utils.degradation.history import Override
from service_utils.degradation.level import DegradationLevel
from service_utils.degradation.rules import Assessment
from service_utils.policies.store import StoreUnavailable
from service_utils.sharing import HostNotes

__all__ = ["Findings", "SharedLevel"]

_logger = logging.getLogger("service_utils")

_OVERRIDE, _FINDINGS = "degradation override", "degradation findings"
_ROOM = 1800  # bytes of a note
_STALE = 3.0  # intervals after which findings say nothing any more, but not before so many seconds:
_STALE_AT_LEAST = 5.0
_SHORTEST = 40  # characters that a text is cut down to where all is too long


@dataclass(frozen=True, slots=True)
class Findings:
    """What the leader has found.

    Attributes:
        assessment: What the rules came to.
        health: The results of health checks, by name.
    """

    assessment: Assessment
    health: Mapping[str, str]


class _Word(NamedTuple):
    """What was decided about the override: when, by whom, and as it is posted. The latest holds."""

    at: float
    by: str
    value: bytes


class SharedLevel:
    """What the processes of a host tell each other of the level. For any number of threads.

    While the store is away each process goes by itself; what was decided meanwhile about the override is told
    when it is back, unless somebody has decided later.

    Args:
        notes: Where they tell it.
        clock: Whose seconds count; the same for all.
        told: A method to be called soon after another process has told something.
        interval: Seconds after which the leader tells again what it has found. When nothing has come for
            three times as long nobody leads who could find something.
    """

    def __init__(self, notes: HostNotes, clock: Clock, told: Callable[[], object], interval: float) -> None:
        self.leads = False
        self._notes = notes
        self._clock = clock
        self._interval = interval
        self._patience = max(_STALE * interval, _STALE_AT_LEAST)
        self._me = secrets.token_hex(8)
        self._cell = notes.watch(_OVERRIDE, told)
        self._seen: int | None = None
        self._last: _Word | None = None
        self._untold = False
        self._heard_at = clock.monotonic()
        notes.watch(_FINDINGS, told)

    def renew(self) -> None:
        """Begin in a forked child: another process, which does not lead. Its parent tells what it has not."""
        self.leads = False
        self._me = secrets.token_hex(8)
        self._seen = None
        self._untold = False

    # -- overrides: the caller takes care that only one thread at a time is here ----------------------

    @property
    def has_news(self) -> bool:
        """Whether :meth:`news` may have something to tell. Costs next to nothing."""
        return self._untold or self._cell.words[0] != self._seen

    def news(self) -> tuple[Override | None, str] | None:
        """What another process has decided about the override since the last time, and who has; or None.

        An override that is over by now has ended whatever was before it.
        """
        number = self._cell.words[0]
        try:
            found = _word(self._notes.posted(_OVERRIDE))
            if found is not None and (self._last is None or found[:2] > self._last[:2]):
                self._last, self._untold = found, False
            else:
                if self._untold or (found != self._last and self._last is not None):
                    self._post_last()
                found = None
        except StoreUnavailable:
            return None
        self._seen = number
        return None if found is None else self._parsed_news(found)

    def _parsed_news(self, word: _Word) -> tuple[Override | None, str] | None:
        told = _parsed(word.value)
        try:
            override = _override(told["override"])
        except (KeyError, TypeError, ValueError):
            return None
        expires_at = None if override is None else override.expires_at
        if expires_at is not None and expires_at <= self._clock.monotonic():
            override = None
        return override, str(told.get("author", ""))

    def tell(self, override: Override | None, author: str) -> None:
        """Have an override hold for all, or no more; now or when the store is back."""
        at = self._clock.monotonic()
        if self._last is not None:
            at = max(at, math.nextafter(self._last.at, math.inf))  # it comes after what is known
        told: dict[str, Any] = {"by": self._me, "at": at, "author": author, "override": None}
        if override is not None:
            told["override"] = {
                "level": int(override.level),
                "reason": override.reason,
                "author": override.author,
                "at": override.at.isoformat(),
                "expires_at": override.expires_at,
            }
        self._last, self._untold = _Word(at, self._me, _fitting(told)), True
        try:
            self._post_last()
        except StoreUnavailable as error:
            text = "The other processes cannot be told of the degradation level before the store is back: %s"
            _logger.warning(text, error)

    def _post_last(self) -> None:
        if self._last is not None:
            self._notes.post(_OVERRIDE, self._last.value)
        self._untold = False

    # -- findings -------------------------------------------------------------------------------------

    def publish(self, findings: Findings) -> None:
        """Have the others go by what this process has found."""
        assessment, now = findings.assessment, self._clock.monotonic()
        told = {
            "level": int(assessment.level),
            "reasons": list(assessment.reasons),
            "health": dict(findings.health),
            "at": now,
        }
        value = _fitting(told)
        with suppress(StoreUnavailable):  # that has been said
            known = _parsed(self._notes.posted(_FINDINGS) or b"")
            same = _parsed(value) | {"at": 0} == known | {"at": 0}
            if not same or now - _time(known) >= self._interval:
                self._notes.post(_FINDINGS, value)

    def retract(self) -> None:
        """Find out nothing any more: the others are to do so themselves."""
        with suppress(StoreUnavailable):
            self._notes.post(_FINDINGS, b"{}")

    def findings(self) -> Findings | None:
        """What the leader has found; None where that is for this process to do, or cannot be known."""
        if self.leads:
            return None
        now = self._clock.monotonic()
        try:
            told = _parsed(self._notes.posted(_FINDINGS) or b"")
            if now - _time(told) > self._patience:
                return None
            assessment = Assessment(DegradationLevel.parse(told["level"]), tuple(map(str, told["reasons"])))
            found = Findings(assessment, {str(name): str(word) for name, word in told["health"].items()})
        except (StoreUnavailable, KeyError, TypeError, ValueError, AttributeError):
            return None
        self._heard_at = now
        return found

    @property
    def follows(self) -> bool:
        """Whether another process finds out the level, or is expected to begin with that soon."""
        return not self.leads and self._clock.monotonic() - self._heard_at <= self._patience


def _word(value: bytes | None) -> _Word | None:
    told = _parsed(value or b"")
    try:
        return _Word(_time(told), str(told["by"]), value or b"")
    except (KeyError, TypeError):
        return None


def _time(told: Mapping[str, Any]) -> float:
    """When it was told; long ago where it does not say."""
    at = told.get("at")
    return float(at) if isinstance(at, int | float) and math.isfinite(at) else -math.inf


def _parsed(value: bytes) -> dict[str, Any]:
    try:
        told = json.loads(value)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _override(told: dict[str, Any] | None) -> Override | None:
    if told is None:
        return None
    expires_at = told["expires_at"]
    return Override(
        level=DegradationLevel.parse(told["level"]),
        reason=str(told["reason"]),
        author=str(told["author"]),
        at=datetime.fromisoformat(told["at"]),
        expires_at=None if expires_at is None else float(expires_at),
    )


def _fitting(told: Any) -> bytes:
    """As JSON that fits into a note: texts are cut, and lists and tables shortened, until it does."""
    longest = 200
    while True:
        text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
        value = text.encode("utf-8", "backslashreplace")
        if len(value) <= _ROOM:
            return value
        told = _cut(told, longest)
        longest = longest // 2


def _cut(told: Any, longest: int) -> Any:
    """Texts of so many characters, and half of each list, and of each long table of texts."""
    if isinstance(told, str):
        return told[: max(longest, _SHORTEST)]
    if isinstance(told, list):
        return [_cut(each, longest) for each in told[: max(len(told) // 2, 1)]]
    if isinstance(told, dict):
        kept = list(told.items())
        least = 8 if longest > 1 else 0
        if all(isinstance(value, str) for value in told.values()) and len(told) > least:
            kept = kept[: len(kept) // 2]
        return {name: _cut(value, longest) for name, value in kept}
    return told
