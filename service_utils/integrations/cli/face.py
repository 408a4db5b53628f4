"""What the commands talk to: an operator's desk, here or behind HTTP. All answers are those of the desk."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Face", "NotThere", "Trouble"]


class Trouble(Exception):
    """What was asked for cannot be had; the message is a line for the operator."""


class NotThere(Trouble):
    """There is no such service, letter or part of the app."""


class Face(Protocol):
    """A desk with an operator sitting at it. A method that cannot do its work raises :class:`Trouble`."""

    def overview(self) -> dict[str, Any]:
        """What people see first."""
        ...

    def circuits(self) -> dict[str, Any]:
        """All services, and which of them are sick."""
        ...

    def act(self, name: str, act: str, reason: str) -> dict[str, Any]:
        """``reset``, ``force-open`` or ``disable`` a circuit; returns its status."""
        ...

    def probe(self, name: str) -> dict[str, Any]:
        """Ask a service's health path."""
        ...

    def level(self) -> dict[str, Any]:
        """The level of degradation."""
        ...

    def set_level(self, level: str, reason: str, expires_in: float | None) -> dict[str, Any]:
        """Set it by hand."""
        ...

    def clear_level(self, reason: str) -> dict[str, Any]:
        """Let the rules decide."""
        ...

    def letters(
        self, service: str | None, status: str | None, limit: int, after: str | None
    ) -> dict[str, Any]:
        """A page of dead letters."""
        ...

    def letter(self, letter_id: str, *, body: bool) -> dict[str, Any]:
        """One of them."""
        ...

    def retry(self, letter_id: str, reason: str, *, force: bool) -> dict[str, Any]:
        """Have it tried again."""
        ...

    def retry_all(
        self, service: str | None, status: str | None, reason: str, *, force: bool
    ) -> dict[str, Any]:
        """Have many tried again."""
        ...

    def purge(
        self, service: str | None, status: str | None, older_than: float | None, reason: str
    ) -> dict[str, Any]:
        """Remove letters for good."""
        ...

    def report(self) -> dict[str, Any]:
        """The reliability report."""
        ...
