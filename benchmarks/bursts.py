"""Many threads at once: connections opened anew in repeated bursts, and time lost on a slow service."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requests
from requests.adapters import HTTPAdapter

from benchmarks.common import Bar, Chart, Options, Report, Table, Target, options, ratio, rounds_of
from benchmarks.machine import cores, enter_environment, only_on, versions
from benchmarks.servers import Served, Servers
from service_utils import ResilientServiceClient, ServiceRegistry

THREADS, SLOW_THREADS = 64, 16
CALLS = 4  # of each thread in a burst
DELAY_MS, SLOW_MS = 30, 20
OURS, DEFAULT, WIDE = "ResilientServiceClient", "requests.Session", "requests.Session, pool of 64"

Get = Callable[[], Any]


def contenders(base: str) -> dict[str, Get]:
    """Our client and sessions with pools of two sizes."""
    client = ResilientServiceClient(base, "Items", deadline=30, registry=ServiceRegistry())
    default, wide = requests.Session(), requests.Session()
    wide.mount("http://", HTTPAdapter(pool_maxsize=THREADS))
    return {
        OURS: lambda: client.get("/items/42").content,
        DEFAULT: lambda: default.get(base + "/items/42", timeout=10).content,
        WIDE: lambda: wide.get(base + "/items/42", timeout=10).content,
    }


def burst(get: Get, threads: int, calls: int) -> float:
    """Let threads begin together, each calling several times. Returns the seconds that they took."""
    ready = threading.Barrier(threads + 1)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            ready.wait(30)
            for _ in range(calls):
                get()
        except Exception as error:
            failures.append(error)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    ready.wait(30)
    began = time.perf_counter()
    for thread in running:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began


def reconnects(server: Served, bursts: int) -> dict[str, list[int]]:
    """Connections that each burst opened."""
    found: dict[str, list[int]] = {}
    for name, get in contenders(server.url).items():
        found[name] = []
        for _ in range(bursts):
            before = server.connections()
            burst(get, THREADS, CALLS)
            found[name].append(server.connections() - before)
    return found


def slow_service(server: Served, rounds: int, calls: int) -> dict[str, list[float]]:
    """Wall time of 16 threads against a service that takes its time."""
    turns = {name: _turn(get, calls) for name, get in contenders(server.url).items()}
    for turn in turns.values():
        turn()  # the connections are there
    return rounds_of(rounds, turns)


def _turn(get: Get, calls: int) -> Callable[[], float]:
    return lambda: burst(get, SLOW_THREADS, calls)


def run(chosen: Options) -> Report:
    """Measure everything."""
    report = Report("bursts", "Many threads at once")
    bursts, rounds, calls = chosen.rounds_or(4, 10) + 1, chosen.rounds_or(5, 20), chosen.pick(10, 25)
    report.versions = versions("requests", "urllib3", "service-utils")
    with Servers(python=chosen.python_server) as servers, only_on(cores()[0]):
        bursty = servers.plain(DELAY_MS)
        report.settings |= {"server": bursty.kind, "bursts": bursts, "rounds on a slow service": rounds}
        opened = reconnects(bursty, bursts)
        walls = slow_service(servers.plain(SLOW_MS), rounds, calls)
    report.tables += [_opened_table(opened, bursts), _walls_table(walls)]
    report.charts.append(
        Chart(
            "bursts",
            f"Connections opened per 1,000 requests in bursts of {THREADS} threads, after the first burst",
            "connections",
            [Bar(name, _per_thousand(counts), ours=name == OURS) for name, counts in opened.items()],
        )
    )
    report.targets += [
        Target(
            f"new connections in bursts of {THREADS} threads after the first", sum(opened[OURS][1:]), 0, 0
        ),
        Target(
            f"{SLOW_THREADS} threads on a slow service, wall time against a bare Session with a wide pool",
            ratio(walls[OURS], walls[WIDE]),
            1.2,
            1.05,
        ),
    ]
    return report


def _per_thousand(opened: list[int]) -> float:
    return 1000 * sum(opened[1:]) / (THREADS * CALLS * len(opened[1:]))


def _opened_table(opened: dict[str, list[int]], bursts: int) -> Table:
    return Table(
        f"New connections in bursts of {THREADS} threads, {CALLS} calls each, {DELAY_MS} ms a call",
        ("client", "first burst", f"the {bursts - 1} bursts after it", "per 1,000 requests"),
        [(name, counts[0], sum(counts[1:]), round(_per_thousand(counts))) for name, counts in opened.items()],
    )


def _walls_table(walls: dict[str, list[float]]) -> Table:
    return Table(
        f"Wall time of {SLOW_THREADS} threads on a service that takes {SLOW_MS} ms",
        ("client", "against Session", "against Session, pool of 64"),
        [(name, ratio(turns, walls[DEFAULT]), ratio(turns, walls[WIDE])) for name, turns in walls.items()],
    )


if __name__ == "__main__":
    chosen = options(__doc__)
    enter_environment()
    run(chosen).publish(chosen)
