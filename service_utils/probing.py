"""Background probes: finding out that a service is well again without a call of a user.

While the circuit of a client with ``probe=True`` is open, a thread asks the service's health path every few
seconds. An answer closes the circuit; until then no call is let through as a probe, for as long as somebody
asks. Nothing of this runs while the circuit is closed.
"""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import requests

from service_utils.clock import Clock, wait_for
from service_utils.events import CircuitChanged, CircuitState
from service_utils.forks import in_child
from service_utils.policies.breaker import CircuitBreaker
from service_utils.policies.gate import RetryAfterGate
from service_utils.probe_times import ProbeTimes

__all__ = ["Probed", "Prober"]

_logger = logging.getLogger("service_utils")

INTERVAL = 5.0
"""Seconds between two probes on average; no more than the recovery time."""

_SPREAD = 0.5  # a wait is between (1 - it) and (1 + it) times the interval, so that processes drift apart
_HELD_AT_MOST = 10  # recovery times
_MOST_DOUBT = 4  # doublings of the time for which probes are not believed: eight recovery times
_LOOK = 0.5  # seconds after which a process that does not lead its host looks whether it does now
_SLACK = 1.0  # seconds that a probe may take longer than it should before calls are let through again


def _always() -> bool:
    return True


class Probed(Protocol):
    """What the prober needs of a client."""

    breaker: CircuitBreaker
    gate: RetryAfterGate
    name: str
    service_name: str
    timeout: Any

    def probe(self) -> requests.Response:
        """Ask the service once; raises where it is not well."""
        ...


class Prober:
    """Watches the circuit of one client: a listener of its breaker, to be told of it as of all events.

    The health path may be well while the calls are not. So where a circuit opens again within its recovery
    time after it was closed by a probe, probes are not believed before that time is over; and when that
    happens again, not before twice that time, and so on up to eight times. And a health path
    that never answers does not keep a circuit open for ever: after ten recovery times a call is tried after
    all.

    At most one thread probes; it ends with the open spell, with the client, or when that is closed. A forked
    child whose circuit is open has one of its own. Where processes share the circuit only the one that leads
    its host probes; the others are ready to take over.

    Args:
        client: Whom to watch; only a weak reference is kept.
        clock: Where the time comes from.
        interval: Seconds between two probes on average.
        leads: Whether this process is the one that probes; None where there is no other.
        times: Where it says when it probes next; None for a place of its own.

    Attributes:
        times: That place.
    """

    ignores_refusals = True
    ignores_rejections = True

    def __init__(
        self,
        client: Probed,
        clock: Clock,
        interval: float = INTERVAL,
        leads: Callable[[], bool] | None = None,
        times: ProbeTimes | None = None,
    ) -> None:
        self.times = ProbeTimes() if times is None else times
        self._client = weakref.ref(client)
        self._clock = clock
        self._interval = interval
        self._leads: Callable[[], bool] = _always if leads is None else leads
        self._random: Callable[[], float] = random.random
        self._closed = threading.Event()
        self._recovered_at: float | None = None
        self._contradicted = 0  # how often in a row the circuit opened again soon after
        self._watch: _Watch | None = None  # of the last time it opened; earlier ones end
        in_child(self._begin_in_child)

    def wants_routine(self) -> bool:
        """Calls that go well are none of its business."""
        return False

    def close(self) -> None:
        """Probe no more. A probe under way may still end."""
        self._closed.set()

    def __call__(self, event: object) -> None:
        """Begin when the circuit opens."""
        if isinstance(event, CircuitChanged) and event.to_state is CircuitState.OPEN:
            self._weigh(event.at)
            self._begin(event.generation, event.at, event.name)

    def _weigh(self, opened_at: float) -> None:
        """Note whether what a probe said last was true."""
        client, recovered_at = self._client(), self._recovered_at
        if client is None or recovered_at is None:  # what closed it last was no probe
            self._contradicted = 0
            return
        patience = client.breaker.config.recovery_timeout * 2.0**self._contradicted
        self._recovered_at = None
        self._contradicted = (
            min(self._contradicted + 1, _MOST_DOUBT) if opened_at - recovered_at < patience else 0
        )

    def _begin_in_child(self) -> None:
        if self._closed.is_set():
            return
        self._closed = threading.Event()  # the parent's thread may have been about to look at the old one
        client = self._client()
        if client is None or client.breaker.known_state is not CircuitState.OPEN:
            return
        self._begin(client.breaker.generation, self._clock.monotonic(), client.name)

    def _begin(self, generation: int, at: float, name: str) -> None:
        if self._closed.is_set():
            return
        self._watch = watch = _Watch(self, generation, at)
        threading.Thread(target=watch.run, name=f"probe-{name}", daemon=True).start()


