"""A signal at any moment of a protected request leaves nothing behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from flask import Flask, Response
from werkzeug.test import create_environ

from service_utils import ServiceRegistry
from service_utils.integrations.flask import Limits, Priority, ServiceUtils, protect
from service_utils.integrations.flask.protection import Protection
from service_utils.testing import FakeClock

FILES = ("flask/protection.py", "flask/gates.py", "flask/admission.py")


class Interrupter:
    """Raises KeyboardInterrupt at the n-th step in the protection, at more places than signals can."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        if not _collecting(frame):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def _collecting(frame: FrameType | None) -> bool:
    """Whether this is the garbage collector's doing: nobody could be told of a signal there."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def interrupted(work: Callable[[], Any], number: int) -> bool:
    """Do the work, interrupted at a step. Returns False when it had fewer steps."""
    tracer, interrupter = sys.gettrace(), Interrupter(number)
    sys.settrace(interrupter)
    try:
        work()
    except KeyboardInterrupt:
        assert interrupter.left <= 0
    finally:
        sys.settrace(tracer)
    return interrupter.left <= 0


def held(protection: Protection) -> list[int]:
    """How many hold a place or wait for one, everywhere."""
    queues = [*protection._house.values(), *(gate.queue for gate in protection._gates if gate.queue)]
    bulkheads = [each for queue in queues for each in (queue.places, queue.hall) if each is not None]
    statuses = [each.get_status() for each in bulkheads]
    probes = [each.get_stats()["half_open_in_use"] for each in protection.breakers.values()]
    return [each["in_flight"] + each["waiting"] for each in statuses] + probes


def view() -> Response:
    """A streamed answer."""

    def body() -> Iterator[str]:
        yield "a"
        yield "b"

    return Response(body())


def request_to(app: Flask, path: str) -> None:
    """One request as a server makes it, which closes what it has got."""
    body = app(create_environ(path), lambda *_: lambda _: None)
    try:
        list(body)
    finally:
        body.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("half_open", [False, True])
def test_a_signal_at_any_step_of_a_request_leaves_nothing_behind(half_open: bool) -> None:
    """Wherever Ctrl-C strikes while a request comes in or goes out, its places and its probe are free."""
    clock, app = FakeClock(), Flask("interrupted")
    ServiceUtils(app, ServiceRegistry(), clock=clock)
    app.add_url_rule("/work", "work", view)
    limits = Limits(
        max_concurrent=1, max_queue_seconds=0.5, failure_threshold=1, priority=Priority.LOW, retry_after=1
    )
    others = Limits(max_concurrent=1, priority=Priority.HIGH)
    protection = protect(app, {"/work": limits, "/other": others}, max_concurrent=4, clock=clock)
    number = 1
    while True:
        protection.breakers["/work"].reset()
        if half_open:
            with pytest.raises(ValueError, match="bug"), protection.breakers["/work"]:
                raise ValueError("bug")
            clock.advance(10)
        more = interrupted(lambda: request_to(app, "/work"), number)
        if any(held(protection)):
            gc.collect()
        assert not any(held(protection)), f"at step {number}"
        if not more:
            break
        number += 1
    assert number > 80
