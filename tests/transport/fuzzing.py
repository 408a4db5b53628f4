"""How much is generated: what a build has time for, or as much as the environment says.

``FUZZ_EXAMPLES=5000`` generates so many answers, ``FUZZ_RANDOM=1`` others each time, and ``FUZZ_SHRINK=1``
looks for a small one when there is a failure.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_WANTED = os.environ.get("FUZZ_EXAMPLES")
EVERY = 1 if _WANTED else 4  # of the places where an answer may be parted in two


def examples(in_a_build: int) -> int:
    """How many answers to generate."""
    return int(_WANTED) if _WANTED else in_a_build


def fuzz(in_a_build: int) -> settings:
    """Settings for so many examples."""
    return settings(
        max_examples=examples(in_a_build),
        derandomize="FUZZ_RANDOM" not in os.environ,
        database=None,
        deadline=None,
        # A failure names the bytes, the pieces and the ending; a smaller one takes longer than a build has.
        phases=tuple(Phase) if "FUZZ_SHRINK" in os.environ else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
