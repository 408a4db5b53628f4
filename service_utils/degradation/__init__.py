"""Degradation: how much of an application is away, as one of five levels.

Rules say which level follows from which open circuits and unhealthy checks; a monitor asks them, delays what
gets better so that the level does not flap, lets an operator override it, and tells of each change.
"""

from __future__ import annotations

from service_utils.degradation.conditions import (
    Condition,
    Snapshot,
    all_of,
    any_of,
    at_least,
    is_open,
    share_open,
    unhealthy,
    weight_of,
)
from service_utils.degradation.handler import get_degradation_handler, set_degradation_handler
from service_utils.degradation.history import Cause, LevelChange, Override
from service_utils.degradation.level import DegradationLevel
from service_utils.degradation.monitor import DegradationMonitor
from service_utils.degradation.rules import Assessment, DegradationRules, Rule, rules_by_share
from service_utils.degradation.sources import Circuits, HealthSource

__all__ = [
    "Assessment",
    "Cause",
    "Circuits",
    "Condition",
    "DegradationLevel",
    "DegradationMonitor",
    "DegradationRules",
    "HealthSource",
    "LevelChange",
    "Override",
    "Rule",
    "Snapshot",
    "all_of",
    "any_of",
    "at_least",
    "get_degradation_handler",
    "is_open",
    "rules_by_share",
    "set_degradation_handler",
    "share_open",
    "unhealthy",
    "weight_of",
]
