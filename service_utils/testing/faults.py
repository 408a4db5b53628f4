"""What a :class:`~service_utils.testing.FaultProxy` can do to an exchange, one request and its answer.

::

    nothing()                          pass everything on
    latency(0.2, jitter=0.1)           0.2 to 0.3 s before the first byte of the answer
    bandwidth(10_000)                  10,000 bytes of the answer a second
    drip(size=1, every=0.05)           the answer byte by byte
    refuse()                           the connection is reset before a byte was read
    reset_at(100)                      a TCP reset after 100 bytes of the answer
    truncate_at(100)                   end of file after 100 bytes of the answer
    blackhole()                        the request goes nowhere, and then there is silence
    blackhole(Side.RESPONSE)           the service does its work, and then there is silence
    drop_reply()                       the service has answered, the caller gets a reset instead

All but the last take ``side=Side.REQUEST``, where that makes sense, to do the same on the way to the service.
Bytes are counted from the first of the head. A message that has fewer bytes than the ``n`` of a fault passes
whole. Whatever is not here can be put together of :class:`Flow` and :class:`Fault`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from service_utils.testing.framing import Side
from service_utils.testing.replies import Drip, Ending

__all__ = [
    "Fault",
    "Flow",
    "Plan",
    "Side",
    "bandwidth",
    "blackhole",
    "drip",
    "drop_reply",
    "jitter",
    "latency",
    "nothing",
    "refuse",
    "reset_at",
    "some_of_each",
    "truncate_at",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """How the bytes of one direction are passed on.

    Attributes:
        delay: Seconds before the first byte.
        jitter: Up to so many seconds more, evenly distributed.
        bytes_per_second: How fast at most; None for as fast as it goes.
        drip: In small pieces with pauses between them.
        cut_at: How many bytes are passed on; None for all.
        when_whole: Whether the cut waits until the message has come whole from its sender.
        ending: What then happens to the connection: ``CLOSE``, ``RESET`` or ``HANG``, which is silence until
            the caller goes.

    Raises:
        ValueError: A number is out of range, or ``ending`` is ``KEEP_OPEN``.
    """

    delay: float = 0.0
    jitter: float = 0.0
    bytes_per_second: float | None = None
    drip: Drip | None = None
    cut_at: int | None = None
    when_whole: bool = False
    ending: Ending = Ending.RESET

    def __post_init__(self) -> None:
        for name, seconds in (("delay", self.delay), ("jitter", self.jitter)):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"{name}={seconds!r}: must be a number of seconds >= 0")
        rate = self.bytes_per_second
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"bytes_per_second={rate!r}: must be a number above 0")
        if self.cut_at is not None and self.cut_at < 0:
            raise ValueError(f"cut_at={self.cut_at!r}: must be at least 0 bytes")
        if self.ending is Ending.KEEP_OPEN:
            raise ValueError(f"ending={self.ending!r}: a cut has to end the connection")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to one exchange.

    Attributes:
        name: What the log calls it.
        request: What is done on the way to the service.
        response: What is done on the way back.
        refused: Whether the connection is reset before anything is read.
    """

    name: str
    request: Flow = Flow()
    response: Flow = Flow()
    refused: bool = False


Plan = Fault | Callable[[Random], Fault]
"""A fault, or what makes one with the random numbers of its exchange."""


def nothing() -> Fault:
    """Pass everything on."""
    return Fault("nothing")


def latency(seconds: float, *, jitter: float = 0.0, side: Side = Side.RESPONSE) -> Fault:
    """Wait before the first byte is passed on: ``seconds``, and up to ``jitter`` more."""
    return _on(side, "latency", Flow(delay=seconds, jitter=jitter))


def jitter(seconds: float, *, side: Side = Side.RESPONSE) -> Fault:
    """Wait for a random time from 0 to ``seconds`` before the first byte is passed on."""
    return _on(side, "jitter", Flow(jitter=seconds))


def bandwidth(bytes_per_second: float, *, side: Side = Side.RESPONSE) -> Fault:
    """Pass on so many bytes a second."""
    return _on(side, "bandwidth", Flow(bytes_per_second=bytes_per_second))


def drip(size: int = 1, every: float = 0.1, *, side: Side = Side.RESPONSE) -> Fault:
    """Pass on ``size`` bytes, then nothing for ``every`` seconds, and so on."""
    return _on(side, "drip", Flow(drip=Drip(size, every)))


def refuse() -> Fault:
    """Reset the connection before a byte of the request is read.

    For a ``ECONNREFUSED`` there must be nobody who listens: :meth:`FaultProxy.stop_listening`.
    """
    return Fault("refuse", refused=True)


def reset_at(n: int, *, side: Side = Side.RESPONSE) -> Fault:
    """Pass on ``n`` bytes, then send a TCP reset to both ends."""
    return _on(side, "reset", Flow(cut_at=n, ending=Ending.RESET))


def truncate_at(n: int, *, side: Side = Side.RESPONSE) -> Fault:
    """Pass on ``n`` bytes, then end of file, to both ends."""
    return _on(side, "truncate", Flow(cut_at=n, ending=Ending.CLOSE))


def blackhole(side: Side = Side.REQUEST, *, after: int = 0) -> Fault:
    """Pass on ``after`` bytes, then nothing more; the connection stays open until the caller closes it."""
    return _on(side, "blackhole", Flow(cut_at=after, ending=Ending.HANG))


def drop_reply(ending: Ending = Ending.RESET) -> Fault:
    """Let the service do its work and answer; once the answer is there, end the connection instead.

    What the service was to commit is committed, and the caller cannot know.
    """
    return _on(Side.RESPONSE, "drop_reply", Flow(cut_at=0, when_whole=True, ending=ending))


def some_of_each(*, pause: float = 0.05, within: int = 400) -> list[Plan]:
    """One fault of every kind on both ways, for :meth:`FaultProxy.random`.

    Args:
        pause: Seconds by which the slow ones slow an exchange down, about.
        within: Cuts are made at a random byte below this one.
    """
    return [
        lambda random: latency(pause, jitter=pause, side=random.choice(list(Side))),
        jitter(pause),
        bandwidth(within / pause),
        drip(max(within // 10, 1), pause / 10),
        refuse(),
        lambda random: reset_at(random.randrange(within), side=Side.REQUEST),
        lambda random: reset_at(random.randrange(within), side=Side.RESPONSE),
        lambda random: truncate_at(random.randrange(within), side=Side.REQUEST),
        lambda random: truncate_at(random.randrange(within), side=Side.RESPONSE),
        blackhole(Side.REQUEST),
        blackhole(Side.RESPONSE),
        drop_reply(),
        drop_reply(Ending.CLOSE),
    ]


def _on(side: Side, name: str, flow: Flow) -> Fault:
    return Fault(name, request=flow) if side is Side.REQUEST else Fault(name, response=flow)
