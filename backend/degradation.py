"""How degraded the backend is: which level follows from which service being away.

What each level means to users is a table in docs/degradation.md.
"""

from __future__ import annotations

from service_utils.degradation import DegradationLevel, DegradationRules, Rule, all_of

__all__ = ["backend_rules"]


def backend_rules() -> DegradationRules:
    """The rules over the circuits of the four services.

    LLM servers are not among them: the backend answers by itself where they are away.
    """
    return DegradationRules(
        Rule(DegradationLevel.MINOR, "chroma", "Chroma away: full-text search only, nothing is indexed"),
        Rule(DegradationLevel.MINOR, "git", "Git away: no snapshots"),
        Rule(DegradationLevel.MODERATE, "filesystem", "Filesystem away: no uploads, no project files"),
        Rule(DegradationLevel.SEVERE, "billing", "Billing away: no chat, no charges"),
        Rule(
            DegradationLevel.CRITICAL,
            all_of("chroma", "filesystem", "billing", "git"),
            "all services away: search in our own index only",
        ),
    )
