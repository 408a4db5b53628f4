"""The operator's desk for dead letters: looking through them, having them tried again, removing them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from service_utils.dead_letters import DeadLetterQueue, LetterStatus, UnknownLetter
from service_utils.operating.audit import Operator, one_line

__all__ = ["LetterDesk"]


class Audited(Protocol):
    """How an act is put on record."""

    def __call__(
        self, by: Operator, action: str, target: str, why: str, details: dict[str, Any] | None = None, /
    ) -> AbstractContextManager[None]:
        """What is done within the block is on record when it is left."""
        ...


class LetterDesk:
    """See :class:`~service_utils.operating.desk.OperatorDesk`, whose part it is.

    Args:
        queue: The dead letters.
        audited: Puts acts on record.
    """

    def __init__(self, queue: DeadLetterQueue, audited: Audited) -> None:
        self._queue = queue
        self._audited = audited

    def stats(self) -> dict[str, Any]:
        """How many there are; see ``DeadLetterQueue.stats``."""
        return self._queue.stats()

    def list(
        self,
        *,
        service: str | None = None,
        status: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> dict[str, Any]:
        """A page of letters without their bodies, oldest first.

        Returns:
            ``letters``, ``next`` (the id to give as ``after`` for the next page, or None) and ``stats``.

        Raises:
            ValueError: There is no such status, or ``limit`` is not from 1 to 500.
        """
        if not 1 <= limit <= 500:
            raise ValueError(f"limit={limit!r}: must be from 1 to 500")
        found = self._queue.list(service, status, limit + 1, after=after)
        page = list(found[:limit])
        return {
            "letters": [each.as_dict() for each in page],
            "next": page[-1].id if len(found) > limit else None,
            "stats": self.stats(),
        }

    def show(self, letter_id: str, *, by: Operator | None = None) -> dict[str, Any]:
        """A letter; with its body, which is users' data, only for somebody, and then on record.

        Raises:
            UnknownLetter: No letter has this id.
        """
        letter = self._queue.get(letter_id)
        if letter is None:
            raise UnknownLetter(f"no letter has the id {letter_id!r}")
        if by is None:
            return letter.as_dict()
        with self._audited(by, "dlq.read", letter_id, "looked at its body"):
            return letter.as_dict(body=True)

    def retry(
        self, letter_id: str, *, by: Operator, reason: str = "asked for", force: bool = False
    ) -> dict[str, Any]:
        """Have a letter tried at once.

        Returns:
            ``id`` and ``queued``: False when it is being tried just now.

        Raises:
            UnknownLetter: No letter has this id.
            LetterTooOld: It is older than 30 days, and ``force`` is not given.
        """
        details: dict[str, Any] = {"force": force}
        with self._audited(by, "dlq.retry", letter_id, one_line("reason", reason), details):
            details["queued"] = self._queue.retry(letter_id, force=force)
        return {"id": letter_id, "queued": details["queued"]}

    def retry_all(
        self,
        *,
        by: Operator,
        service: str | None = None,
        status: str | None = LetterStatus.DEAD.value,
        reason: str = "asked for",
        force: bool = False,
    ) -> dict[str, Any]:
        """Have letters tried at once; returns ``letters``: how many.

        Raises:
            ValueError: There is no such status.
        """
        details: dict[str, Any] = {"service": service, "status": status, "force": force}
        with self._audited(by, "dlq.retry_all", service or "", one_line("reason", reason), details):
            details["letters"] = self._queue.retry_all(service, status, force=force)
        return {"letters": details["letters"]}

    def purge(
        self,
        *,
        by: Operator,
        reason: str,
        service: str | None = None,
        status: str | None = None,
        older_than: float | None = None,
    ) -> dict[str, Any]:
        """Remove letters for good: what they were to do is not done. Returns ``letters``: how many.

        Args:
            by: Who.
            reason: Why.
            service: Only of this service.
            status: Only in this status.
            older_than: Only those kept longer than so many seconds ago.

        Raises:
            ValueError: There is no reason or no such status, or ``older_than`` is negative.
        """
        why = one_line("reason", reason)
        details: dict[str, Any] = {"service": service, "status": status, "older_than": older_than}
        with self._audited(by, "dlq.purge", service or "", why, details):
            details["letters"] = self._queue.purge(
                service=service, status=status, older_than=older_than, reason=f"{why} ({by.name})"
            )
        return {"letters": details["letters"]}
