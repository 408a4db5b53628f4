"""Rules: which level follows from which circuits are open and which checks unhealthy."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from service_utils.degradation.conditions import (
    Condition,
    Named,
    Part,
    Snapshot,
    condition_of,
    share_open,
    weight_of,
    words_of,
)
from service_utils.degradation.level import DegradationLevel

__all__ = ["Assessment", "DegradationRules", "Rule", "rules_by_share"]

_logger = logging.getLogger("service_utils")


@dataclass(frozen=True, slots=True)
class Assessment:
    """What rules come to.

    Attributes:
        level: The highest level of those that hold; NORMAL where none does.
        reasons: Why, for all that hold, that of the highest first; no sentence twice.
    """

    level: DegradationLevel = DegradationLevel.NORMAL
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A level, and when it is reached.

    Attributes:
        level: The level, or its name.
        when: A condition, or the name of a service whose circuit must be open.
        reason: Why, in words for log lines and dashboards; those of the condition when left out.

    Raises:
        ValueError: ``level`` is NORMAL or none at all, or ``reason`` is empty.
        TypeError: ``when`` is neither a condition nor a name.
    """

    level: DegradationLevel
    when: Condition
    reason: str | None = None

    def __init__(self, level: DegradationLevel | str, when: Part, reason: str | None = None) -> None:
        parsed = DegradationLevel.parse(level)
        if parsed is DegradationLevel.NORMAL:
            raise ValueError(f"level={level!r}: is what holds without any rule")
        if reason is not None and (not isinstance(reason, str) or not reason.strip()):
            raise ValueError(f"reason={reason!r}: must be words, or None for those of the condition")
        object.__setattr__(self, "level", parsed)
        object.__setattr__(self, "when", condition_of(when))
        object.__setattr__(self, "reason", None if reason is None else " ".join(reason.split()))

    def says(self, snapshot: Snapshot) -> str | None:
        """Why it holds, or None when it does not."""
        if not self.when(snapshot):
            return None
        return self.reason if self.reason is not None else words_of(self.when, snapshot)


class DegradationRules:
    """Rules that are asked together.

    A condition of yours that raises holds nothing up: it is logged, and its rule counts as one that does not
    hold.

    Args:
        *rules: Rules.
        critical: What makes the level CRITICAL, each by itself: names of services whose circuits are open,
            or conditions such as ``all_of("exa", "tavily")``.
        severe: The same for SEVERE.
        moderate: The same for MODERATE.
        minor: The same for MINOR.
        weights: How heavy each service is.
        thresholds: The level that is reached when open circuits weigh so much together, by the level or its
            name; belongs to ``weights``.

    Raises:
        ValueError: A level, name or weight is impossible; thresholds fall where levels rise; ``weights`` and
            ``thresholds`` are not given together; or there is no rule at all.
        TypeError: Something is of the wrong type.
    """

    __slots__ = ("checks", "rules", "services")

    rules: tuple[Rule, ...]
    services: frozenset[str]
    """The services that the rules name."""
    checks: frozenset[str]
    """The health checks that the rules name."""

    def __init__(
        self,
        *rules: Rule,
        critical: Iterable[Part] = (),
        severe: Iterable[Part] = (),
        moderate: Iterable[Part] = (),
        minor: Iterable[Part] = (),
        weights: Mapping[str, float] | None = None,
        thresholds: Mapping[Any, float] | None = None,
    ) -> None:
        for rule in rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"{rule!r}: must be a Rule")
        by_level = {"critical": critical, "severe": severe, "moderate": moderate, "minor": minor}
        given = (
            *rules,
            *(Rule(level, part) for level, parts in by_level.items() for part in _parts(level, parts)),
            *_weighed(weights, thresholds),
        )
        if not given:
            raise ValueError("rules=(): there must be one at least")
        self.rules = tuple(sorted(given, key=lambda rule: -rule.level))
        conditions = [rule.when for rule in given if isinstance(rule.when, Named)]
        self.services = frozenset().union(*(each.services() for each in conditions))
        self.checks = frozenset().union(*(each.checks() for each in conditions))

    def assess(self, snapshot: Snapshot) -> Assessment:
        """The level that follows from a snapshot, and why."""
        holding: dict[str, DegradationLevel] = {}
        for rule in self.rules:  # worst first
            reason = _said_by(rule, snapshot)
            if reason is not None:
                holding.setdefault(reason, rule.level)
        level = max(holding.values(), default=DegradationLevel.NORMAL)
        return Assessment(level, tuple(holding))

    def __repr__(self) -> str:
        return f"DegradationRules({', '.join(map(repr, self.rules))})"


def rules_by_share(
    *, minor: float = 0.0, moderate: float = 0.25, severe: float = 0.5, critical: float = 1.0
) -> DegradationRules:
    """Rules that need no names: each level is reached when such a share of all circuits is open.

    For a start, where nobody has yet said which service matters how much. The shares are a matter of taste.

    Args:
        minor: 0.0 is one circuit of however many.
        moderate: A share from 0 to 1.
        severe: A share from 0 to 1.
        critical: A share from 0 to 1; 1.0 is all of them.

    Raises:
        ValueError: A share is not in [0, 1].
    """
    shares = {"minor": minor, "moderate": moderate, "severe": severe, "critical": critical}
    return DegradationRules(*(Rule(level, share_open(share)) for level, share in shares.items()))


def _said_by(rule: Rule, snapshot: Snapshot) -> str | None:
    try:
        return rule.says(snapshot)
    except Exception:
        _logger.exception("A degradation rule for %s failed; it counts as not holding", rule.level.label)
        return None


def _parts(level: str, parts: Iterable[Part]) -> tuple[Part, ...]:
    if isinstance(parts, str) or not isinstance(parts, Iterable):
        raise TypeError(f"{level}={parts!r}: must be a list of names and conditions")
    return tuple(parts)


def _weighed(weights: Mapping[str, float] | None, thresholds: Mapping[Any, float] | None) -> Iterable[Rule]:
    if weights is None and thresholds is None:
        return []
    if not weights or not thresholds:
        raise ValueError(f"weights={weights!r}, thresholds={thresholds!r}: must be given together")
    limits = sorted((DegradationLevel.parse(level), least) for level, least in thresholds.items())
    rules = [Rule(level, weight_of(weights, least)) for level, least in limits]
    numbers = [least for _, least in limits]
    if numbers != sorted(numbers):
        raise ValueError(f"thresholds={thresholds!r}: a worse level must not need less")
    return rules
