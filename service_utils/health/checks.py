"""Ready-made checks. Each is a function without arguments, to be registered with a :class:`HealthChecker`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias
from urllib.parse import quote

import requests

from service_utils.events import CircuitState
from service_utils.health.memory_use import memory_use
from service_utils.health.result import Finding, HealthStatus
from service_utils.policies.checks import require_fraction
from service_utils.storage import Database

__all__ = ["Check", "Probable", "database", "disk_space", "memory", "service"]

Check: TypeAlias = Callable[[], object]
"""Returns True or None (healthy), False (unhealthy), a HealthStatus or a Finding; raises: unhealthy."""

_GIB = 2**30
_ANY_READ = "SELECT count(*) FROM sqlite_master"
_MARGIN = 2.0  # times the least room there should be: below that it is degraded already
_EARLY = 0.95  # of the most memory that may be used: above that it is degraded already


class Probable(Protocol):
    """What a check needs of a client."""

    @property
    def state(self) -> CircuitState:
        """Its circuit's."""
        ...

    def probe(self, timeout: float | None = None) -> requests.Response:
        """Ask the service once."""
        ...


def service(client: Probable, timeout: float) -> Check:
    """Ask a client's ``health_path``, past circuit and retries: nothing is counted, no circuit opens by it.

    A service that answers while its circuit is not closed is degraded: calls to it are refused. One whose
    circuit is held open by hand is not asked.

    Args:
        client: The client.
        timeout: Seconds.
    """

    def check() -> Finding:
        if client.state is CircuitState.FORCED_OPEN:
            return Finding(HealthStatus.DEGRADED, "not asked: its circuit is held open by hand")
        client.probe(timeout=timeout).close()
        state = client.state
        if state in (CircuitState.CLOSED, CircuitState.DISABLED):
            return Finding(HealthStatus.HEALTHY)
        return Finding(HealthStatus.DEGRADED, f"answers, but its circuit is {state.value.replace('_', ' ')}")

    return check


def database(store: Database | str | Path) -> Check:
    """Read from a SQLite file.

    Args:
        store: A :class:`~service_utils.storage.Database` in use, or the path of a file, which is opened for
            reading each time; it is not made when missing.
    """
    if not isinstance(store, Database):
        return partial(_read_file, Path(store).absolute())

    def check() -> None:
        with store.read() as connection:
            connection.execute(_ANY_READ).fetchone()

    return check


def _read_file(path: Path) -> None:
    # quote: a question mark would end the path of a URI
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        connection.execute(_ANY_READ).fetchone()


def disk_space(path: str | Path, min_free_bytes: int = _GIB // 4, min_free_fraction: float = 0.0) -> Check:
    """See that there is room on the disk of a folder.

    Unhealthy below the larger of both limits, degraded below twice that. Unhealthy, too, when the disk is
    mounted for reading only, or has no room for another file's name (inode).

    Args:
        path: A folder or file there.
        min_free_bytes: The least that must be free for us.
        min_free_fraction: The least share of the disk. Mind that two hundredths of a large disk are a lot.

    Raises:
        ValueError: A limit is negative, or the share is no fraction.
    """
    require_fraction("min_free_fraction", min_free_fraction)
    if isinstance(min_free_bytes, bool) or not isinstance(min_free_bytes, int) or min_free_bytes < 0:
        raise ValueError(f"min_free_bytes={min_free_bytes!r}: must be a whole number of bytes >= 0")

    def check() -> Finding:
        found = os.statvfs(path)
        if found.f_flag & os.ST_RDONLY:
            return Finding(HealthStatus.UNHEALTHY, "the disk can only be read")
        if found.f_files and not found.f_favail:  # some file systems do not count them
            return Finding(HealthStatus.UNHEALTHY, "the disk has no inode left for another file")
        free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        least = max(min_free_bytes, min_free_fraction * size)
        detail = f"{free / _GIB:.1f} GiB free of {size / _GIB:.1f}"
        return _judged(free < least, free < least * _MARGIN, detail)

    return check


def memory(max_used_fraction: float = 0.95) -> Check:
    """See that there is memory left.

    That is: of the tightest limit of this process's control groups (a container's, a systemd unit's), else of
    the machine. Unhealthy above ``max_used_fraction``, degraded above 95 hundredths of it. Pages of files
    that the kernel can drop count as free. Healthy on systems that do not tell; the detail says so.

    Args:
        max_used_fraction: The most that may be used.

    Raises:
        ValueError: It is no fraction, or 0.
    """
    require_fraction("max_used_fraction", max_used_fraction, zero=False)

    def check() -> Finding:
        use = memory_use()
        if use is None:
            return Finding(HealthStatus.HEALTHY, "this system does not tell how much memory is used")
        detail = f"{use.share:.0%} used of {use.size / _GIB:.1f} GiB"
        return _judged(use.share > max_used_fraction, use.share > max_used_fraction * _EARLY, detail)

    return check


def _judged(unhealthy: bool, degraded: bool, detail: str) -> Finding:
    if unhealthy:
        return Finding(HealthStatus.UNHEALTHY, detail)
    return Finding(HealthStatus.DEGRADED if degraded else HealthStatus.HEALTHY, detail)
