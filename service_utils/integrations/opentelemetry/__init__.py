"""Traces by OpenTelemetry: a client span per call, an event per attempt, and a server span per request.

::

    from service_utils.integrations.opentelemetry import instrument, instrument_flask

    instrument()          # once per process: every call of every client has a span
    instrument_flask(app)  # where no other instrumentation makes server spans

Needs the API alone (extra ``opentelemetry``); the application chooses SDK and exporter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service_utils.integrations.opentelemetry.client_spans import instrument

if TYPE_CHECKING:
    from service_utils.integrations.opentelemetry.server_spans import instrument_flask

__all__ = ["instrument", "instrument_flask"]


def __getattr__(name: str) -> Any:
    """Import what needs Flask when somebody asks for it: clients are used without it, too."""
    if name != "instrument_flask":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from service_utils.integrations.opentelemetry import server_spans

    return server_spans.instrument_flask
