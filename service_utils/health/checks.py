"""Ready-made checks. Each is a function without arguments, to be registered with a :class:`HealthChecker`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

import requests

from service_utils.events import CircuitState
from service_utils.health.result import Finding, HealthStatus
from service_utils.policies.checks import require_fraction
from service_utils.storage import Database

__all__ = ["Check", "Probable", "database", "disk_space", "memory", "service"]

Check: TypeAlias = Callable[[], object]
"""Returns True or None (healthy), False (unhealthy), a HealthStatus or a Finding; raises: unhealthy."""

_GIB = 2**30
_MARGIN = 2.0  # times the least room there should be: below that it is degraded already
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 2**60  # version 1 of cgroups says "none" by a number of this size


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

    A service that answers while its circuit is not closed is degraded: calls to it are refused.

    Args:
        client: The client.
        timeout: Seconds.
    """

    def check() -> Finding:
        client.probe(timeout=timeout).close()
        state = client.state
        if state in (CircuitState.CLOSED, CircuitState.DISABLED):
            return Finding(HealthStatus.HEALTHY)
        return Finding(HealthStatus.DEGRADED, f"answers, but its circuit is {state.value.replace('_', ' ')}")

    return check


def database(store: Database) -> Check:
    """Read from a SQLite file."""

    def check() -> None:
        with store.read() as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    return check


def disk_space(path: str | Path, min_free_bytes: int = _GIB // 4, min_free_fraction: float = 0.02) -> Check:
    """See that there is room on the disk of a folder.

    Unhealthy below both limits' larger one, degraded below twice that.

    Args:
        path: A folder or file there.
        min_free_bytes: The least that must be free for us.
        min_free_fraction: The least share of the disk.

    Raises:
        ValueError: A limit is negative, or the share is no fraction.
    """
    require_fraction("min_free_fraction", min_free_fraction)
    if isinstance(min_free_bytes, bool) or not isinstance(min_free_bytes, int) or min_free_bytes < 0:
        raise ValueError(f"min_free_bytes={min_free_bytes!r}: must be a whole number of bytes >= 0")

    def check() -> Finding:
        found = os.statvfs(path)
        free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        least = max(min_free_bytes, min_free_fraction * size)
        return _judged(
            free < least, free < least * _MARGIN, f"{free / _GIB:.1f} GiB free of {size / _GIB:.1f}"
        )

    return check


def memory(max_used_fraction: float = 0.95) -> Check:
    """See that there is memory left: of the container's limit where there is one, else of the machine.

    Unhealthy above the limit, degraded when half of what is above it has been used, too. Pages of files that
    the kernel can drop count as free.

    Args:
        max_used_fraction: The most that may be used.

    Raises:
        ValueError: It is no fraction.
    """
    require_fraction("max_used_fraction", max_used_fraction)
    early = 1.0 - (1.0 - max_used_fraction) * _MARGIN

    def check() -> Finding:
        used, size = _memory_of_container() or _memory_of_machine()
        share = used / size
        detail = f"{share:.0%} used of {size / _GIB:.1f} GiB"
        return _judged(share > max_used_fraction, share > early, detail)

    return check


def _judged(unhealthy: bool, degraded: bool, detail: str) -> Finding:
    if unhealthy:
        return Finding(HealthStatus.UNHEALTHY, detail)
    return Finding(HealthStatus.DEGRADED if degraded else HealthStatus.HEALTHY, detail)


def _memory_of_container() -> tuple[int, int] | None:
    """Used and limit in bytes, by control groups of version 2 or 1; None without a limit."""
    for limit, used, stat, reclaimable in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            size = (_CGROUP / limit).read_text().strip()
            if not size.isdigit() or int(size) >= _NO_LIMIT:
                continue
            files = dict(line.split()[:2] for line in (_CGROUP / stat).read_text().splitlines())
            return int((_CGROUP / used).read_text()) - int(files.get(reclaimable, 0)), int(size)
        except (OSError, ValueError):
            continue
    return None


def _memory_of_machine() -> tuple[int, int]:
    found = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
    size, free = (int(found[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return size - free, size
