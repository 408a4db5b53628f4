"""What a log line says about the request that it was written for."""

from __future__ import annotations

import logging

from service_utils.http.context import bound_context

__all__ = ["RequestContextFilter"]

_NONE = "-"


class RequestContextFilter(logging.Filter):
    """Gives every record ``request_id`` and ``trace_id``, for ``%(request_id)s`` in a format. Drops none.

    Put on a handler it serves all loggers that write to it::

        handler.addFilter(RequestContextFilter())
        handler.setFormatter(logging.Formatter("%(levelname)s [%(request_id)s %(trace_id)s] %(message)s"))

    Outside of a request both are ``-``. A record that has one of them already, by ``extra=``, keeps it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete the record from what is bound in this thread or task."""
        bound = bound_context()
        if getattr(record, "request_id", None) is None:
            record.request_id = bound.request_id or _NONE
        if getattr(record, "trace_id", None) is None:
            traceparent = (bound.trace or {}).get("traceparent", "")
            # Bound ones are well-formed where they came in by a request; anybody may bind something else.
            parts = traceparent.split("-")
            record.trace_id = parts[1] if len(parts) > 1 else _NONE
        return True
