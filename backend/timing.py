"""Who may use how much of a request's time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service_utils.http.context import (
    bind_context,
    current_deadline,
    current_request_id,
    current_trace,
    unbind_context,
)
from service_utils.policies.deadline import Deadline

__all__ = ["any_time", "within"]


@contextmanager
def within(*, most: float | None = None, keep: float = 0.0) -> Iterator[None]:
    """Give the calls inside less time than the request has.

    It is the inbound deadline that is brought forward: a call it cuts short does not count against the
    service, whose client has limits of its own for that.

    Args:
        most: Seconds for all of them together; None for no limit but the request's.
        keep: Seconds of the request's time that are left when they are up; half of it, if that is less.
    """
    limits = [] if most is None else [Deadline.after(most)]
    inbound = current_deadline()
    if inbound is not None:
        left = inbound.remaining()
        limits.append(Deadline.after(left - min(keep, left / 2)))
    with _deadline(min(limits, key=Deadline.remaining, default=None)):
        yield


@contextmanager
def any_time() -> Iterator[None]:
    """Let the calls inside go on after the request's time is up: for giving back what is not ours."""
    with _deadline(None):
        yield


@contextmanager
def _deadline(deadline: Deadline | None) -> Iterator[None]:
    token = bind_context(request_id=current_request_id(), deadline=deadline, trace=current_trace())
    try:
        yield
    finally:
        unbind_context(token)
