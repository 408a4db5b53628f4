"""DeadLetterQueue: what could not be delivered or processed, kept until it is or until a person decides."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from service_utils.clock import Clock
from service_utils.dead_letters.errors import LetterTooOld, UnknownLetter
from service_utils.dead_letters.letter import DeadLetter, LetterStatus
from service_utils.dead_letters.making import LetterMaker
from service_utils.dead_letters.store import DAY, DeadLetterStore, Letters, Limits, Selection
from service_utils.events import DeadLetterAdded, DeadLetterSettled, Listener, notify
from service_utils.policies.checks import (
    checked_clock,
    checked_listeners,
    require_count,
    require_seconds,
)
from service_utils.registry import ServiceRegistry, default_registry

__all__ = ["MAX_BODY", "DeadLetterQueue"]

_logger = logging.getLogger("service_utils")

MAX_BODY: Final = 10 * 2**20
KEYS_ARE_REMEMBERED: Final = 30 * DAY
"""How long receivers remember an idempotency key; see :mod:`service_utils.idempotency`."""

_PURGED_AT_ONCE = 500


class DeadLetterQueue:
    """Keeps failed calls and other messages durably, for a :class:`DeadLetterWorker` and for people.

    All methods may be called from any thread, and in a forked child. Methods that touch the store raise
    :class:`~service_utils.storage.StorageError` when that cannot be read or written; nothing is ever dropped
    in silence.

    Args:
        store: Where the letters are.
        max_letters: How many it holds, dead ones too.
        max_bytes: How many bytes of bodies, kept answers, paths and headers.
        max_body: The largest body in bytes.
        max_age: Seconds after which :meth:`expire` removes a letter.
        listeners: Told of each :class:`DeadLetterAdded` and :class:`DeadLetterSettled`, besides the listeners
            of the process.
        registry: Whose clients' display names log lines use, besides those of clients that were given this
            queue; the registry of the process by default.
        clock: Where the time comes from.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        *,
        max_letters: int = 100_000,
        max_bytes: int = 2**30,
        max_body: int = MAX_BODY,
        max_age: float = 7 * DAY,
        listeners: Iterable[Listener] = (),
        registry: ServiceRegistry | None = None,
        clock: Clock | None = None,
    ) -> None:
        for method in ("add", "lease", "settle", "stats"):
            if not callable(getattr(store, method, None)):
                raise TypeError(f"store={store!r}: must be a DeadLetterStore, with a method {method}()")
        require_count("max_letters", max_letters)
        require_count("max_bytes", max_bytes)
        require_count("max_body", max_body)
        require_seconds("max_age", max_age, zero=False)
        self.store = store
        self.max_age = max_age
        self.max_body = max_body
        self.limits = Limits(max_letters=max_letters, max_bytes=max_bytes)
        self._registry = default_registry() if registry is None else registry
        self._labels: dict[str, str] = {}
        self.clock = checked_clock(clock)
        self._maker = LetterMaker(max_body, self.clock)
        self.listeners = checked_listeners(listeners)

    def __repr__(self) -> str:
        return f"DeadLetterQueue({self.store!r})"

    # -- adding -------------------------------------------------------------------------------------

    def add(
        self,
        service: str,
        method: str,
        path: str,
        *,
        json: Any = ...,
        body: bytes | str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        error: BaseException | str | None = None,
        idempotency_key: str | None = None,
        request_id: str | None = None,
        max_retries: int = 5,
    ) -> str:
        """Keep a call. When this returns, it is on the disk (as far as the store has one).

        Args:
            service: Short name of the client that is to make it.
            method: ``POST``, ``PUT``, ``PATCH`` or ``DELETE``: nobody waits for the answer of a read.
            path: Path and query string below that client's base URL.
            json: The body as anything that can be JSON; or give ``body``.
            body: The body as it is to be sent: bytes, or text that is sent as UTF-8.
            headers: To be sent with it. Credentials among them are left out: the client has its own.
            error: Why it could not be delivered.
            idempotency_key: The key its attempts carried; None makes one.
            request_id: The ``X-Request-ID`` it carried; None takes that of the request under way, if any.
            max_retries: After so many attempts in vain it rests until a person decides.

        Returns:
            The letter's id.

        Raises:
            DeadLetterQueueFull: A limit of the queue is reached, or the disk is full. Nothing was kept.
            StorageError: It could not be kept.
            TypeError: An argument is of the wrong type, or ``json`` cannot be JSON.
            ValueError: An argument is out of its range, or both ``json`` and ``body`` are given.
        """
        letter = self._maker.call(
            service,
            method,
            path,
            json=json,
            body=body,
            headers=headers,
            error=error,
            idempotency_key=idempotency_key,
            request_id=request_id,
            max_retries=max_retries,
        )
        return self._keep([letter])[0]

    def add_message(
        self,
        type: str,
        payload: Any,
        *,
        error: BaseException | str | None = None,
        max_retries: int = 5,
    ) -> str:
        """Keep any other message that could not be processed, for the handler of its type.

        Args:
            type: Its type, by which :meth:`DeadLetterWorker.register` finds the handler.
            payload: Anything that can be JSON.
            error: Why it could not be processed.
            max_retries: See :meth:`add`.

        Returns:
            The letter's id.

        Raises:
            As :meth:`add`.
        """
        letter = self._maker.message(type, payload, error=error, max_retries=max_retries)
        return self._keep([letter])[0]

    def add_many(self, letters: Iterable[Mapping[str, Any]]) -> list[str]:
        """Keep several at once, which costs little more than one: all of them, or none.

        Args:
            letters: The arguments of :meth:`add` or of :meth:`add_message` (those with ``type``), by name.

        Returns:
            Their ids, in the same order.

        Raises:
            As :meth:`add`.
        """
        maker = self._maker
        made = [
            maker.message(**arguments) if "type" in arguments else maker.call(**arguments)
            for arguments in letters
        ]
        return self._keep(made)

    def _keep(self, letters: Sequence[DeadLetter]) -> list[str]:
        self.store.add(letters, self.limits)
        at = self.clock.monotonic()
        for letter in letters:
            notify(
                self.listeners,
                DeadLetterAdded(
                    service=self._label(letter.service),
                    name=letter.service,
                    at=at,
                    letter_id=letter.id,
                    method=letter.method or "message",
                    path=letter.path.partition("?")[0] or letter.service,
                ),
            )
        return [letter.id for letter in letters]

    # -- looking ------------------------------------------------------------------------------------

    def get(self, letter_id: str) -> DeadLetter | None:
        """The letter, or None: it was delivered or purged, or never there."""
        return self.store.get(letter_id, self._now())

    def list(
        self,
        service: str | None = None,
        status: LetterStatus | str | None = None,
        limit: int = 100,
        *,
        after: str | None = None,
    ) -> Letters:
        """Letters with their bodies, oldest first.

        Args:
            service: Only of this service, or of this type.
            status: Only in this status.
            limit: How many at most.
            after: The id of the last letter of the page before; it may be gone meanwhile.

        Raises:
            ValueError: There is no such status, or ``limit`` is below 1.
        """
        require_count("limit", limit)
        return self.store.list(_selection(service, status), limit=limit, after=after, now=self._now())

    def stats(self) -> dict[str, Any]:
        """Numbers, JSON-ready.

        ``letters``, and of them ``pending``, ``leased`` and ``dead``; ``bytes``; ``oldest_age_seconds`` (None
        when there is none); the limits; ``services``: the same three by service or type; ``totals`` of all
        times: ``added``, ``delivered``, ``died`` (also those that were retried later) and ``purged``.
        """
        now = self._now()
        found = dict(self.store.stats(now))
        oldest = found.pop("oldest_created_at")
        return {
            **found,
            "oldest_age_seconds": None if oldest is None else max(now - oldest, 0.0),
            "max_letters": self.limits.max_letters,
            "max_bytes": self.limits.max_bytes,
        }

    # -- deciding -----------------------------------------------------------------------------------

    def retry(self, letter_id: str, *, force: bool = False) -> bool:
        """Have a letter tried at once, dead or waiting, with all its attempts before it.

        Args:
            letter_id: Which one.
            force: Also if it is so old that its receiver may have forgotten its idempotency key, and would do
                again what it has done already.

        Returns:
            False when a worker has it in hand just now: it is being tried.

        Raises:
            UnknownLetter: There is no such letter.
            LetterTooOld: It is older than 30 days, and ``force`` is not given.
        """
        now = self._now()
        letter = self.store.get(letter_id, now)
        if letter is None:
            raise UnknownLetter(f"no letter has the id {letter_id!r}")
        if not force and letter.created_at < now - KEYS_ARE_REMEMBERED:
            raise LetterTooOld(
                f"letter {letter_id} is older than 30 days: its receiver may have forgotten the idempotency "
                "key; give force=True if doing it twice does no harm"
            )
        return self.store.requeue(letter_id, Selection(), now) == 1

    def retry_all(
        self,
        service: str | None = None,
        status: LetterStatus | str | None = LetterStatus.DEAD,
        *,
        force: bool = False,
    ) -> int:
        """Have letters tried at once, with all their attempts before them.

        Args:
            service: Only of this service, or of this type.
            status: Only in this status; None for waiting ones, too.
            force: See :meth:`retry`; without it older ones are left alone, which is logged.

        Returns:
            How many.
        """
        now = self._now()
        if force:
            return self.store.requeue(None, _selection(service, status), now)
        oldest = now - KEYS_ARE_REMEMBERED
        too_old = self.store.list(_selection(service, status, before=oldest), limit=1, after=None, now=now)
        if too_old:
            _logger.warning("Dead letters older than 30 days are not tried again without force")
        return self.store.requeue(None, _selection(service, status, since=oldest), now)

    def purge(
        self,
        *,
        service: str | None = None,
        status: LetterStatus | str | None = None,
        older_than: float | None = None,
        reason: str = "purged by hand",
    ) -> int:
        """Remove letters for good: whatever they were to do is not done. Each is told and logged.

        Those that a worker has in hand are left alone.

        Args:
            service: Only of this service, or of this type.
            status: Only in this status.
            older_than: Only those kept longer than so many seconds ago.
            reason: For the log.

        Returns:
            How many.
        """
        now = self._now()
        if older_than is not None:
            require_seconds("older_than", older_than)
        selection = _selection(service, status, before=None if older_than is None else now - older_than)
        count = 0
        while True:
            purged = self.store.purge(selection, now, _PURGED_AT_ONCE)
            count += len(purged)
            for letter in purged:
                self.tell(letter, "purged", letter.attempts, reason)
            if len(purged) < _PURGED_AT_ONCE:
                return count

    def expire(self) -> int:
        """Remove the letters that are older than ``max_age``; each is told and logged. Returns how many."""
        days = self.max_age / DAY
        return self.purge(older_than=self.max_age, reason=f"older than {days:g} days")

    def tell(
        self, letter: DeadLetter, outcome: str, attempts: int, detail: str = "", duration: float = 0.0
    ) -> None:
        """Tell what became of a letter; see :class:`~service_utils.events.DeadLetterSettled`."""
        event = DeadLetterSettled(
            service=self._label(letter.service),
            name=letter.service,
            at=self.clock.monotonic(),
            letter_id=letter.id,
            outcome=outcome,
            attempts=attempts,
            detail=detail,
            duration=duration,
        )
        notify(self.listeners, event)

    def know(self, service: str, label: str) -> None:
        """Have log lines call a service by its display name. Clients do so that are given this queue."""
        self._labels[service] = label

    def _label(self, service: str) -> str:
        label = self._labels.get(service)
        if label is not None:
            return label
        client = self._registry.get(service)
        return service if client is None else client.service_name

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _now(self) -> float:
        return self.clock.now().timestamp()


def _selection(
    service: str | None,
    status: LetterStatus | str | None,
    *,
    before: float | None = None,
    since: float | None = None,
) -> Selection:
    try:
        wanted = None if status is None else LetterStatus(status)
    except ValueError:
        known = ", ".join(LetterStatus)
        raise ValueError(f"status={status!r}: must be one of {known}") from None
    return Selection(service=service, status=wanted, before=before, since=since)
