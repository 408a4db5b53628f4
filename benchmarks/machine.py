"""The machine, and how to keep it still: cores, environment, what is installed."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT_SIZE = 35
TOKEN = "Zm9yLXRoZS1iZW5jaG1hcmstb25seS0wMTIzNDU2Nzg5"  # as long as tokens are

_CAN_PIN = hasattr(os, "sched_setaffinity")
# What a process needs to start at all; everything else a user's shell holds stays outside.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
_ALLOWED = sorted(os.sched_getaffinity(0)) if _CAN_PIN else []


def cores() -> tuple[set[int], set[int]]:
    """The core of the clients and that of the servers; the same one where there is but one."""
    if not _ALLOWED:
        return set(), set()
    return {_ALLOWED[0]}, {_ALLOWED[1] if len(_ALLOWED) > 1 else _ALLOWED[0]}


@contextlib.contextmanager
def only_on(these: set[int]) -> Iterator[None]:
    """Processes and threads that are started inside stay on these cores, where the system knows how."""
    if not (_CAN_PIN and these):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, these)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(**more: str) -> dict[str, str]:
    """An environment of 35 variables, as a container has; requests reads all of them at every call."""
    found = {name: os.environ[name] for name in _KEPT if name in os.environ}
    found |= {"INTERNAL_SERVICE_TOKEN": TOKEN, "PYTHONDONTWRITEBYTECODE": "1", **more}
    for number in range(ENVIRONMENT_SIZE - len(found)):
        found[f"APPLICATION_SETTING_{number:02}"] = f"value of setting {number}"
    return found


def enter_environment() -> None:
    """Give this process that environment; the machine's own proxies and certificates are gone with it."""
    found = environment()
    os.environ.clear()
    os.environ.update(found)


def describe() -> dict[str, str]:
    """What the figures depend on, in words."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "pinned": _pinning(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": first_line(shutil.which("cc") or shutil.which("gcc"), "--version"),
        "valgrind": first_line(shutil.which("valgrind"), "--version"),
    }


def versions(*names: str) -> dict[str, str]:
    """The versions of the distributions that are installed here."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _pinning() -> str:
    client, server = cores()
    if not client:
        return "nothing: this system does not bind processes to cores"
    if client == server:
        return "nothing: client and server share the only core, so all figures are rough"
    return f"client to core {min(client)}, server to core {min(server)}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def first_line(program: str | None, *arguments: str) -> str:
    """What a program says of its version, or "none"."""
    if program is None:
        return "none"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20, check=False)
        return (done.stdout or done.stderr).partition("\n")[0].strip()
    return "none"
