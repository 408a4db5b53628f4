"""All commands, for whichever desk there is."""

from __future__ import annotations

from service_utils.integrations.cli.letters import dlq
from service_utils.integrations.cli.levels import degradation, reliability
from service_utils.integrations.cli.services import services

__all__ = ["GROUPS"]

GROUPS = (services, dlq, degradation, reliability)
