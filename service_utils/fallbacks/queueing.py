"""Messages that cannot be sent now are kept and sent later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from service_utils.policies.checks import require_count
from service_utils.policies.fallback import Strategy
from service_utils.policies.fallback.failures import check_name

__all__ = ["MessageQueueing", "MessageSink", "Queued"]


class MessageSink(Protocol):
    """Where messages are kept; a ``DeadLetterQueue`` is one. May be called from any thread."""

    def add_message(self, type: str, payload: Any, *, error: BaseException | None, max_retries: int) -> str:
        """Keep a message durably, and return its letter's id."""
        ...


@dataclass(frozen=True, slots=True)
class Queued:
    """The answer in place of one: the message is kept, and will be sent.

    Attributes:
        letter_id: The id of the dead letter that it is now.
        type: The message's type.
    """

    letter_id: str
    type: str

    def as_dict(self) -> dict[str, str]:
        """The same, JSON-ready."""
        return {"status": "queued", "letter_id": self.letter_id, "type": self.type}


class MessageQueueing:
    """Puts messages into the dead letters, from where a worker sends them when that can be done again.

    ::

        send = FallbackChain(
            "whatsapp",
            [Strategy("direct", send_now, client=whatsapp), MessageQueueing(queue, "whatsapp").strategy()],
        )
        answer, way = send.run({"to": "+43…", "text": "…"})   # a Queued, "queued"

    A message whose direct way failed after it was sent may arrive twice: put an id into it by which the
    receiver can tell. What the queue raises (``DeadLetterQueueFull``) is raised: nothing is lost in silence.

    Args:
        queue: Where they are kept.
        type: Their type; ``worker.register(type, handler)`` says who sends them.
        payload: Makes the JSON-ready payload of the arguments; the only argument by default.
        max_retries: How often it is tried until a person must decide.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: ``type`` is empty, or ``max_retries`` is below 1.
    """

    def __init__(
        self,
        queue: MessageSink,
        type: str,
        *,
        payload: Callable[..., Any] | None = None,
        max_retries: int = 5,
    ) -> None:
        if not callable(getattr(queue, "add_message", None)):
            raise TypeError(f"queue={queue!r}: must have a method add_message(type, payload, ...)")
        check_name(type, "type")
        if payload is not None and not callable(payload):
            raise TypeError(f"payload={payload!r}: must be a callable that takes the arguments")
        require_count("max_retries", max_retries)
        self.type = type
        self._queue = queue
        self._payload = payload
        self._max_retries = max_retries

    def __call__(self, *args: Any, **kwargs: Any) -> Queued:
        """Keep one message.

        Raises:
            TypeError: There is more than one argument, and no ``payload`` makes one of them.
            Exception: What the queue raises.
        """
        if self._payload is not None:
            payload = self._payload(*args, **kwargs)
        elif len(args) == 1 and not kwargs:
            payload = args[0]
        else:
            raise TypeError("a message is one argument; give payload= to make one of several")
        letter_id = self._queue.add_message(self.type, payload, error=None, max_retries=self._max_retries)
        return Queued(letter_id, self.type)

    def strategy(self, name: str = "queued") -> Strategy:
        """The last resort of a :class:`~service_utils.policies.fallback.FallbackChain`."""
        return Strategy(name, self, last_resort=True)

    def __repr__(self) -> str:
        return f"MessageQueueing({self.type!r})"
