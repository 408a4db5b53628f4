"""Scripts in processes of their own, which say in JSON what they have seen."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

_PATIENCE = 50.0  # seconds


def run(script: str, *arguments: str) -> Any:
    """What a script prints at its end, read as JSON.

    Args:
        script: Python, however deeply indented.
        *arguments: For its ``sys.argv[1:]``.
    """
    code = textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=_PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