class _Watch:
    """One open spell of the circuit, as its thread sees it.

    The spell may get another number, when a store comes back by which it is shared.
    """

    def __init__(self, prober: Prober, generation: int, opened_at: float) -> None:
        self._prober = weakref.ref(prober)
        self._clock = prober._clock
        self._closed = prober._closed
        self._generation = generation
        self._opened_at = opened_at
        self._good = 0

    def run(self) -> None:
        """Wait and ask, until there is nothing left to find out."""
        try:
            while True:
                wait = self._next_wait()
                if wait is None or wait_for(self._closed.wait, wait, self._clock) or not self._go_on():
                    return
        finally:
            alive = self._alive()
            if alive is not None:
                alive[0].times.forget(alive[1].name)

    def _go_on(self) -> bool:
        """Probe, if that is for this process to do. Returns whether to go on."""
        alive = self._alive()
        return alive is not None and (not alive[0]._leads() or self._ask())

    def _alive(self) -> tuple[Prober, Probed] | None:
        prober = self._prober()
        over = prober is None or prober._watch is not self or self._closed.is_set()
        client = None if prober is None or over else prober._client()
        return None if prober is None or client is None else (prober, client)

    def _next_wait(self) -> float | None:
        """Seconds until the next probe, the circuit being held open until after it; None to end."""
        alive = self._alive()
        if alive is None:
            return None
        prober, client = alive
        breaker = client.breaker
        generation = breaker.generation
        if breaker.state is not CircuitState.OPEN:
            return None
        if generation != self._generation:
            self._generation, self._good = generation, 0
        if not prober._leads():
            prober.times.forget(client.name)
            return _LOOK
        interval = min(prober._interval, breaker.config.recovery_timeout)
        wait = max(interval * (1 - _SPREAD + 2 * _SPREAD * prober._random()), client.gate.remaining())
        still_open = self._hold(client, wait) or breaker.state is CircuitState.OPEN
        if still_open:
            prober.times.set(client.name, self._clock.monotonic() + wait)
        return wait if still_open else None

    def _hold(self, client: Probed, wait: float) -> bool:
        """Keep calls from being tried until the next probe is over. Returns whether the spell lasts."""
        timeout = client.timeout
        longest = sum(part or 0.0 for part in timeout) if isinstance(timeout, tuple) else timeout
        held_until = self._opened_at + _HELD_AT_MOST * client.breaker.config.recovery_timeout
        left = held_until - self._clock.monotonic()
        return client.breaker.hold_open(self._generation, max(min(wait + longest + _SLACK, left), 0.0))

    def _ask(self) -> bool:
        """Probe once. Returns whether to go on."""
        alive = self._alive()
        if alive is None:
            return False
        prober, client = alive
        if not self._hold(client, 0.0):
            return True  # whether it is open otherwise is seen before the next one
        try:
            client.probe().close()
        except Exception as error:  # whatever it is, the service was not found well
            _logger.debug("[%s] Health probe failed: %s", client.service_name, error)
            self._good = 0
            return True
        self._good += 1
        config = client.breaker.config
        if self._good < (config.half_open_quota or config.success_threshold) or self._doubted(prober, client):
            return True
        if client.breaker.recover(self._generation):
            prober._recovered_at = self._clock.monotonic()
            return False
        return True

    def _doubted(self, prober: Prober, client: Probed) -> bool:
        """Whether the circuit opened so soon after a probe had closed it that its word is not enough."""
        if not prober._contradicted:
            return False
        patience = client.breaker.config.recovery_timeout * 2.0 ** (prober._contradicted - 1)
        return self._clock.monotonic() - self._opened_at < patience
