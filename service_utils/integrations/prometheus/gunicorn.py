"""For a configuration of gunicorn: the workers' metrics as one (multiprocess mode of prometheus_client).

::

    # gunicorn.conf.py
    from service_utils.integrations.prometheus.gunicorn import child_exit, metrics_folder

    raw_env = [metrics_folder("/run/app/metrics")]
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

__all__ = ["child_exit", "metrics_folder"]

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LOCK = "in-use.lock"
_OURS = re.compile(r"(counter|gauge|histogram|summary)_.+\.db")

_logger = logging.getLogger("service_utils")

_held: dict[Path, int] = {}  # descriptors of locks, by folder; they are open as long as the process lives


def metrics_folder(folder: str | Path | None = None) -> str:
    """Have a folder ready for the workers' metrics.

    It is made where it is missing, and emptied of what an earlier server has left, unless a server is still
    using it: the one that is to be replaced by this one (USR2), or one whose configuration is only looked at
    (``--check-config``). Called again, when gunicorn reloads its configuration, it changes nothing.

    Args:
        folder: Where, on a local disk, writable for the workers; ``/dev/shm`` or ``/run`` is best. None: what
            ``PROMETHEUS_MULTIPROC_DIR`` says.

    Returns:
        An entry for ``raw_env``, by which gunicorn tells the workers before they load the application.

    Raises:
        ValueError: There is no folder given.
        OSError: It cannot be used.
    """
    where = folder or os.environ.get(_VARIABLE)
    if not where:
        raise ValueError(f"folder={folder!r}: must be a path, or {_VARIABLE} must be set")
    path = Path(where).absolute()
    if "prometheus_client" in sys.modules and os.environ.get(_VARIABLE) != str(path):
        _logger.warning(
            "prometheus_client was loaded before the folder %s was known; it will not use it", path
        )
    path.mkdir(parents=True, exist_ok=True)
    if path not in _held:
        _held[path] = _occupy(path)
    return f"{_VARIABLE}={path}"


def _occupy(folder: Path) -> int:
    """Empty it if nobody uses it, and use it: so do forked workers, by the same descriptor."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass  # somebody uses it, or the file system knows no locks: what is there stays
    else:
        for file in folder.iterdir():
            if _OURS.fullmatch(file.name):
                file.unlink(missing_ok=True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        _logger.warning("%s cannot be locked: %s", folder, error)
    return descriptor


def child_exit(server: Any, worker: Any) -> None:
    """Tidy up; gunicorn's hook for a worker that has ended, however: what it alone knew is known no more."""
    if os.environ.get(_VARIABLE):
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
