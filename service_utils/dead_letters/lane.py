"""One lane: the letters of one service, or one type of message, worked off oldest first."""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from service_utils.dead_letters.letter import DeadLetter, Lease
from service_utils.dead_letters.post import Post
from service_utils.dead_letters.strategy import Dead, Decision, Delivered, RetryLater, Unsent
from service_utils.policies.backoff import Backoff, apply_jitter
from service_utils.storage import StorageError

__all__ = ["Counts", "Lane", "Pauses"]

_logger = logging.getLogger("service_utils")

_LONGEST_PAUSE = (
    86400.0  # seconds; who asks for more is asked again after a day, lest a letter sleeps for years
)
_SPREAD = 0.25  # of what a service asks for, on top of it, as the client does it
_uniform: Callable[[], float] = random.random  # a name of its own, for tests that want to know what is drawn


@dataclass(slots=True)
class Counts:
    """What became of letters.

    Attributes:
        leased: Taken into hand.
        delivered: Arrived, and gone from the queue.
        retried: Tried in vain; they wait for their next attempt.
        dead: Rest until a person decides.
        skipped: Not tried: given back, or nobody knows their service.
        lost: The lease ran out meanwhile, or the store failed; another worker has them now, or will have.
    """

    leased: int = 0
    delivered: int = 0
    retried: int = 0
    dead: int = 0
    skipped: int = 0
    lost: int = 0

    def add(self, other: Counts) -> None:
        """Add another's numbers to these."""
        for name, number in other.as_dict().items():
            setattr(self, name, getattr(self, name) + number)

    def as_dict(self) -> dict[str, int]:
        """The numbers by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long letters wait.

    Attributes:
        backoff: From the number of attempts made in vain to seconds.
        jitter: Share of it of which a random part is taken off.
        least: Seconds that a letter waits which could not be tried, so that nobody asks in a hot loop.
    """

    backoff: Backoff
    jitter: float
    least: float

    def after_failure(self, attempts: int, at_least: float) -> float:
        """Seconds until a letter that failed is tried again."""
        delay = apply_jitter(self.backoff(attempts), self.jitter, _uniform)
        return min(max(delay, at_least * (1.0 + _SPREAD * _uniform())), _LONGEST_PAUSE)

    def after_refusal(self, at_least: float) -> float:
        """Seconds until one that could not be tried is looked at again."""
        return min(max(self.least, at_least), _LONGEST_PAUSE)


@dataclass(slots=True)
class Lane:
    """Works off one batch after the other, in one thread.

    A letter that must wait makes those behind it wait, too: they are given back. One that is dead does not.

    Args:
        name: The service's or the type's.
        post: Where letters are leased and settled.
        send: Sends a letter once and says what is to become of it.
        pauses: How long letters wait.
        stopping: Set when no further letter shall be begun.
    """

    name: str
    post: Post
    send: Callable[[DeadLetter], Decision]
    pauses: Pauses
    stopping: threading.Event
    counts: Counts = field(default_factory=Counts)
    _waiting: deque[Lease] = field(default_factory=deque)

    def take(self, leases: Sequence[Lease]) -> None:
        """Take a batch into hand, to be worked off or given back."""
        self.counts.leased += len(leases)
        self._waiting.extend(leases)

    def work(self) -> bool:
        """Work off what was taken; what is left of it when this ends, however it ends, is given back.

        Returns:
            Whether the next batch may be begun at once.
        """
        try:
            while not self.stopping.is_set():
                try:
                    lease = self._waiting.popleft()
                except IndexError:
                    return True
                if not self._work_at(lease):
                    return False
            return False
        finally:
            self.give_back(self.counts)

    def give_back(self, counts: Counts) -> None:
        """Give back what is not begun yet. May be called from another thread, too: each is given back once.

        Args:
            counts: Where they are counted as skipped: each thread counts for itself.
        """
        while True:
            try:
                lease = self._waiting.popleft()
            except IndexError:
                return
            counts.skipped += 1
            self._put_back(lease, lease.letter.next_attempt_at)

    def _work_at(self, lease: Lease) -> bool:
        """Send one letter and settle it. Returns whether those behind it may follow."""
        if not self.post.keep(lease):
            self.counts.lost += 1
            return True
        decision: Decision | None = None
        began = self.post.monotonic()
        try:
            decision = self.send(lease.letter)
        finally:
            if decision is None:  # interrupted: whether it has arrived is not known
                self.counts.skipped += 1
                self._put_back(lease, self.post.now() + self.pauses.after_refusal(0.0))
        return self._settle(lease, decision, self.post.monotonic() - began)

    def _settle(self, lease: Lease, decision: Decision, duration: float) -> bool:
        letter = lease.letter
        tried = letter.attempts + 1
        if isinstance(decision, RetryLater) and tried >= letter.max_retries:
            decision = Dead(f"{decision.detail} (attempt {tried} of {letter.max_retries})", decision.status)
        if isinstance(decision, Delivered):
            return self._note("delivered", self.post.delivered(lease, duration))
        if isinstance(decision, Dead):
            return self._note("dead", self.post.dead(lease, decision, duration))
        if isinstance(decision, RetryLater):
            at = self.post.now() + self.pauses.after_failure(tried, decision.at_least)
            self._note("retried", self.post.retry(lease, decision, at, duration))
        else:
            at_least = decision.at_least if isinstance(decision, Unsent) else 0.0
            at = self.post.now() + self.pauses.after_refusal(at_least)
            self._note("skipped", self.post.put_back(lease, at))
        return False

    def _note(self, outcome: str, held: bool) -> bool:
        """Count what became of a letter, and return whether we had a say: a lease that ran out is void."""
        name = outcome if held else "lost"
        setattr(self.counts, name, getattr(self.counts, name) + 1)
        return held

    def _put_back(self, lease: Lease, at: float) -> None:
        """On the way out, where another error may be on its way: the lease runs out in any case."""
        try:
            self.post.put_back(lease, at)
        except StorageError as error:
            _logger.warning("Dead letter %s stays leased until that runs out: %s", lease.letter.id, error)
