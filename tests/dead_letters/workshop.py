"""What tests of the worker share: a queue, a registry and a worker on a clock that obeys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service_utils.client import ResilientServiceClient
from service_utils.clock import Clock
from service_utils.dead_letters import DeadLetter, DeadLetterQueue, DeadLetterWorker, MemoryDeadLetters
from service_utils.events import DeadLetterSettled
from service_utils.policies.backoff import fixed
from service_utils.registry import ServiceRegistry
from service_utils.testing import FakeClock, FaultServer

PATIENCE = 20.0  # real seconds


class Workshop:
    """A queue in memory with a worker on a clock that obeys.

    Attributes:
        events: What was settled, in order: id, outcome, attempts.
    """

    def __init__(self, clock: Clock | None = None, **options: Any) -> None:
        self.clock = FakeClock() if clock is None else clock
        self.events: list[tuple[str, str, int]] = []
        self.store = MemoryDeadLetters()
        self.queue = DeadLetterQueue(self.store, listeners=[self._hear], clock=self.clock)
        self.registry = ServiceRegistry()
        settings: dict[str, Any] = {"backoff": fixed(10.0), "jitter": 0.0, **options}
        self.worker = DeadLetterWorker(self.queue, self.registry, clock=self.clock, **settings)

    def client(self, server: FaultServer, name: str = "git", **options: Any) -> ResilientServiceClient:
        """A client of a service; it is closed with the workshop."""
        settings: dict[str, Any] = {"service_name": name.title(), "token_provider": None, **options}
        return ResilientServiceClient(
            server.url, name=name, registry=self.registry, clock=self.clock, **settings
        )

    def letter(self, id: str) -> DeadLetter:
        """A letter that must be there."""
        letter = self.queue.get(id)
        assert letter is not None
        return letter

    def due_in(self, id: str) -> float:
        """Seconds until a letter's next attempt."""
        return self.letter(id).next_attempt_at - self.clock.now().timestamp()

    def close(self) -> None:
        """Stop the worker and close the clients."""
        self.worker.stop()
        self.registry.close()

    def _hear(self, event: object) -> None:
        if isinstance(event, DeadLetterSettled):
            self.events.append((event.letter_id, event.outcome, event.attempts))


def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens in another thread or process."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.005)


@pytest.fixture
def shop() -> Iterator[Workshop]:
    """A queue, a registry and a worker; to be imported by the modules that use it."""
    workshop = Workshop()
    yield workshop
    workshop.close()
