"""One part in this process: what ``--only`` runs, in a child of a run as well as by hand."""

from __future__ import annotations

import importlib
import logging
import os
import runpy
import signal
import sys
import threading
import time

from backend.run.parts import BACKEND, HOST, Part, check_ports
from service_utils import configure_logging

__all__ = ["JSON", "log_format", "log_level", "run_part"]

JSON = "json"

_FORMAT = "%(levelname)s %(name)s: %(message)s"
_THREADS = 16
_LAST_CHANCE = 10.0
_PR_SET_PDEATHSIG = 1


def run_part(part: Part, lifeline: int | None = None, *, production: bool = False) -> None:
    """Serve one part until SIGTERM, Ctrl-C or the end of the lifeline.

    Args:
        part: Which one, and where.
        lifeline: The reading end of a pipe; when its other end is closed, this process ends.
        production: Whether the backend is to be served by gunicorn, with several workers.

    Raises:
        PortError: Its port is in use.
        SystemExit: It cannot start; the reason stands on stderr.
    """
    if production and part.name == BACKEND:
        check_ports([part])
        _run_gunicorn(part, lifeline)
        return
    if lifeline is not None:
        threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    json = log_format() == JSON
    configure_logging(json=json, level=log_level(), fmt=None if json else _FORMAT)
    check_ports([part])
    if part.name == BACKEND:
        _serve_backend(part)
    else:
        _serve_service(part)


def _serve_backend(part: Part) -> None:
    from backend.app import create_app
    from backend.context import EXTENSION, Backend
    from backend.services.serving import serve, starting

    with starting(part.name):
        app = create_app()
    parts: Backend = app.extensions[EXTENSION]
    if parts.settings.background:
        parts.background.start()  # letters of an earlier run do not wait for the first request
    try:
        serve(app, host=HOST, port=part.port, name=part.name, threads=_THREADS)
    finally:
        parts.background.stop()


def _run_gunicorn(part: Part, lifeline: int | None) -> None:
    """Be gunicorn's arbiter. It forks, so no thread of ours may run here: the kernel watches the lifeline."""
    from backend.config import Settings
    from backend.services.serving import starting

    os.environ["BACKEND_PORT"] = str(part.port)
    with starting(part.name):  # what is wrong is said in a line, where gunicorn would show a stack trace
        importlib.import_module("backend.gunicorn_conf")
        Settings.load()
    from gunicorn.app.wsgiapp import run

    if lifeline is not None:
        _end_with_parent()
        os.close(lifeline)
    sys.argv = ["gunicorn", "--config", "python:backend.gunicorn_conf", "backend.app:app"]
    run()


def _end_with_parent() -> None:
    """Have the system send SIGTERM when the process that has started this one dies (Linux)."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _serve_service(part: Part) -> None:
    """As ``python -m backend.services.<name>`` would."""
    module = f"backend.services.{part.name}"
    sys.argv = [module, "--host", HOST, "--port", str(part.port)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with(lifeline: int) -> None:
    while os.read(lifeline, 1024):
        pass  # nothing is ever sent; only the end matters
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_CHANCE)
    os._exit(1)


def log_level() -> str:
    """``LOG_LEVEL``, or INFO.

    Raises:
        SystemExit: There is no such level; the reason stands on stderr.
    """
    level = os.environ.get("LOG_LEVEL", "").upper() or "INFO"
    if level not in logging.getLevelNamesMapping():
        print(f"LOG_LEVEL={level!r}: must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL", file=sys.stderr)
        raise SystemExit(1)
    return level


def log_format() -> str:
    """``LOG_FORMAT``: ``text``, or ``json`` for one object per line.

    Raises:
        SystemExit: There is no such format; the reason stands on stderr.
    """
    found = os.environ.get("LOG_FORMAT", "").lower() or "text"
    if found not in ("text", JSON):
        print(f"LOG_FORMAT={found!r}: must be text or json", file=sys.stderr)
        raise SystemExit(1)
    return found
