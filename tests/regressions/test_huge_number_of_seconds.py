"""A number too large for a float raised OverflowError, which named neither the setting nor the value."""

from __future__ import annotations

import pytest

from service_utils.policies.breaker import BreakerConfig


def test_seconds_beyond_every_float() -> None:
    """A number of seconds that no float can hold is refused like any other bad number."""
    with pytest.raises(ValueError, match="recovery_timeout=10000"):
        BreakerConfig(recovery_timeout=10**400)
