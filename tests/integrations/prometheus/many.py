"""A server of its own making, with prometheus_client in multiprocess mode: run as a program by the tests.

``python -m tests.integrations.prometheus.many SCENE`` prints what comes of a scene, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.degradation import DegradationLevel, DegradationMonitor, Rule, is_open
from service_utils.events import HealthChecked, notify
from service_utils.health import HealthChecker
from service_utils.integrations.prometheus import Metrics
from service_utils.integrations.shared_memory import SharedMemoryStore
from service_utils.testing import FaultServer
from tests.integrations.prometheus.pages import check_openmetrics, page_of

registry = ServiceRegistry()
monitor = DegradationMonitor(registry, [Rule(DegradationLevel.SEVERE, is_open("chroma"), "Chroma away")])
checker = HealthChecker()
checker.register("disk", lambda: True)
metrics = Metrics(registry, degradation=monitor, health=checker)


class Worker:
    """A forked child that does something and then waits to be killed."""

    def __init__(self, work: Callable[[], Any]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                keep = work()  # what it returns lives as long as the child
                os.write(writing, b"+")
                signal.pause()
                del keep
            finally:
                os._exit(1)
        os.close(writing)
        assert os.read(reading, 1) == b"+"
        os.close(reading)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def client(url: str = "http://127.0.0.1:1", **options: Any) -> ResilientServiceClient:
    return ResilientServiceClient(url, "Chroma", max_retries=1, registry=registry, **options)


def state() -> str:
    (found,) = page_of(metrics).of("circuit_breaker_state")
    return found[1]


def sums() -> Any:
    """Counts of living and dead workers."""
    chroma = client()

    def call() -> None:
        for _ in range(3):
            with suppress(requests.RequestException):
                chroma.get("/query")

    workers = [Worker(call) for _ in range(3)]
    call()
    name = "circuit_breaker_requests_total"
    before = page_of(metrics).value(name, service="chroma", outcome="failure")
    for worker in workers:
        worker.kill()
    return [before, page_of(metrics).value(name, service="chroma", outcome="failure")]


def circuits() -> Any:
    """A circuit of each worker's own: the worst of those that live is shown."""
    chroma = client()
    seen = [state()]
    opened = Worker(lambda: chroma.breaker.force_open("x"))
    disabled = Worker(lambda: chroma.breaker.disable("x"))
    seen.append(state())
    opened.kill()
    seen.append(state())
    disabled.kill()
    seen.append(state())
    chroma.breaker.force_open("x")
    heir = Worker(lambda: None)
    chroma.breaker.reset()
    seen.append(state())
    heir.kill()
    return [*seen, state()]


def slots() -> Any:
    """Slots of bulkheads, taken in workers that live."""
    with FaultServer() as server:
        server.script()
        chroma = client(server.url, bulkhead=4)
        seen = []

        def hold() -> Any:
            entered: list[Any] = []
            import threading

            arrived, go_on = threading.Event(), threading.Event()

            def hook(response: Any, **_: Any) -> None:
                arrived.set()
                go_on.wait()

            thread = threading.Thread(
                target=lambda: chroma.get("/query", hooks={"response": hook}), daemon=True
            )
            thread.start()
            assert arrived.wait(20.0)
            entered.append(thread)
            return entered

        chroma.get("/query")
        seen.append(page_of(metrics).value("bulkhead_in_flight", service="chroma"))
        first, second = Worker(hold), Worker(hold)
        seen.append(page_of(metrics).value("bulkhead_in_flight", service="chroma"))
        first.kill()
        seen.append(page_of(metrics).value("bulkhead_in_flight", service="chroma"))
        second.kill()
        return [*seen, page_of(metrics).value("bulkhead_in_flight", service="chroma")]


def level() -> Any:
    """A monitor of each worker's own: the worst level is shown."""
    client()
    seen = [page_of(metrics).value("system_degradation_level")]
    worker = Worker(lambda: monitor.override("severe", reason="test", author="test"))
    seen.append(page_of(metrics).value("system_degradation_level"))
    worker.kill()
    return [*seen, page_of(metrics).value("system_degradation_level")]


def shared() -> Any:
    """What workers share is true for all, whoever has decided it, and whoever of them lives."""
    store = SharedMemoryStore(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / "circuits")
    chroma = client(store=store)
    common = DegradationMonitor(registry, monitor.rules, share=store)
    together = Metrics(registry, degradation=common)
    together.listen()

    def look() -> list[Any]:
        page = page_of(together)
        (found,) = page.of("circuit_breaker_state")
        changes = page.of("circuit_breaker_transitions_total").get(("closed", "chroma", "forced_open"))
        return [found[1], page.value("system_degradation_level"), changes]

    def decide() -> None:
        chroma.breaker.force_open("x")
        common.override("severe", reason="test", author="test")

    seen = [look()]
    bystander = Worker(lambda: None)
    worker = Worker(decide)
    seen.append(look())
    worker.kill()
    seen.append(look())
    witness = Worker(look)  # has heard of it, and hears no more
    common.clear_override(author="test")
    chroma.reset()
    seen.append(look())
    bystander.kill()
    witness.kill()
    store.close()
    return seen


def health() -> Any:
    """The last result of whichever worker; checks that nobody has registered here are not shown."""

    def tell(check: str, status: str) -> None:
        event = HealthChecked(service="h", name="h", at=0.0, check=check, status=status, duration=0.1)
        notify((), event)

    seen = [page_of(metrics).get("health_check_status", check="disk")]
    checker.check_all()
    seen.append(page_of(metrics).get("health_check_status", check="disk"))
    worker = Worker(lambda: tell("disk", "unhealthy"))
    other = Worker(lambda: tell("another", "healthy"))
    seen.append(page_of(metrics).get("health_check_status", check="disk"))
    seen.append(page_of(metrics).get("health_check_status", check="another"))
    worker.kill()
    other.kill()
    return [*seen, page_of(metrics).get("health_check_status", check="disk")]


def twice() -> Any:
    """Two applications in one process, one of which goes: each call is counted once."""
    second = Metrics(ServiceRegistry())
    second.listen()
    chroma = client()
    for _ in range(2):
        with suppress(requests.RequestException):
            chroma.get("/query")
        second.stop()
    metrics.stop()
    with suppress(requests.RequestException):
        chroma.get("/query")
    return page_of(metrics).value("circuit_breaker_requests_total", service="chroma", outcome="failure")


def spoiled() -> Any:
    """Files of processes that were killed before they wrote anything."""
    client()
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    for name in ("counter_1.db", "histogram_1.db", "gauge_livemax_1.db"):
        (folder / name).touch()
    body, _ = metrics.exposition("application/openmetrics-text")
    check_openmetrics(body)
    names = page_of(metrics).names()
    return ["circuit_breaker_severity" in names, "circuit_breaker_state" in names]


if __name__ == "__main__":
    metrics.listen()
    print(json.dumps(globals()[sys.argv[1]]()))
    registry.close()
