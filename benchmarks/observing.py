"""What it costs a call to be seen: CPU time of the caller's thread, beside plain requests and its spans.

    python -m benchmarks.observing

All contenders take turns within one run, so that what else the machine does is spread over them. Spans are
sampled and ended, and exported to nobody.
"""

from __future__ import annotations

import io
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from service_utils import ResilientServiceClient, configure_logging
from service_utils.integrations.opentelemetry import instrument
from service_utils.integrations.prometheus import Metrics
from service_utils.registry import ServiceRegistry
from service_utils.testing import FaultServer

ROUNDS = 15
CALLS = 200


@contextmanager
def counted() -> Iterator[None]:
    metrics = Metrics(ServiceRegistry())
    metrics.listen()
    try:
        yield
    finally:
        metrics.stop()


@contextmanager
def traced() -> Iterator[None]:
    end = instrument(TracerProvider())
    try:
        yield
    finally:
        end()


@contextmanager
def logged() -> Iterator[None]:
    """Every attempt and every success is a line of JSON, with secrets looked for."""
    logger = logging.getLogger("service_utils")
    handler = configure_logging(
        level="DEBUG", stream=io.StringIO(), logger="service_utils", secrets=["s3cr3t!"]
    )
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.WARNING)


@contextmanager
def instrumented() -> Iterator[None]:
    RequestsInstrumentor().instrument(tracer_provider=TracerProvider())
    try:
        yield
    finally:
        RequestsInstrumentor().uninstrument()


@contextmanager
def nothing() -> Iterator[None]:
    yield


def cost(call: Callable[[], object]) -> float:
    """Microseconds of this thread's CPU per call."""
    began = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - began) / CALLS * 1e6


def main() -> None:
    with FaultServer() as server, ExitStack() as stack, requests.Session() as session:
        client = ResilientServiceClient(server.url, "Service", registry=ServiceRegistry())
        stack.callback(client.close)
        contenders = {
            "the client": (nothing, lambda: client.get("/x")),
            "the client, metrics": (counted, lambda: client.get("/x")),
            "the client, a span per call": (traced, lambda: client.get("/x")),
            "the client, all lines as JSON": (logged, lambda: client.get("/x")),
            "a requests session": (nothing, lambda: session.get(f"{server.url}/x", timeout=5)),
            "a requests session, instrumented": (
                instrumented,
                lambda: session.get(f"{server.url}/x", timeout=5),
            ),
        }
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, (seen, call) in contenders.items():
                with seen():
                    call()
                    found[name].append(cost(call))
    plain = statistics.median(found["a requests session"])
    print(f"{'':34} {'µs of CPU':>10} {'of a requests session':>22}")
    for name, costs in found.items():
        median = statistics.median(costs)
        print(f"{name:34} {median:10.1f} {median / plain:21.2f}×")


if __name__ == "__main__":
    main()
