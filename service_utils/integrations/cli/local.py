"""The desk of the app that this process has loaded: ``flask services …``."""

from __future__ import annotations

import getpass
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service_utils.dead_letters import DeadLetterError, MemoryDeadLetters, UnknownLetter
from service_utils.integrations.cli.face import NotThere, Trouble
from service_utils.operating import OperatingError, Operator, OperatorDesk

__all__ = ["LocalDesk", "login_name"]

_ALONE = "would act on this command alone, because {what} not shared between processes: {advice}"
_ASK = "ask the running app by python -m service_utils --url …"
_SHARE = f"set SERVICE_UTILS_SHARED_STATE, or {_ASK}"
_KEEP = f"keep them in a file, or {_ASK}"


def login_name() -> str:
    """Who runs the command, as far as the system knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


class LocalDesk:
    """See :class:`~service_utils.integrations.cli.face.Face`.

    What the app's processes do not share cannot be acted on from here: this process has a copy of its own.

    Args:
        desk: The app's.
        operator: Who, for the audit log.
    """

    def __init__(self, desk: OperatorDesk, operator: str) -> None:
        self._desk = desk
        try:
            self._by = Operator(name=operator)
        except ValueError as error:
            raise Trouble(str(error)) from error

    def copies(self, group: str) -> str | None:
        """What a group of commands shows that is this process's own, in words; None where all is shared."""
        if group == "degradation":
            return "a level" if self._owns_level() else None
        if group == "dlq":
            return "dead letters" if self._owns_letters() else None
        breakers = self._desk.services.circuit_breakers().values()
        return "circuits" if any(each.store is None for each in breakers) else None

    def overview(self) -> dict[str, Any]:
        """What people see first."""
        with _told():
            return self._desk.overview()

    def circuits(self) -> dict[str, Any]:
        """All services, and which of them are sick."""
        with _told():
            return self._desk.circuits()

    def act(self, name: str, act: str, reason: str) -> dict[str, Any]:
        """``reset``, ``force-open`` or ``disable`` a circuit; returns its status."""
        breaker = self._desk.services.circuit_breakers().get(name)
        if breaker is not None and breaker.store is None:
            raise Trouble(f"{act} " + _ALONE.format(what="circuits are", advice=_SHARE))
        acts = {"reset": self._desk.reset, "force-open": self._desk.force_open, "disable": self._desk.disable}
        with _told():
            return acts[act](name, reason=reason, by=self._by)

    def probe(self, name: str) -> dict[str, Any]:
        """Ask a service's health path."""
        with _told():
            return self._desk.probe(name, by=self._by)

    def level(self) -> dict[str, Any]:
        """The level of degradation."""
        with _told():
            return self._desk.level()

    def set_level(self, level: str, reason: str, expires_in: float | None) -> dict[str, Any]:
        """Set it by hand."""
        self._needs_shared_level("degradation set")
        with _told():
            return self._desk.set_level(level, reason=reason, by=self._by, expires_in=expires_in)

    def clear_level(self, reason: str) -> dict[str, Any]:
        """Let the rules decide."""
        self._needs_shared_level("degradation clear")
        with _told():
            return self._desk.clear_level(by=self._by, reason=reason)

    def letters(
        self, service: str | None, status: str | None, limit: int, after: str | None
    ) -> dict[str, Any]:
        """A page of dead letters."""
        with _told():
            return self._desk.letters.list(service=service, status=status, limit=limit, after=after)

    def letter(self, letter_id: str, *, body: bool) -> dict[str, Any]:
        """One of them."""
        with _told():
            return self._desk.letters.show(letter_id, by=self._by if body else None)

    def retry(self, letter_id: str, reason: str, *, force: bool) -> dict[str, Any]:
        """Have it tried again."""
        self._needs_shared_letters("dlq retry")
        with _told():
            return self._desk.letters.retry(letter_id, by=self._by, reason=reason, force=force)

    def retry_all(
        self, service: str | None, status: str | None, reason: str, *, force: bool
    ) -> dict[str, Any]:
        """Have many tried again."""
        self._needs_shared_letters("dlq retry-all")
        with _told():
            return self._desk.letters.retry_all(
                by=self._by, service=service, status=status, reason=reason, force=force
            )

    def purge(
        self, service: str | None, status: str | None, older_than: float | None, reason: str
    ) -> dict[str, Any]:
        """Remove letters for good."""
        self._needs_shared_letters("dlq purge")
        with _told():
            return self._desk.letters.purge(
                by=self._by, service=service, status=status, older_than=older_than, reason=reason
            )

    def report(self) -> dict[str, Any]:
        """The reliability report."""
        with _told():
            return self._desk.report()

    def _needs_shared_level(self, what: str) -> None:
        if self._owns_level():
            raise Trouble(f"{what} " + _ALONE.format(what="the level is", advice=_SHARE))

    def _needs_shared_letters(self, what: str) -> None:
        if self._owns_letters():
            raise Trouble(f"{what} " + _ALONE.format(what="dead letters are", advice=_KEEP))

    def _owns_level(self) -> bool:
        monitor = self._desk.degradation
        return monitor is not None and not monitor.shared

    def _owns_letters(self) -> bool:
        queue = self._desk.dead_letters
        return queue is not None and isinstance(queue.store, MemoryDeadLetters)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (OperatingError, UnknownLetter) as error:
        raise NotThere(str(error)) from error
    except (DeadLetterError, ValueError, TypeError, OSError, sqlite3.Error) as error:
        raise Trouble(str(error)) from error
