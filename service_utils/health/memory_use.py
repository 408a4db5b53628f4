"""How much memory is used, and of how much: by the kernel's files, without a library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["MemoryUse", "memory_use"]

_ROOT = Path("/")

# Limit, use and statistics of a control group, and what is there of files that the kernel can drop:
# docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html
_VERSION_2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_VERSION_1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.stat",
    "total_inactive_file",
)


class MemoryUse(NamedTuple):
    """Bytes in use, and how many there may be."""

    used: int
    size: int

    @property
    def share(self) -> float:
        """From 0.0 to about 1.0."""
        return self.used / self.size


def memory_use(root: Path | None = None) -> MemoryUse | None:
    """Of the tightest limit that holds for this process; of the machine where there is none.

    Args:
        root: Where ``proc`` and ``sys`` are, in place of ``/``.

    Returns:
        None where the system has no such files.
    """
    base = _ROOT if root is None else root
    machine = _of_the_machine(base)
    most = None if machine is None else machine.size  # version 1 says "no limit" by a very large one
    limited = [
        each for each in _of_control_groups(base) if each.size > 0 and (most is None or each.size < most)
    ]
    return max(limited, key=lambda each: each.share, default=machine)


def _of_the_machine(root: Path) -> MemoryUse | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        size, free = (int(found[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, LookupError, ValueError):
        return None
    return MemoryUse(max(size - free, 0), size)


def _of_control_groups(root: Path) -> Iterator[MemoryUse]:
    """This process's groups and those around them, as far as they have a limit and can be seen."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    paths = {controllers: path for _, controllers, path in (each.split(":", 2) for each in lines)}
    version_1 = next((path for names, path in paths.items() if "memory" in names.split(",")), "/")
    mounted = root / "sys/fs/cgroup"
    for folder in _upwards(mounted, paths.get("", "/")):
        yield from _of_group(folder, *_VERSION_2)
    for folder in _upwards(mounted / "memory", version_1):
        yield from _of_group(folder, *_VERSION_1)


def _upwards(mounted: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it. In a container the path can be the host's: then the top only."""
    parts = [part for part in path.split("/") if part]
    for number in range(len(parts) if ".." not in parts else 0, -1, -1):
        yield mounted.joinpath(*parts[:number])


def _of_group(folder: Path, limit: str, used: str, statistics: str, droppable: str) -> Iterator[MemoryUse]:
    try:
        size = int((folder / limit).read_text())  # "max" is no limit
        numbers = dict(line.split()[:2] for line in (folder / statistics).read_text().splitlines())
        yield MemoryUse(max(int((folder / used).read_text()) - int(numbers.get(droppable, 0)), 0), size)
    except (OSError, ValueError):
        return
