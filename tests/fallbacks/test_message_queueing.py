"""MessageQueueing: messages that cannot be sent now are kept."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from service_utils import FallbackChain, collect_degradations
from service_utils.fallbacks import MessageQueueing, Queued


class Queue:
    """A queue that remembers what it was given."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any, int]] = []

    def add_message(self, type: str, payload: Any, *, error: BaseException | None, max_retries: int) -> str:
        if payload == "too much":
            raise OSError("full")
        self.messages.append((type, payload, max_retries))
        return f"letter-{len(self.messages)}"


def away(message: Any) -> Any:
    raise requests.ConnectionError("away")


def test_message_is_kept_when_it_cannot_be_sent() -> None:
    """The caller gets the letter's id, and the answer is marked as degraded."""
    queue = Queue()
    chain = FallbackChain("send", [("direct", away), MessageQueueing(queue, "whatsapp").strategy()])
    with collect_degradations() as degraded:
        assert chain.run({"text": "hello"}) == (Queued("letter-1", "whatsapp"), "queued")
    assert queue.messages == [("whatsapp", {"text": "hello"}, 5)]
    assert degraded == ["queued"]


def test_answer_for_people() -> None:
    """The answer can be given to the user as JSON."""
    answer = MessageQueueing(Queue(), "whatsapp")("hello")
    assert answer.as_dict() == {"status": "queued", "letter_id": "letter-1", "type": "whatsapp"}


def test_payload_of_several_arguments() -> None:
    """A message of several arguments is made by a function."""
    queue = Queue()
    MessageQueueing(queue, "mail", payload=lambda to, text: {"to": to, "text": text}, max_retries=2)(
        "a", text="b"
    )
    assert queue.messages == [("mail", {"to": "a", "text": "b"}, 2)]
    with pytest.raises(TypeError, match="payload="):
        MessageQueueing(queue, "mail")("a", "b")


def test_what_cannot_be_kept_is_told() -> None:
    """A message that the queue cannot keep is not lost in silence."""
    chain = FallbackChain(
        "send", [("direct", away), MessageQueueing(Queue(), "mail").strategy(), ("x", print)]
    )
    with pytest.raises(OSError, match="full"):
        chain.run("too much")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"queue": object()}, TypeError),
        ({"type": ""}, ValueError),
        ({"payload": 1}, TypeError),
        ({"max_retries": 0}, ValueError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Bad arguments are refused at once."""
    with pytest.raises(error, match=f"{next(iter(arguments))}="):
        MessageQueueing(**{"queue": Queue(), "type": "mail"} | arguments)
