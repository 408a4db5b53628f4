"""Why a circuit goes from state to state: the words of log lines and events."""

from __future__ import annotations

__all__ = ["PROBED", "PROBE_FAILED", "RECOVERED", "RESET", "TRYING"]

RECOVERED = "service recovered"
PROBE_FAILED = "recovery probe failed"
TRYING = "recovery timeout over"
PROBED = "health probe answered"
RESET = "reset by hand"
