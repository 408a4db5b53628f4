"""The worker as a process of its own: works until it is told to stop, and finishes the letter in hand."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from urllib.parse import urlsplit

from service_utils.client import ResilientServiceClient
from service_utils.dead_letters.queue import DeadLetterQueue
from service_utils.dead_letters.tables import say, write_json
from service_utils.dead_letters.worker import DeadLetterWorker
from service_utils.http.tokens import get_internal_headers, is_internal_host
from service_utils.registry import ServiceRegistry

__all__ = ["Plan", "run_until_told"]

_logger = logging.getLogger("service_utils")

_MARGIN = 5.0  # seconds beyond half a lease, in which a letter in hand has certainly come to its end
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker process is to do.

    Attributes:
        clients: Short name and address of each service.
        interval: Seconds between two looks.
        batch_size: Letters taken at once.
        lease_seconds: For how long a letter is ours.
        once: Whether one batch of each service is all.
        json: Whether what it has to say at the end is JSON.
    """

    clients: Sequence[tuple[str, str]]
    interval: float
    batch_size: int
    lease_seconds: float
    once: bool
    json: bool


def run_until_told(queue: DeadLetterQueue, plan: Plan) -> bool:
    """Work off a queue until SIGTERM or SIGINT, or once. Log lines go to standard error.

    Returns:
        Whether the letters in hand came to their end.

    Raises:
        StorageError: The file cannot be used.
        ValueError: An address cannot be one.
    """
    _log_to_stderr()
    registry = ServiceRegistry()
    try:
        for name, url in plan.clients:
            ResilientServiceClient(url, service_name=name, name=name, registry=registry)
        worker = DeadLetterWorker(
            queue,
            registry,
            plan.interval,
            plan.batch_size,
            lease_seconds=plan.lease_seconds,
        )
        _warn_without_token(registry)
        with _told_to_stop() as told:
            ended = _once(worker) if plan.once else _until(told, worker, plan.lease_seconds / 2 + _MARGIN)
        _close(worker.counts, plan)
        return ended
    finally:
        registry.close()


def _once(worker: DeadLetterWorker) -> bool:
    worker.run_once()
    return True


def _warn_without_token(registry: ServiceRegistry) -> None:
    """A 401 is the end of a letter: whoever has forgotten the token should read it before that."""
    for client in registry:
        if is_internal_host(urlsplit(client.base_url).hostname or "") and not get_internal_headers():
            text = "INTERNAL_SERVICE_TOKEN is not set: what %s answers with 401 is dead at once"
            _logger.warning(text, client.name)


def _until(told: threading.Event, worker: DeadLetterWorker, patience: float) -> bool:
    say(f"Working off dead letters as process {os.getpid()}, until SIGTERM or Ctrl-C.")
    sys.stdout.flush()
    worker.start()
    told.wait()
    return worker.stop(patience)


def _close(counts: dict[str, int], plan: Plan) -> None:
    """The closing line."""
    if plan.json:
        write_json(counts)
    else:
        told = ", ".join(f"{number} {name}" for name, number in counts.items() if name != "leased")
        say(f"Done: {told}.")


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends the process as usual."""
    told = threading.Event()
    before = {each: signal.getsignal(each) for each in _SIGNALS}

    def tell(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        told.set()

    for each in _SIGNALS:
        signal.signal(each, tell)
    try:
        yield told
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _log_to_stderr() -> None:
    """Where nobody has set up logging, show what happens."""
    logger = logging.getLogger("service_utils")
    if not logging.getLogger().handlers and not logger.handlers:
        logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
        logger.setLevel(logging.INFO)
