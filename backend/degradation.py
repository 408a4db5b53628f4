"""How degraded the backend is: which level follows from which service being away.

What each level means to users is a table in docs/degradation.md.
"""

from __future__ import annotations

from service_utils.degradation import (
    Condition,
    DegradationLevel,
    DegradationRules,
    Rule,
    all_of,
    any_of,
    is_open,
    unhealthy,
)

__all__ = ["backend_rules"]


def _away(service: str) -> Condition:
    """Its circuit is open, or, where nobody has called it lately, its health check says so."""
    return any_of(is_open(service), unhealthy(service))


def backend_rules() -> DegradationRules:
    """The rules over the circuits and health checks of the four services.

    LLM servers are not among them: the backend answers by itself where they are away.
    """
    return DegradationRules(
        Rule(
            DegradationLevel.MINOR, _away("chroma"), "Chroma away: full-text search only, nothing is indexed"
        ),
        Rule(DegradationLevel.MINOR, _away("git"), "Git away: no snapshots"),
        Rule(DegradationLevel.MODERATE, _away("filesystem"), "Filesystem away: no uploads, no project files"),
        Rule(DegradationLevel.SEVERE, _away("billing"), "Billing away: no chat, no charges"),
        Rule(
            DegradationLevel.CRITICAL,
            all_of(*map(_away, ("chroma", "filesystem", "billing", "git"))),
            "all services away: search in our own index only",
        ),
    )
