"""The pages can be built by Sphinx, without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_pages_are_built(tmp_path: Path) -> None:
    """Every page is in the table of contents, every link leads somewhere."""
    options = ["-W", "--keep-going", "-n", "-q", "-b", "html", "-c", "docs"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {each.stem for each in (ROOT / "docs").glob("*.md")}
    assert pages <= {each.stem for each in (tmp_path / "docs").glob("*.html")}
