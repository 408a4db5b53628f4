"""Several processes as one, in the multiprocess mode of prometheus_client, and when some have died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

SCENES = {
    "sums": [12.0, 12.0],
    "circuits": ["closed", "forced_open", "disabled", "closed", "forced_open", "closed"],
    "slots": [0.0, 2.0, 1.0, 0.0],
    "level": [0.0, 3.0, 0.0],
    "shared": [
        ["closed", 0.0, None],
        ["forced_open", 3.0, 1.0],
        ["forced_open", 3.0, 1.0],
        ["closed", 0.0, 1.0],
    ],
    "health": [None, 1.0, 0.0, None, 1.0],
    "twice": 2.0,
    "spoiled": [False, True],
}


@pytest.mark.parametrize("scene", SCENES)
def test_scene(scene: str, tmp_path: Path) -> None:
    """Counts are those of all, living and dead; what is, is what is in those that live."""
    assert played(scene, tmp_path) == SCENES[scene]


def played(scene: str, folder: Path) -> Any:
    """What comes of a scene, in a process of its own: the mode is chosen when prometheus_client is loaded."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integrations.prometheus.many", scene],
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
