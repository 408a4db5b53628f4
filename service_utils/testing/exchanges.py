"""What a fault proxy notes about the exchanges that went through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from service_utils.testing.faults import Fault
from service_utils.testing.framing import Framing, Side

__all__ = ["End", "Exchange", "OpenExchange"]


class End(StrEnum):
    """How an exchange ended."""

    PASSED = "passed"
    """The caller got the whole answer."""
    FAULT = "fault"
    """The fault cut it."""
    CALLER_LEFT = "caller_left"
    """The caller closed the connection, because it would wait no longer for one."""
    UPSTREAM_LEFT = "upstream_left"
    """The service closed or reset the connection before its answer was whole."""
    UPSTREAM_AWAY = "upstream_away"
    """There was no connection to be had to the service."""
    STOPPED = "stopped"
    """The proxy was closed, or told to disconnect."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what became of it.

    Attributes:
        number: In the order in which faults were chosen; the proxy's first is 1.
        connection: The number of the connection it came on; the first is 1.
        fault: What was chosen for it.
        end: How it ended.
        method: Of the request; None when nothing of it could be read.
        target: Its path and query, as sent.
        request_whole: Whether the service was sent the whole request.
        request_bytes: How many bytes of the request were passed on.
        status: What the service answered, whether that was passed on or not; None when it did not.
        response_bytes: How many bytes of the answer were passed on.
    """

    number: int
    connection: int
    fault: Fault
    end: End
    method: str | None
    target: str | None
    request_whole: bool
    request_bytes: int
    status: int | None
    response_bytes: int


@dataclass(slots=True)
class OpenExchange:
    """An exchange under way, and the random numbers of its own."""

    number: int
    connection: int
    fault: Fault
    random: Random
    request: Framing = field(default_factory=lambda: Framing(Side.REQUEST))
    response: Framing | None = None
    request_whole: bool = False
    request_bytes: int = 0
    response_bytes: int = 0

    def answered(self) -> Framing:
        """The framing of the answer, which depends on the request."""
        if self.response is None:
            self.response = Framing(Side.RESPONSE, self.request.method)
        return self.response

    def ended(self, end: End) -> Exchange:
        """The note about it."""
        return Exchange(
            number=self.number,
            connection=self.connection,
            fault=self.fault,
            end=end,
            method=self.request.method,
            target=self.request.target,
            request_whole=self.request_whole,
            request_bytes=self.request_bytes,
            status=None if self.response is None else self.response.status,
            response_bytes=self.response_bytes,
        )
