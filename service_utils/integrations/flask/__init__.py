"""Flask: one extension for error answers, inbound context and status, and the guard of internal routes."""

from service_utils.integrations.flask.degradation import current_level, requires_level
from service_utils.integrations.flask.extension import ServiceUtils
from service_utils.integrations.flask.idempotency import Checked, idempotency_key, idempotent
from service_utils.integrations.flask.problems import problem, register_problem_handlers
from service_utils.integrations.flask.protection import Limits, Priority, Protection, protect
from service_utils.integrations.flask.tokens import (
    check_internal_token,
    ensure_token_configured,
    require_internal_token,
)

__all__ = [
    "Checked",
    "Limits",
    "Priority",
    "Protection",
    "ServiceUtils",
    "check_internal_token",
    "current_level",
    "ensure_token_configured",
    "idempotency_key",
    "idempotent",
    "problem",
    "protect",
    "register_problem_handlers",
    "require_internal_token",
    "requires_level",
]
