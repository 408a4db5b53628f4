"""The backend under gunicorn, whose keys are free again soon after the worker that held them was killed."""

from __future__ import annotations

from typing import Any

import backend.app
from service_utils import configure_logging


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    assert backend.app._LEASE_MARGIN > 1.0
    backend.app._LEASE_MARGIN = 1.0
    configure_logging(json=True, level="DEBUG")  # so that there is as much as can be to find a secret in
    app = globals()["app"] = backend.app.create_app()
    return app
