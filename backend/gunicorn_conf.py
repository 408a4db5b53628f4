"""How gunicorn runs the backend: ``gunicorn --config python:backend.gunicorn_conf backend.app:app``.

Where there are several workers they share circuits, counts and background work through a file below
``VAR_DIR``, unless ``SERVICE_UTILS_SHARED_STATE`` says something else. Metrics are those of all workers: each
writes its own into a folder below ``VAR_DIR``, or the one of ``PROMETHEUS_MULTIPROC_DIR``. What stands on
gunicorn's command line goes before what stands here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from backend.context import EXTENSION
from backend.run.parts import HOST, find_part
from backend.run.single import JSON, log_format, log_level
from service_utils.integrations.prometheus.gunicorn import child_exit, metrics_folder
from service_utils.sharing import VARIABLE

__all__ = [
    "bind",
    "child_exit",
    "control_socket_disable",
    "graceful_timeout",
    "logconfig_dict",
    "post_worker_init",
    "preload_app",
    "raw_env",
    "threads",
    "timeout",
    "worker_class",
    "worker_exit",
    "workers",
]

_WORKERS = 4
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
_CIRCUITS = "circuits"
_METRICS = "metrics"
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def _workers() -> int:
    text = os.environ.get("WEB_CONCURRENCY") or str(_WORKERS)
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"WEB_CONCURRENCY={text!r}: must be a number of workers, 1 or more")
    return int(text)


def _formatter() -> dict[str, Any]:
    if log_format() == JSON:
        return {"()": "service_utils.structured_logs.JSONFormatter"}
    return {"()": "service_utils.structured_logs.TextFormatter", "fmt": _FORMAT}


workers = _workers()
threads = 8
worker_class = "gthread"
preload_app = True
bind = f"{HOST}:{find_part('backend', os.environ).port}"
timeout = 30
graceful_timeout = 30
control_socket_disable = True
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": _formatter()},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": log_level(), "handlers": ["stderr"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "propagate": True},
        "gunicorn.access": {"level": "WARNING"},
    },
}

_var_dir = Path(os.environ.get("VAR_DIR") or "var").absolute()
raw_env = [
    f"WEB_CONCURRENCY={workers}",  # the backend divides its places among them
    metrics_folder(os.environ.get(_METRICS_FOLDER) or _var_dir / _METRICS),
]
if workers > 1 and sys.platform == "linux" and VARIABLE not in os.environ:
    raw_env.append(f"{VARIABLE}=memory:{_var_dir / _CIRCUITS}")


def post_worker_init(worker: Any) -> None:
    """Begin what a worker does besides answering: letters of an earlier run do not wait for a request."""
    parts = _parts(worker)
    if parts is not None and parts.settings.background:
        parts.background.start()


def worker_exit(server: Any, worker: Any) -> None:
    """End it; letters in hand are finished or given back."""
    parts = _parts(worker)
    if parts is not None:
        parts.background.stop()


def _parts(worker: Any) -> Any:
    """The backend's own parts, where it is the backend that has been loaded."""
    return getattr(getattr(worker, "wsgi", None), "extensions", {}).get(EXTENSION)
