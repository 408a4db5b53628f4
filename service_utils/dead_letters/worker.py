"""DeadLetterWorker: sends kept letters again, each service's in their order, as long as it is well."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from service_utils.clock import Clock, wait_for
from service_utils.dead_letters.crew import Crew, report
from service_utils.dead_letters.expiry import Expiry
from service_utils.dead_letters.lane import Counts, Lane, Pauses
from service_utils.dead_letters.letter import MESSAGE, DeadLetter, Lease
from service_utils.dead_letters.post import Post
from service_utils.dead_letters.queue import DeadLetterQueue
from service_utils.dead_letters.sending import Handler, Sender
from service_utils.dead_letters.strategy import Decision, Unsent
from service_utils.events import CircuitState
from service_utils.forks import guard
from service_utils.policies.backoff import Backoff, exponential
from service_utils.policies.checks import (
    checked_clock,
    require_blocking,
    require_count,
    require_fraction,
    require_seconds,
)
from service_utils.policies.deadline import Deadline
from service_utils.registry import ServiceRegistry, default_registry

__all__ = ["BACKOFF", "DeadLetterWorker"]

_logger = logging.getLogger("service_utils")

BACKOFF = exponential(base=10.0, factor=3.0, cap=1800.0)
"""Five attempts within seven minutes: longer than a restart takes, and than a circuit stays open."""


class DeadLetterWorker:
    """Works off a queue: calls by the clients of a registry, messages by handlers.

    Any number of workers, in any number of processes, may work off one queue; a letter is in the hands of one
    of them at a time. Per service letters go out oldest first, one after the other, each in one attempt that
    may take half of the lease. Services do not wait for each other.

    Delivery is at least once: a worker that dies between the service's answer and its own note of it leaves a
    letter that is sent again, with the same idempotency key.

    **Handlers** get a message's payload, and have dealt with it when they return. One that raises is called
    again after a back-off. It must come to an end within half of the lease: when the lease runs out, another
    worker may take the message, and the word of the first one is void.

    Args:
        queue: What to work off.
        registry: Whose clients send the calls; the registry of the process by default.
        interval: Seconds between two looks at the queue.
        batch_size: How many letters of a service are taken into hand at once.
        lease_seconds: For how long a letter is ours; one attempt may take half of it.
        backoff: From the number of attempts made in vain to seconds.
        jitter: Share of that of which a random part is taken off.
        clock: Where the time comes from.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        queue: DeadLetterQueue,
        registry: ServiceRegistry | None = None,
        interval: float = 5.0,
        batch_size: int = 20,
        *,
        lease_seconds: float = 60.0,
        backoff: Backoff = BACKOFF,
        jitter: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        _check_collaborators(queue, registry, backoff)
        require_seconds("interval", interval, zero=False)
        require_count("batch_size", batch_size)
        require_seconds("lease_seconds", lease_seconds, zero=False)
        require_fraction("jitter", jitter)
        self._registry = default_registry() if registry is None else registry
        self._clock = checked_clock(clock)
        self._interval = interval
        self._batch_size = batch_size
        self._post = Post(queue, lease_seconds, self._clock, self._label)
        self._expiry = Expiry(queue, self._clock)
        self._sender = Sender(lease_seconds / 2, self._clock)
        self._pauses = Pauses(backoff, jitter, interval)
        self._handlers: dict[str, Handler] = {}
        self._strangers: frozenset[str] = frozenset()
        self._counts = Counts()
        self._lock = threading.RLock()
        self._begin_process()
        guard(self)

    def _begin_process(self) -> None:
        self._thread: threading.Thread | None = None
        self._crew: Crew | None = None

    def _renew_in_child(self) -> None:
        """No thread goes along into a child; there it works when it is started there."""
        self._begin_process()

    # -- what is told it ----------------------------------------------------------------------------

    def register(self, type: str, handler: Handler) -> None:
        """Have messages of a type given to a handler, in place of an earlier one.

        Args:
            type: The type that they were added with.
            handler: Takes the payload; see the class.

        Raises:
            TypeError: It cannot be called, or does not do its work before it returns.
            ValueError: ``type`` is no name.
        """
        if not isinstance(type, str) or not type.strip():
            raise ValueError(f"type={type!r}: must be a non-empty string")
        require_blocking(handler, "a message")
        with self._lock:
            self._handlers = {**self._handlers, type: handler}

    @property
    def counts(self) -> dict[str, int]:
        """What became of all letters so far, as :meth:`run_once` tells it of one round."""
        with self._lock:
            return self._counts.as_dict()

    @property
    def running(self) -> bool:
        """Whether it works in a thread of this process, and was not told to stop."""
        thread, crew = self._thread, self._crew
        return thread is not None and thread.is_alive() and crew is not None and not crew.stopping.is_set()

    # -- one round ----------------------------------------------------------------------------------

    def run_once(self) -> dict[str, int]:
        """Work off one batch of each service that is well, and wait until that is done.

        Returns:
            ``leased`` letters, and what became of them: ``delivered``, ``retried`` (tried in vain),
            ``dead``, ``skipped`` (not tried, or of services that nobody knows) and ``lost`` (another worker
            has them now).

        Raises:
            StorageError: The queue cannot be read or written.
        """
        counts = Counts()
        crew = Crew(self._make_lane, _no_more, counts.add)
        try:
            self._begin_round(crew, counts)
            crew.wait()
        except BaseException:
            crew.stop()
            raise
        finally:
            errors = crew.collect()
            self._count(counts)
        if errors:
            raise errors[0]
        return counts.as_dict()

    def _begin_round(self, crew: Crew, counts: Counts) -> None:
        """Begin a lane for each service that has letters and is well, unless it is at work still."""
        self._expiry.look()
        waiting = self._post.waiting()
        known = {*self._registry.names(), *self._handlers}
        self._note_strangers({name: count for name, count in waiting.items() if name not in known}, counts)
        for name in waiting:
            if name not in known or crew.busy(name):
                continue
            leases = self._next_batch(name)
            if leases:
                crew.begin(name, leases)

    def _note_strangers(self, strangers: Mapping[str, int], counts: Counts) -> None:
        """Letters that nobody here can send stay; each name is told once, until it is known."""
        counts.skipped += sum(strangers.values())
        for name in strangers.keys() - self._strangers:
            count = strangers[name]
            stay = "dead letter stays where it is" if count == 1 else "dead letters stay where they are"
            _logger.warning("No client and no handler is named %r: %d %s", name, count, stay)
        self._strangers = frozenset(strangers)

    def _next_batch(self, name: str) -> list[Lease]:
        room = self._room(name)
        return self._post.lease(name, room) if room else []

    def _room(self, name: str) -> int:
        """How many letters may be taken into hand. A service whose circuit is tried gets one as the probe."""
        client = self._registry.get(name)
        state = CircuitState.CLOSED if client is None else client.state
        if client is None or state in (CircuitState.CLOSED, CircuitState.DISABLED):
            return self._batch_size
        if state is CircuitState.HALF_OPEN:
            return 1
        waits = state is CircuitState.FORCED_OPEN or client.breaker.get_stats()["cooldown_remaining"] > 0
        return 0 if waits else 1

    def _make_lane(self, name: str, stopping: threading.Event) -> Lane:
        return Lane(name, self._post, self._send, self._pauses, stopping)

    def _send(self, letter: DeadLetter) -> Decision:
        if letter.kind == MESSAGE:
            handler = self._handlers.get(letter.service)
            if handler is not None:
                return self._sender.handle(handler, letter)
        else:
            client = self._registry.get(letter.service)
            if client is not None:
                return self._sender.call(client, letter)
        return Unsent(f"nobody here can deliver it to {letter.service!r}")

    def _label(self, name: str) -> str:
        """What log lines call a service: its client's display name."""
        client = self._registry.get(name)
        return name if client is None else client.service_name

    def _count(self, counts: Counts) -> None:
        with self._lock:
            self._counts.add(counts)

    # -- in a thread --------------------------------------------------------------------------------

    def start(self) -> None:
        """Work in a thread of this process until :meth:`stop`; if it does already, nothing is changed.

        A forked child has no such thread: start it there (gunicorn: in ``post_worker_init``).
        """
        with self._lock:
            if self.running:
                return
            self._crew = crew = Crew(self._make_lane, self._next_batch, self._count)
            self._thread = threading.Thread(target=self._run, args=(crew,), name="dead-letters", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Begin no further letter, give back what was not begun, and wait for the letters in hand.

        Args:
            timeout: Seconds to wait at most. A letter that takes longer is settled when it ends after all, or
                is sent again when its lease has run out.

        Returns:
            Whether all has ended.

        Raises:
            TypeError: ``timeout`` is not a number.
            ValueError: It is negative.
        """
        require_seconds("timeout", timeout)
        with self._lock:
            thread, crew = self._thread, self._crew
        if thread is None or crew is None:
            return True
        crew.stop()
        deadline = Deadline.after(timeout)
        if thread is not threading.current_thread():
            thread.join(deadline.remaining())
        return crew.wait(deadline) and not thread.is_alive()

    def _run(self, crew: Crew) -> None:
        try:
            while not crew.stopping.is_set():
                self._look(crew)
                wait_for(crew.stopping.wait, self._interval, self._clock)
        finally:
            crew.stop()
            crew.wait()
            report(crew.collect())

    def _look(self, crew: Crew) -> None:
        """One look at the queue. Whatever goes wrong, the next one comes."""
        errors = crew.collect()
        try:
            self._begin_round(crew, Counts())
        except Exception as error:
            errors.append(error)
        report(errors)

    def __repr__(self) -> str:
        return f"<DeadLetterWorker {'running' if self.running else 'idle'} {self.counts}>"


def _no_more(name: str) -> list[Lease]:
    """After the batch of a single round."""
    return []


def _check_collaborators(queue: object, registry: object, backoff: object) -> None:
    if not isinstance(queue, DeadLetterQueue):
        raise TypeError(f"queue={queue!r}: must be a DeadLetterQueue")
    if registry is not None and not isinstance(registry, ServiceRegistry):
        raise TypeError(f"registry={registry!r}: must be a ServiceRegistry")
    if not callable(backoff):
        raise TypeError(f"backoff={backoff!r}: must be a function from a number of attempts to seconds")
