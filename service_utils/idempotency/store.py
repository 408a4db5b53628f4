"""What a store of idempotency records can be asked to do. Each intent is one atomic step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from service_utils.idempotency.record import KEEP_SECONDS, Answer, Began, Question, UnknownRecord

__all__ = ["IdempotencyStore", "StoreError", "StoreFull"]


class StoreError(Exception):
    """The store cannot be asked at the moment, so that nothing can be begun."""


class StoreFull(StoreError):
    """The store takes no new keys until old ones expire; the message says which limit was reached."""


@runtime_checkable
class IdempotencyStore(Protocol):
    """Keeps one record per key. For any number of threads, and as many processes as the store says.

    A record is *running* from ``begin`` to ``leave``, *answered* after ``finish``, gone after ``forget``, and
    *unknown* when its execution left, or died, without either. Nothing but ``take_over``, ``settle`` or the
    late ``finish`` of its own execution ends that: it neither expires nor becomes free by itself.
    """

    def begin(self, question: Question) -> Began:
        """Take the key for the question's token, or tell why not. Exactly one of many callers gets it."""
        ...

    def finish(self, question: Question, answer: Answer, keep_for: float) -> bool:
        """Keep the answer for so many seconds; False, and nothing kept, when the token has lost the key."""
        ...

    def forget(self, question: Question) -> bool:
        """Nothing was done: the key is free again. False when the token has lost it."""
        ...

    def leave(self, question: Question) -> None:
        """The execution has ended, whatever it said. To be called however it ends, also after a failed begin.

        Does nothing that could fail for want of room.
        """
        ...

    def take_over(self, question: Question, broken_off: int) -> bool:
        """Give an unknown record to the question's token, which will run it; to one of many callers only.

        The question is one with which ``begin`` has just found it unknown. False when it no longer is,
        another execution has it, or it is about something else.
        """
        ...

    def settle(
        self, record_id: str, token: int, answer: Answer | None, keep_for: float = KEEP_SECONDS
    ) -> bool:
        """Say what became of an unknown execution: the answer to be given from now on, or None: not done.

        False when it is not unknown, or another execution has the key by now.
        """
        ...

    def list_unknown(self, limit: int = 100) -> Sequence[UnknownRecord]:
        """The unknown executions, oldest first."""
        ...

    def purge(self) -> int:
        """Drop the answers whose time is over, and tell how many. Stores also do so as new keys come in."""
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...
