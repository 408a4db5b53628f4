"""Profiles: what a setting is when neither the environment nor the code says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PROFILES", "Profile", "current_profile"]

_VARIABLE = "SERVICE_UTILS_PROFILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The defaults of one kind of surroundings. Times are seconds.

    Attributes:
        name: ``development``, ``testing`` or ``production``.
        timeout: Of one attempt.
        max_retries: Attempts of a call.
        retry_base_delay: Upper bound of the first back-off.
        failure_threshold: Consecutive failures that open a circuit.
        recovery_timeout: How long a circuit stays open.
        secrets_required: Whether a missing token or secret is an error instead of a warning.
    """

    name: str
    timeout: float
    max_retries: int
    retry_base_delay: float
    failure_threshold: int
    recovery_timeout: float
    secrets_required: bool


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="development",
            timeout=5.0,
            max_retries=3,
            retry_base_delay=0.2,
            failure_threshold=5,
            recovery_timeout=10.0,
            secrets_required=False,
        ),
        Profile(
            name="testing",
            timeout=1.0,
            max_retries=2,
            retry_base_delay=0.001,
            failure_threshold=5,
            recovery_timeout=0.05,
            secrets_required=False,
        ),
        Profile(
            name="production",
            timeout=15.0,
            max_retries=3,
            retry_base_delay=1.0,
            failure_threshold=10,
            recovery_timeout=60.0,
            secrets_required=True,
        ),
    )
}


def current_profile(environ: Mapping[str, str] | None = None) -> Profile:
    """The profile that ``SERVICE_UTILS_PROFILE`` names; ``development`` when it is unset or empty.

    Args:
        environ: In place of ``os.environ``.

    Raises:
        ValueError: It names no profile.
    """
    variables = os.environ if environ is None else environ
    name = variables.get(_VARIABLE, "").strip().lower() or "development"
    profile = PROFILES.get(name)
    if profile is None:
        raise ValueError(f"{_VARIABLE}={name!r}: must be one of {', '.join(PROFILES)}")
    return profile
