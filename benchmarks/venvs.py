"""Environments for libraries that we are compared with: one for each family, made once and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import versions

__all__ = ["FAMILIES", "python_of"]

PATIENCE = 300.0  # seconds for one environment


def _same(*names: str) -> list[str]:
    """The requirements that give an environment our own versions, so that only the rest differs."""
    return [f"{name}=={version}" for name, version in versions(*names).items()]


def families() -> dict[str, list[str]]:
    """What pip installs into each environment."""
    return {
        "breakers": [*_same("requests", "urllib3"), "pybreaker", "tenacity", "circuitbreaker"],
        "httpx": ["httpx"],
        "niquests": ["niquests"],  # brings a fork of urllib3 in its place
        "pycurl": ["pycurl"],
    }


FAMILIES = tuple(families())


def python_of(family: str, folder: Path, tell: Callable[[str], None]) -> str | None:
    """The interpreter of an environment, made if need be; None, and a word, where that cannot be done."""
    wanted = families()[family]
    place = folder / family
    stamp, python = place / "requirements.txt", place / "bin" / "python"
    if stamp.exists() and stamp.read_text("utf-8").split() == [*wanted, sys.version.split()[0]]:
        return str(python)
    try:
        _make(place, python, wanted)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        tell(f"{family}: could not be installed ({said.strip().splitlines()[-1]})")
        return None
    stamp.write_text("\n".join([*wanted, sys.version.split()[0]]) + "\n", "utf-8")
    return str(python)


def _make(place: Path, python: Path, wanted: list[str]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    # Our own pip fills it: not every Python can put one into a new environment.
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(place)],
        [*pip, "install", "--only-binary", ":all:", *wanted],
    ):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
