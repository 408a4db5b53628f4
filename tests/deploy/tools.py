"""Programs that the tests of deploy/ need. That one is missing is a reason to skip, but not in a build."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"


def program(name: str) -> str:
    """The path of a program; skips the test where there is none."""
    found = shutil.which(name)
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is missing; Debian has it in its package prometheus")
    pytest.skip(f"{name} is not installed; Debian has it in its package prometheus")
