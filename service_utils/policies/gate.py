"""The gate that a ``Retry-After`` closes: one answer that asks for a pause is heeded by all callers.

Without it each thread learns by an answer of its own that the service wants to be left alone, and all of them
come back at the same moment.
"""

from __future__ import annotations

import functools
import math
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar

from service_utils.clock import Clock
from service_utils.errors import RateLimitedError, ServiceUnavailable
from service_utils.events import CallsPaused, Listener, RateLimited, notify
from service_utils.forks import guard
from service_utils.policies.checks import (
    checked_clock,
    checked_label,
    checked_listeners,
    require_blocking,
    require_fraction,
    require_number,
    require_seconds,
)
from service_utils.policies.deadline import Deadline, require_deadline

__all__ = ["RetryAfterGate"]

P = ParamSpec("P")
T = TypeVar("T")

_uniform: Callable[[], float] = random.random  # a name of its own, for tests that want to know what is drawn


class Pausing(Protocol):
    """What several processes know of a pause."""

    @property
    def pause_until(self) -> float:
        """When it ends, on the monotonic clock; 0.0 for none."""
        ...

    @property
    def pause_seconds(self) -> float:
        """How long the service has asked for."""
        ...


class RetryAfterGate:
    """Open until somebody is told to come back later; then closed for all until that time has passed.

    For any number of threads. A forked child goes on with what its parent knew.

    Args:
        max_seconds: The longest pause that is heeded; more is cut down to it. 0 heeds none.
        jitter: Share of the seconds asked for, 0 to 1, of which a random part is added to each caller's wait,
            so that those who waited do not come back all at once.
        name: Short name, for events.
        label: Display name, for errors and events; default: the name.
        clock: Whose seconds count.
        listeners: Told besides those of the process.

    Attributes:
        closed: Whether somebody has to look: False is certain, True may be over (see :meth:`remaining`).

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    __slots__ = (
        *("__weakref__", "_adopted", "_asked", "_clock", "_listeners", "_lock", "_rejected"),
        *("_tell_others", "_until"),
        *("closed", "jitter", "label", "max_seconds", "name"),
    )

    def __init__(
        self,
        max_seconds: float = 60.0,
        jitter: float = 0.25,
        *,
        name: str = "retry-after",
        label: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        require_seconds("max_seconds", max_seconds)
        require_fraction("jitter", jitter)
        self.max_seconds = max_seconds
        self.jitter = jitter
        self.name, self.label = checked_label(name, label)
        self.closed = False
        self._clock = checked_clock(clock)
        self._listeners = checked_listeners(listeners)
        self._lock = threading.RLock()
        self._until = -math.inf  # a monotonic clock may begin anywhere, also below 0
        self._asked = 0.0
        self._rejected = 0
        self._tell_others: Callable[[float, float], object] | None = None
        self._adopted = 0.0
        guard(self)

    def share(self, tell_others: Callable[[float, float], object]) -> None:
        """Have other processes told of pauses.

        Args:
            tell_others: Given the moment at which the gate opens, on the monotonic clock, and the seconds
                asked for.
        """
        self._tell_others = tell_others

    def adopt(self, record: Pausing) -> None:
        """Be as closed as another process has found it to be, or open if it was opened by hand there."""
        until = record.pause_until
        with self._lock:
            if until == self._adopted:
                return
            self._adopted = until
            if until > self._until or not until:
                self._until = until or -math.inf
                self._asked = record.pause_seconds
                self.closed = bool(until)

    def _renew_in_child(self) -> None:
        self._rejected = 0

    def close(self, seconds: float) -> None:
        """Have everybody pause for so many seconds from now; a longer pause that is on stays as it is.

        Raises:
            TypeError: ``seconds`` is no number.
            ValueError: ``seconds`` is negative or NaN.
        """
        require_number("seconds", seconds)
        if not seconds >= 0:
            raise ValueError(f"seconds={seconds!r}: must be a number of seconds >= 0")
        pause = min(seconds, self.max_seconds)
        now = self._clock.monotonic()
        with self._lock:
            if pause <= 0 or now + pause <= self._until:
                return
            was_open = not self.closed or now >= self._until
            self._until, self._asked, self.closed = now + pause, pause, True
        if self._tell_others is not None:
            self._tell_others(now + pause, pause)
        if was_open:
            notify(self._listeners, CallsPaused(service=self.label, name=self.name, at=now, seconds=pause))

    def reset(self) -> None:
        """Open the gate by hand."""
        with self._lock:
            self._until, self.closed = -math.inf, False

    def remaining(self) -> float:
        """Seconds until the gate opens; 0.0 when it is open."""
        return self._look()[0]

    def delay(self, most: float = math.inf) -> float:
        """Seconds that one caller should stay away: the rest of the pause and a random part of ``jitter``.

        0.0 when the gate is open. Another number at each call.

        Args:
            most: Seconds he has. The random part leaves room within them; the rest of the pause may be more.
        """
        remaining, asked = self._look()
        if remaining <= 0:
            return 0.0
        return remaining + max(min(self.jitter * asked, most - remaining), 0.0) * _uniform()

    def _look(self) -> tuple[float, float]:
        """The rest of the pause and how long it was; the gate opens when nothing is left."""
        if not self.closed:
            return 0.0, 0.0
        now = self._clock.monotonic()
        with self._lock:
            left = self._until - now
            if left > 0:
                return left, self._asked
            self.closed = False
            return 0.0, 0.0

    def refusal(self, retry_after: float | None = None) -> RateLimitedError:
        """The error for a caller who cannot wait; it is counted and told. Raising it is left to the caller.

        Args:
            retry_after: Seconds after which to come back; default: the rest of the pause.
        """
        seconds = self.remaining() if retry_after is None else retry_after
        with self._lock:
            self._rejected += 1
        now = self._clock.monotonic()
        event = RateLimited(
            service=self.label, name=self.name, at=now, retry_after=seconds, reason="Retry-After"
        )
        notify(self._listeners, event)
        message = f"{self.label}: the service has asked for a pause, next try in {seconds:.1f} s"
        return RateLimitedError(message, service=self.label, retry_after=seconds)

    def wait(self, deadline: Deadline | None = None) -> float:
        """Wait until the gate is open.

        Args:
            deadline: When there is no sense in waiting on; None waits for ``max_seconds`` and the jitter.

        Returns:
            Seconds it has waited.

        Raises:
            RateLimitedError: That would take too long; nothing has been waited for then, unless the pause
                was made longer meanwhile.
            TypeError: ``deadline`` is no :class:`Deadline`.
        """
        require_deadline(deadline)
        waited, most = 0.0, self.max_seconds * (1.0 + self.jitter)
        while True:
            left = most - waited if deadline is None else deadline.remaining()
            delay = self.delay(left)
            if delay <= 0:
                break
            if delay > left:
                raise self.refusal()
            self._clock.sleep(delay)
            waited += delay
        return waited

    def call(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function once the gate is open. An exception with seconds as ``.retry_after`` closes it.

        Not that of a :class:`ServiceUnavailable`: those are our own refusals, and no service has asked for
        anything.

        Raises:
            RateLimitedError: Waiting would take too long.
            TypeError: Such a function would not run in here.
            Exception: Whatever the function raises.
        """
        require_blocking(func, "the end of a pause")
        self.wait()
        try:
            return func(*args, **kwargs)
        except Exception as error:
            seconds: Any = getattr(error, "retry_after", None)
            if _is_a_wait(seconds) and not isinstance(error, ServiceUnavailable):
                self.close(seconds)
            raise

    def __call__(self, func: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function: see :meth:`call`."""
        require_blocking(func, "the end of a pause")

        @functools.wraps(func)
        def gated(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.call(func, *args, **kwargs)

        return gated

    def get_status(self) -> dict[str, Any]:
        """JSON-ready: ``closed``, ``remaining`` (seconds) and ``rejected``."""
        remaining = self.remaining()
        return {"closed": remaining > 0, "remaining": remaining, "rejected": self._rejected}

    def __repr__(self) -> str:
        return f"<RetryAfterGate {self.name!r} {'closed' if self.remaining() > 0 else 'open'}>"


def _is_a_wait(value: Any) -> bool:
    """Whether what an exception of somebody else's calls ``retry_after`` can be seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
