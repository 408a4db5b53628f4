"""Run all benchmarks and write their figures into docs/performance.md; `make bench` does this."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.common import add_options
from benchmarks.machine import ROOT

SCRIPTS = ("http_cost", "breaker_cost", "rejection", "bursts", "forks", "shared", "memory", "storm")
PAGE = ROOT / "docs" / "performance.md"
PATIENCE = 1200.0  # seconds for one script


def main() -> int:
    """Run them one after the other: side by side they would measure each other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add_options(parser)
    parser.add_argument(
        "--only", type=lambda text: text.split(","), metavar="NAMES", help="some scripts: a,b"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="where the figures are written")
    parser.add_argument("--no-page", action="store_true", help="write no page; --only writes none either")
    chosen = parser.parse_args()
    if unknown := set(chosen.only or ()) - set(SCRIPTS):
        parser.error(f"there is no script {', '.join(sorted(unknown))}; there are {', '.join(SCRIPTS)}")
    reports, missing = _run_all(chosen.only or SCRIPTS, _passed_on(chosen))
    if not (chosen.no_page or chosen.only):
        page.write(chosen.page, _command(chosen), reports, missing)
        print(f"\nWritten: {chosen.page}")
    for name, why in missing.items():
        print(f"No figures of {name}: {why}", file=sys.stderr)
    return 1 if missing else 0


def _run_all(names: tuple[str, ...], arguments: list[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    reports: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in names:
            began = time.monotonic()
            try:
                reports.append(_run(name, arguments, Path(folder) / f"{name}.json"))
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                missing[name] = _reason(error)
            print(f"({name}: {time.monotonic() - began:.0f} s)", flush=True)
    return reports, missing


def _run(name: str, arguments: list[str], results: Path) -> dict[str, Any]:
    script = f"benchmarks/{name}.py"
    if not (ROOT / script).exists():
        raise FileNotFoundError("there is no such script yet")
    command = [sys.executable, script, *arguments, "--json", str(results)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE)
    found: dict[str, Any] = json.loads(results.read_text("utf-8"))
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"it ended with status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not end within {PATIENCE:.0f} s"
    return str(error)


def _passed_on(chosen: argparse.Namespace) -> list[str]:
    """The options of the scripts, as they are given to each."""
    flags = ("quick", "no_peers", "no_instructions", "python_server")
    found = [f"--{name.replace('_', '-')}" for name in flags if getattr(chosen, name)]
    found += ["--rounds", str(chosen.rounds)] if chosen.rounds else []
    return found + (["--venvs", str(chosen.venvs)] if chosen.venvs != ROOT / ".bench-venvs" else [])


def _command(chosen: argparse.Namespace) -> str:
    """What to type for the same figures."""
    arguments = shlex.join(_passed_on(chosen))
    return f"make bench ARGS={shlex.quote(arguments)}" if arguments else "make bench"


if __name__ == "__main__":
    sys.exit(main())
