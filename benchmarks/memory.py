"""Bytes of a client that has called nobody yet, and of one that keeps a connection."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import requests

from benchmarks.common import Bar, Chart, Options, Report, Table, Target, options
from benchmarks.machine import enter_environment, versions
from benchmarks.servers import Servers
from service_utils import ResilientServiceClient, ServiceRegistry

OURS, PLAIN, FAST = "ResilientServiceClient", "requests.Session", "FastSession alone"

# From the address and a number to a client, and to what makes it send one request.
Make = Callable[[str, int], tuple[Any, Callable[[], Any]]]


def makers() -> dict[str, Make]:
    """Who is weighed. Our clients share one registry, as those of a process do."""
    registry = ServiceRegistry()

    def ours(url: str, number: int) -> tuple[Any, Callable[[], Any]]:
        client = ResilientServiceClient(url, "Items", name=f"items-{number}", deadline=30, registry=registry)
        return client, lambda: client.get("/items/42")

    def session(url: str, _number: int) -> tuple[Any, Callable[[], Any]]:
        plain = requests.Session()
        return plain, lambda: plain.get(url + "/items/42", timeout=10)

    found: dict[str, Make] = {PLAIN: session, OURS: ours}
    try:
        from service_utils.http.transport import FastSession
    except ImportError:
        return found

    def fast(url: str, _number: int) -> tuple[Any, Callable[[], Any]]:
        each = FastSession()
        return each, lambda: each.get(url + "/items/42", timeout=10)

    return {PLAIN: session, FAST: fast, OURS: ours}


def weigh(make: Make, url: str, count: int) -> tuple[float, float]:
    """KiB of one that is cold, and of one with a connection."""
    warm = [make(url, -number) for number in range(1, 4)]
    for _, call in warm:
        call()  # what is imported or cached by the first is not the others' weight
    gc.collect()
    tracemalloc.start()
    try:
        before = _traced()
        clients = [make(url, number) for number in range(count)]
        cold = _traced() - before
        for _, call in clients:
            call()
        connected = _traced() - before
    finally:
        tracemalloc.stop()
    for client, _ in (*warm, *clients):
        client.close()
    return cold / count / 1024, connected / count / 1024


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def run(chosen: Options) -> Report:
    """Measure everything."""
    report = Report("memory", "Memory of a client")
    count = chosen.rounds_or(50, 200)
    report.settings["clients of each kind"] = count
    report.versions = versions("requests", "urllib3", "service-utils")
    with Servers(python=chosen.python_server) as servers:
        url = servers.plain().url
        found = {name: weigh(make, url, count) for name, make in makers().items()}
    if FAST not in found:
        report.notes.append(f"{FAST}: left out, this version has none.")
    report.tables.append(
        Table(
            "Memory of one client, as tracemalloc counts it",
            ("client", "cold, KiB", "with one connection, KiB"),
            [(name, *map(float, weights)) for name, weights in found.items()],
        )
    )
    report.charts.append(
        Chart(
            "memory",
            "Memory of a client that has called nobody yet",
            "KiB",
            [Bar(name, cold, ours=name == OURS) for name, (cold, _) in found.items()],
        )
    )
    report.targets.append(Target("memory of a cold client, KiB", found[OURS][0], 24, 12))
    return report


if __name__ == "__main__":
    chosen = options(__doc__)
    enter_environment()
    run(chosen).publish(chosen)
