"""A process that delivers dead letters until it is killed.

``postman <file of a queue> ... -- <name of a service>=<its URL> ...``
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from service_utils import ResilientServiceClient, RetryPolicy, ServiceRegistry
from service_utils.dead_letters import DeadLetterQueue, DeadLetterWorker, SQLiteDeadLetters
from service_utils.policies.backoff import fixed

TIMEOUT = 0.3


def clients(urls: Mapping[str, str]) -> ServiceRegistry:
    """One client for each service, in a hurry as everything here."""
    registry = ServiceRegistry()
    for name, url in urls.items():
        ResilientServiceClient(
            url,
            service_name=name,
            name=name,
            registry=registry,
            timeout=TIMEOUT,
            deadline=4 * TIMEOUT,
            recovery_timeout=0.05,
            retry=RetryPolicy(max_attempts=3, backoff=fixed(0.02)),
            raise_for_status=True,
        )
    return registry


def worker(queue: DeadLetterQueue, registry: ServiceRegistry) -> DeadLetterWorker:
    """A worker that does not rest."""
    return DeadLetterWorker(queue, registry, interval=0.05, lease_seconds=2.0, backoff=fixed(0.05))


def main() -> None:
    """Deliver."""
    logging.basicConfig(level=logging.WARNING)
    at = sys.argv.index("--")
    files, services = sys.argv[1:at], dict(each.split("=", 1) for each in sys.argv[at + 1 :])
    registry = clients(services)
    for file in files:
        worker(DeadLetterQueue(SQLiteDeadLetters(Path(file))), registry).start()
    threading.Event().wait()
