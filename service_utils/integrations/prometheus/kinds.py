"""The kinds of failure that ``error_type`` tells apart: few, and never an exception's own words."""

from __future__ import annotations

from collections.abc import Sequence

from service_utils.calls import Attempt, Outcome
from service_utils.integrations.prometheus.names import OTHER

__all__ = ["kind_of_failure"]

_KINDS = {
    "ConnectionError": "connection",
    "ProxyError": "connection",
    "TooManyRedirects": "connection",
    "SSLError": "tls",
    "Timeout": "timeout",
    "ConnectTimeout": "timeout",
    "ReadTimeout": "timeout",
    "DeadlineExceeded": "timeout",
    "ChunkedEncodingError": "body",
    "ContentDecodingError": "body",
    "InvalidHeader": "body",
}


def kind_of_failure(attempts: Sequence[Attempt], error_type: str | None) -> str:
    """``http_503`` for the status of the last attempt that failed, else a word for the exception.

    Args:
        attempts: Of a call that counts against the service.
        error_type: The name of the exception it ended with, or None.

    Returns:
        ``http_<status>``, ``connection``, ``tls``, ``timeout``, ``body`` or ``other``.
    """
    failed = next((each for each in reversed(attempts) if each.outcome is Outcome.FAILURE), None)
    status = None if failed is None else failed.status
    if status is not None and 400 <= status <= 599:
        return f"http_{status}"
    return _KINDS.get(error_type or "", OTHER)
