"""Messages: the worker gives them to handlers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import requests

from service_utils.dead_letters import LetterStatus, current_letter
from service_utils.http.context import bind_context, current_deadline, current_request_id, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.testing import Answer, FaultServer

from .workshop import Workshop, shop

__all__ = ["shop"]

WHATSAPP = "whatsapp_message"


def done(**some: int) -> dict[str, int]:
    nothing = dict.fromkeys(("leased", "delivered", "retried", "dead", "skipped", "lost"), 0)
    return {**nothing, **some}


class Phone:
    """A handler that fails as it is told."""

    def __init__(self, *errors: BaseException) -> None:
        self.got: list[Any] = []
        self.errors = list(errors)

    def __call__(self, payload: Any) -> None:
        self.got.append(payload)
        if self.errors:
            raise self.errors.pop(0)


def test_a_message_goes_to_its_handler(shop: Workshop) -> None:
    """The handler gets what was added, and the message is gone when it returns."""
    phone = Phone()
    shop.worker.register(WHATSAPP, phone)
    letter = shop.queue.add_message(WHATSAPP, {"to": "+49", "text": "good morning"})

    assert shop.worker.run_once() == done(leased=1, delivered=1)
    assert phone.got == [{"to": "+49", "text": "good morning"}]
    assert shop.queue.get(letter) is None


def test_a_handler_that_raises_is_called_again_later(shop: Workshop) -> None:
    """Any exception makes the message wait; after max_retries it is dead."""
    phone = Phone(ValueError("no such number"), requests.ConnectionError("refused"), OSError("disk"))
    shop.worker.register(WHATSAPP, phone)
    letter = shop.queue.add_message(WHATSAPP, 1, max_retries=3)

    assert shop.worker.run_once() == done(leased=1, retried=1)
    assert "no such number" in str(shop.letter(letter).last_error)
    assert shop.due_in(letter) == 10.0
    shop.clock.advance(10.0)
    assert shop.worker.run_once() == done(leased=1, retried=1)
    shop.clock.advance(10.0)
    assert shop.worker.run_once() == done(leased=1, dead=1)
    assert shop.letter(letter).status is LetterStatus.DEAD


def test_a_message_without_a_handler_stays(shop: Workshop) -> None:
    """Nobody's messages wait until somebody registers for them."""
    phone = Phone()
    letter = shop.queue.add_message(WHATSAPP, 1)

    assert shop.worker.run_once() == done(skipped=1)
    assert shop.letter(letter).attempts == 0
    shop.worker.register(WHATSAPP, phone)
    assert shop.worker.run_once() == done(leased=1, delivered=1)


def test_letters_of_unknown_services_stay_and_are_told_once(
    shop: Workshop, fault_server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, not one a round; and again when they have become unknown anew."""
    client = shop.client(fault_server)
    client.close()
    shop.queue.add("git", "POST", "/a")
    with caplog.at_level(logging.WARNING, "service_utils"):
        caplog.clear()
        for _ in range(3):
            assert shop.worker.run_once() == done(skipped=1)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["No client and no handler is named 'git': 1 dead letter stays where it is"]


def test_types_do_not_wait_for_each_other(shop: Workshop, fault_server: FaultServer) -> None:
    """One type's trouble holds up neither another type nor a service."""
    shop.client(fault_server)
    shop.worker.register("sick", Phone(OSError("no")))
    shop.worker.register("well", Phone())
    shop.queue.add_message("sick", 1)
    shop.queue.add_message("well", 1)
    shop.queue.add("git", "POST", "/a")

    assert shop.worker.run_once() == done(leased=3, retried=1, delivered=2)


def test_a_handler_knows_its_letter(shop: Workshop) -> None:
    """The letter's id is the same in every attempt: a key for what the handler does elsewhere."""
    seen: list[str] = []

    def handler(payload: Any) -> None:
        seen.append(current_letter().id)
        if len(seen) == 1:
            raise OSError("not yet")

    shop.worker.register(WHATSAPP, handler)
    letter = shop.queue.add_message(WHATSAPP, 1)
    shop.worker.run_once()
    shop.clock.advance(10.0)
    shop.worker.run_once()

    assert seen == [letter, letter]
    with pytest.raises(LookupError, match="handlers"):
        current_letter()


def test_a_handler_sees_nothing_of_the_callers_request(shop: Workshop) -> None:
    """A round begun within a request hands on neither its deadline nor its id."""
    seen: list[Any] = []
    shop.worker.register(WHATSAPP, lambda _: seen.append((current_request_id(), current_deadline())))
    shop.queue.add_message(WHATSAPP, 1)
    token = bind_context(request_id="inbound", deadline=Deadline.after(0.0))
    try:
        shop.worker.run_once()
    finally:
        unbind_context(token)

    assert seen != []
    assert seen[0][1] is None
    assert seen[0][0] != "inbound"


def test_what_a_called_service_says_decides(shop: Workshop, fault_server: FaultServer) -> None:
    """A handler's call that is refused for good makes the message dead, with the answer kept."""
    client = shop.client(fault_server, raise_for_status=True)
    shop.worker.register(WHATSAPP, lambda payload: client.post("/send", json=payload))
    fault_server.script(Answer(422, b"no such number"))
    letter = shop.queue.add_message(WHATSAPP, {"to": "?"})

    assert shop.worker.run_once() == done(leased=1, dead=1)
    assert shop.letter(letter).last_response == b"no such number"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupted_handler_gives_its_message_back(interrupt: BaseException, shop: Workshop) -> None:
    """The interrupt goes on to the caller; nothing stays leased, and no attempt is counted."""
    phone = Phone(interrupt)
    shop.worker.register(WHATSAPP, phone)
    letters = [shop.queue.add_message(WHATSAPP, number) for number in range(3)]

    with pytest.raises(type(interrupt)):
        shop.worker.run_once()

    assert [shop.letter(each).status for each in letters] == [LetterStatus.PENDING] * 3
    assert [shop.letter(each).attempts for each in letters] == [0] * 3
    assert shop.due_in(letters[0]) == 5.0
    shop.clock.advance(5.0)
    assert shop.worker.run_once() == done(leased=3, delivered=3)


@pytest.mark.parametrize("handler", [None, "text"])
def test_only_functions_can_handle(handler: Any, shop: Workshop) -> None:
    """What cannot be called is refused when it is registered."""
    with pytest.raises(TypeError):
        shop.worker.register(WHATSAPP, handler)


def test_a_handler_must_have_done_its_work_when_it_returns(shop: Workshop) -> None:
    """A coroutine function would return before it has begun."""

    async def handler(payload: Any) -> None: ...

    with pytest.raises(TypeError, match="async"):
        shop.worker.register(WHATSAPP, handler)
    with pytest.raises(ValueError, match="type=''"):
        shop.worker.register("", Phone())
