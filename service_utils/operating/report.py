"""The reliability report: how the services have been doing, for the weekly look and the morning after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service_utils.clock import Clock
from service_utils.events import CircuitState
from service_utils.operating.history import Change, ChangeKind, History, moment

__all__ = ["report_of"]

PERIOD = 86400.0
"""Seconds of the past that circuits are reported on."""

_ALL_CHANGES = 2000
_FLAPPING = 5  # openings within the period from which on a circuit is said to flap
_MANY_RETRIES = 0.1  # retries per call; a retry budget allows a tenth in the long run
_NOT_USED = frozenset({CircuitState.OPEN.value, CircuitState.FORCED_OPEN.value})


def report_of(services: Mapping[str, Mapping[str, Any]], history: History, clock: Clock) -> dict[str, Any]:
    """The report. JSON-ready; times are ISO 8601 in UTC, durations seconds, shares from 0 to 1.

    Args:
        services: The status of each.
        history: What has happened.
        clock: Where the time comes from.

    Returns:
        ``generated_at``; ``since``: the last 24 hours, or as far back as the history goes; ``summary``;
        ``services`` by name with their counts (since their processes began), times open, and mean time to
        recovery; ``changes``, latest first; ``advice``: sentences on what deserves a look.
    """
    now = clock.now().timestamp()
    changes = history.changes(_ALL_CHANGES, now - PERIOD)
    mine = {name: _of_service(name, status, changes, now) for name, status in services.items()}
    return {
        "generated_at": moment(now),
        "since": moment(now - PERIOD),
        "summary": _summary(mine),
        "services": mine,
        "changes": [each.as_dict() for each in changes[:200]],
        "advice": [sentence for name, each in mine.items() for sentence in _advice(name, each)],
    }


def _of_service(
    name: str, status: Mapping[str, Any], changes: Sequence[Change], now: float
) -> dict[str, Any]:
    circuit = [each for each in changes if each.kind is ChangeKind.CIRCUIT and each.name == name]
    requests = status.get("requests") or {}
    reached = requests.get("succeeded", 0) + requests.get("failed", 0)
    open_for = open_seconds(circuit, now - PERIOD, now, str(status.get("state", "")))
    return {
        "service": status.get("service", name),
        "state": status.get("state"),
        "requests": dict(requests),
        "success_rate": round(requests["succeeded"] / reached, 6) if reached else None,
        "latency_ms": status.get("latency_ms"),
        "openings": sum(each.to_state in _NOT_USED for each in circuit),
        "open_seconds": round(open_for, 1),
        "availability": round(1 - open_for / PERIOD, 6),
        "mttr_seconds": status.get("mttr_seconds"),
        "last_state_change": status.get("last_state_change"),
        "last_error": status.get("last_error"),
    }


def open_seconds(changes: Sequence[Change], begin: float, end: float, state: str) -> float:
    """For how long a circuit let nobody through.

    Args:
        changes: Of this circuit within the time, latest first.
        begin: The beginning of the time, in seconds since 1970.
        end: Its end.
        state: The circuit's state at the end.
    """
    total, until, after = 0.0, end, state
    for each in changes:
        if after in _NOT_USED:
            total += max(until - max(each.at, begin), 0.0)
        until, after = each.at, each.from_state
    return total + (max(until - begin, 0.0) if changes and after in _NOT_USED else 0.0)


def _summary(services: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    calls = sum(each["requests"].get("total", 0) for each in services.values())
    good = sum(each["requests"].get("succeeded", 0) for each in services.values())
    reached = good + sum(each["requests"].get("failed", 0) for each in services.values())
    longest = max(services, key=lambda name: services[name]["open_seconds"], default=None)
    return {
        "services": len(services),
        "open": [name for name, each in services.items() if each["state"] in _NOT_USED],
        "calls": calls,
        "success_rate": round(good / reached, 6) if reached else None,
        "openings": sum(each["openings"] for each in services.values()),
        "longest_open": longest if longest is not None and services[longest]["open_seconds"] else None,
    }


def _advice(name: str, service: Mapping[str, Any]) -> list[str]:
    advice = []
    if service["openings"] >= _FLAPPING:
        advice.append(f"{name}: opened {service['openings']} times; see the runbook on flapping circuits")
    if service["state"] == CircuitState.FORCED_OPEN:
        advice.append(f"{name}: is kept open by hand; reset it when its service is well")
    if service["state"] == CircuitState.DISABLED:
        advice.append(f"{name}: its circuit is switched off by hand; reset it to have it protect you again")
    total, retried = service["requests"].get("total", 0), service["requests"].get("retried", 0)
    if total >= 100 and retried / total > _MANY_RETRIES:
        advice.append(f"{name}: {retried / total:.0%} more attempts than calls: it often fails at first")
    return advice
