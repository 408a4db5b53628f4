"""Instructions a request, counted by valgrind: unlike seconds they come out the same every time."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.driving import Contender
from benchmarks.machine import ROOT, environment

__all__ = ["REQUESTS", "available", "count_all"]

FEW, REQUESTS = 50, 200
_COUNTED = re.compile(r"I\s+refs:\s+([\d,]+)")


def available() -> bool:
    """Whether there is a valgrind."""
    return shutil.which("valgrind") is not None


def count_all(contenders: Sequence[Contender], kind: str, tell: Callable[[str], None]) -> dict[str, int]:
    """Instructions of one request by contender: what 200 more of them add, divided by 200."""
    jobs = [(each, count) for each in contenders for count in (FEW, FEW + REQUESTS)]
    # Counts do not depend on who else is running, so two at a time.
    with ThreadPoolExecutor(2) as pool:
        counted = list(pool.map(lambda job: _count(job[0], kind, job[1]), jobs))
    found: dict[str, int] = {}
    for each, few, many in zip(contenders, counted[::2], counted[1::2], strict=True):
        if few is None or many is None:
            tell(f"{each.name}: valgrind could not count its instructions ({kind})")
        else:
            found[each.name] = (many - few) // REQUESTS
    return found


def _count(contender: Contender, kind: str, count: int) -> int | None:
    valgrind = "valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null".split()
    try:
        done = subprocess.run(
            [*valgrind, *contender.command()],
            input=f"{kind} {count}\n",
            capture_output=True,
            text=True,
            timeout=300,
            cwd=ROOT,
            env=environment(PYTHONHASHSEED="0"),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    found = _COUNTED.search(done.stderr)
    return int(found[1].replace(",", "")) if found and '"cpu"' in done.stdout else None
