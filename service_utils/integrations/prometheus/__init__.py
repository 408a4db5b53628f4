"""Metrics for Prometheus: what happens is counted as it happens, what is, is looked up when somebody asks.

Nothing here imports ``prometheus_client`` before :class:`Metrics` is asked for: a configuration of gunicorn
imports :mod:`service_utils.integrations.prometheus.gunicorn`, which has to set ``PROMETHEUS_MULTIPROC_DIR``
before that library is loaded for the first time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service_utils.integrations.prometheus.metrics import Metrics

__all__ = ["Metrics"]


def __getattr__(name: str) -> Any:
    if name != "Metrics":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from service_utils.integrations.prometheus.metrics import Metrics

    return Metrics
