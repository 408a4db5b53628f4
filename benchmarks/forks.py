"""A client that was used before a fork: do parent and children get their own answers?"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requests
from requests.adapters import HTTPAdapter

from benchmarks.common import Bar, Chart, Options, Report, Table, Target, options
from benchmarks.machine import enter_environment, versions
from benchmarks.servers import Served, Servers
from service_utils import BreakerConfig, ResilientServiceClient, ServiceRegistry

CHILDREN, THREADS_BEFORE, THREADS_AFTER = 4, 100, 4
DELAY_MS = 10  # so that a hundred threads need a hundred connections
TIMEOUT = 2.0  # of a call whose answer somebody else has taken
PATIENCE = 60.0  # seconds for all children of one case
OURS, PLAIN = "ResilientServiceClient", "requests.Session"
RIGHT, WRONG, FAILED, SILENT = "right", "wrong", "failed", "children without a word"

# From the path of a request to the one that its answer is about.
Ask = Callable[[str], str]


def session(served: Served) -> Ask:
    """A session with a pool for all threads."""
    plain = requests.Session()
    plain.verify = served.ca or True
    for prefix in ("http://", "https://"):
        plain.mount(prefix, HTTPAdapter(pool_maxsize=THREADS_BEFORE))
    return lambda path: str(plain.get(served.url + path, timeout=TIMEOUT).json()["path"])


def ours(served: Served) -> Ask:
    """Our client; without retries and with a patient circuit, so that nothing is smoothed over."""
    client = ResilientServiceClient(
        served.url,
        "Echo",
        1,
        TIMEOUT,
        breaker=BreakerConfig(failure_threshold=10**6),
        verify=served.ca or True,
        registry=ServiceRegistry(),
        pool_maxsize=THREADS_BEFORE,
    )
    return lambda path: str(client.get(path).json()["path"])


def call(ask: Ask, who: str, threads: int, calls: int) -> Counter[str]:
    """Let threads ask, each for paths that nobody else asks for. Returns how many answers were what."""
    found: Counter[str] = Counter()
    lock = threading.Lock()

    def work(thread: int) -> None:
        for number in range(calls):
            path = f"/{who}/{thread}/{number}"
            try:
                kind = RIGHT if ask(path) == path else WRONG
            except Exception:
                kind = FAILED
            with lock:
                found[kind] += 1

    running = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return found


def await_ended_threads() -> None:
    """Wait until the system has seen the last of those that were joined.

    They may still be in OpenSSL with a lock, which a child would inherit locked, whoever sends for it.
    """
    tasks, end = Path("/proc/self/task"), time.monotonic() + 10.0
    while tasks.is_dir() and len(os.listdir(tasks)) > threading.active_count() and time.monotonic() < end:
        time.sleep(0.001)


def in_a_child(work: Callable[[], Counter[str]]) -> tuple[int, int]:
    """Fork. Returns the child's id and where its count can be read."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    return child, reading


def collect(children: list[tuple[int, int]]) -> Counter[str]:
    """What the children counted; those that hang are ended."""
    found: Counter[str] = Counter()
    end = time.monotonic() + PATIENCE
    for child, reading in children:
        ready, _, _ = select.select([reading], [], [], max(0, end - time.monotonic()))
        said = os.read(reading, 4096) if ready else b""
        if not said:
            found[SILENT] += 1
            os.kill(child, signal.SIGKILL)
        found.update(json.loads(said or b"{}"))
        os.close(reading)
        os.waitpid(child, 0)
    return found


def case(ask: Ask, calls: int) -> Counter[str]:
    """A hundred threads, then a fork into four, then everybody calls at once."""
    before = call(ask, "before", THREADS_BEFORE, 3)
    if before[RIGHT] != before.total():
        raise RuntimeError(f"already before the fork: {dict(before)}")
    await_ended_threads()
    children = [
        in_a_child(partial(call, ask, f"child-{number}", THREADS_AFTER, calls)) for number in range(CHILDREN)
    ]
    try:
        found = call(ask, "parent", THREADS_AFTER, calls)
    finally:
        found_there = collect(children)
    return found + found_there


def run(chosen: Options) -> Report:
    """Measure everything."""
    report = Report("forks", "A client used before a fork")
    calls = chosen.rounds_or(10, 50)
    report.settings |= {"children": CHILDREN, "threads of each": THREADS_AFTER, "calls of each thread": calls}
    report.versions = versions("requests", "urllib3", "service-utils")
    found: dict[tuple[str, str], Counter[str]] = {}
    with Servers(python=chosen.python_server) as servers:
        for scheme in ("http", "https"):
            served = servers.plain(DELAY_MS) if scheme == "http" else servers.tls(DELAY_MS)
            if served is None:
                report.notes.append("TLS was left out: there is no way to make a certificate here.")
                continue
            for name, make in ((PLAIN, session), (OURS, ours)):
                found[name, scheme] = case(make(served), calls)
    report.tables.append(
        Table(
            f"Answers in the parent and {CHILDREN} children after a fork",
            ("client", "scheme", "right", "wrong", "failed", "wrong, of all"),
            [
                (*key, count[RIGHT], count[WRONG], count[FAILED], f"{count[WRONG] / count.total():.0%}")
                for key, count in found.items()
            ],
        )
    )
    report.charts.append(
        Chart(
            "forks",
            "Wrong answers after a fork, of all answers",
            "%",
            [
                Bar(f"{name}, {scheme}", 100 * count[WRONG] / count.total(), ours=name == OURS)
                for (name, scheme), count in found.items()
            ],
        )
    )
    of_ours = [count for (name, _), count in found.items() if name == OURS]
    report.targets += [
        Target("wrong answers after a fork", sum(count[WRONG] for count in of_ours), 0, 0),
        Target("failed calls after a fork", sum(count[FAILED] + count[SILENT] for count in of_ours), 0, 0),
    ]
    return report


if __name__ == "__main__":
    chosen = options(__doc__)
    enter_environment()
    run(chosen).publish(chosen)
