"""An app with something to operate on, for the tests of the admin API and of the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flask import Flask

from service_utils import ResilientServiceClient
from service_utils.clock import Clock
from service_utils.dead_letters import DeadLetterQueue, MemoryDeadLetters
from service_utils.degradation import DegradationMonitor, rules_by_share
from service_utils.integrations.flask import ServiceUtils
from service_utils.operating import AuditLog, MemoryHistory
from service_utils.registry import ServiceRegistry
from service_utils.testing import FakeClock

TOKEN = "an-admin-token-for-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Operated:
    """An app and its parts."""

    app: Flask
    chroma: ResilientServiceClient
    queue: DeadLetterQueue
    monitor: DegradationMonitor
    audit: AuditLog
    clock: Clock

    def letter(self, **more: Any) -> str:
        """Put a letter into the queue; returns its id."""
        return self.queue.add("chroma", "POST", "/snapshot?token=hunter2", json={"user": "annika"}, **more)


@contextmanager
def operated(url: str = "http://127.0.0.1:1", **options: Any) -> Iterator[Operated]:
    """Two services, a queue and a monitor, all on one clock."""
    clock = FakeClock()
    registry = ServiceRegistry()
    chroma = ResilientServiceClient(
        url,
        "Chroma Server",
        name="chroma",
        max_retries=1,
        failure_threshold=2,
        health_path="/health",
        registry=registry,
        clock=clock,
    )
    ResilientServiceClient("http://user:hunter2@127.0.0.1:1", "Git Server", name="git", registry=registry)
    queue = DeadLetterQueue(MemoryDeadLetters(), registry=registry, clock=clock)
    monitor = DegradationMonitor(registry, rules_by_share(), clock=clock)
    audit = AuditLog(clock=clock)
    app = Flask("operated")
    ServiceUtils(
        app,
        registry,
        **{
            "degradation": monitor,
            "dead_letters": queue,
            "audit": audit,
            "history": MemoryHistory(),
            "record": False,
            "clock": clock,
            **options,
        },
    )
    try:
        yield Operated(app, chroma, queue, monitor, audit, clock)
    finally:
        registry.close()
