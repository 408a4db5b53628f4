"""The worker in a thread of its own: starting, stopping, staying alive, and services side by side."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service_utils.clock import SYSTEM
from service_utils.dead_letters import DeadLetterWorker, LetterStatus
from service_utils.registry import ServiceRegistry
from service_utils.storage import StorageError
from service_utils.testing import Answer, FaultServer
from tests.forked import in_child

from .workshop import PATIENCE, Workshop, until


@pytest.fixture
def shop() -> Iterator[Workshop]:
    """A workshop in real time whose worker looks at the queue again and again."""
    workshop = Workshop(clock=SYSTEM, interval=0.01)
    yield workshop
    workshop.close()


class Gate:
    """A handler that is held up until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.got: list[Any] = []

    def __call__(self, payload: Any) -> None:
        self.got.append(payload)
        self.entered.set()
        assert self.opened.wait(PATIENCE)


def test_letters_are_delivered_in_the_background(shop: Workshop, fault_server: FaultServer) -> None:
    """A started worker delivers what is there and what comes later, oldest first."""
    shop.client(fault_server)
    for number in range(30):
        shop.queue.add("git", "POST", f"/{number}")
    shop.worker.start()
    fault_server.wait_for_requests(30)
    shop.queue.add("git", "POST", "/30")
    fault_server.wait_for_requests(31)
    until(lambda: shop.queue.list() == [])

    assert [each.path for each in fault_server.requests] == [f"/{number}" for number in range(31)]
    assert shop.worker.stop()
    assert shop.worker.counts == {
        "leased": 31,
        "delivered": 31,
        "retried": 0,
        "dead": 0,
        "skipped": 0,
        "lost": 0,
    }


def test_a_hanging_service_holds_up_nobody(shop: Workshop, fault_server: FaultServer) -> None:
    """While one service does not answer, all letters of another arrive."""
    with FaultServer() as other:
        shop.client(fault_server, "git", timeout=20)
        shop.client(other, "billing")
        fault_server.hold()
        shop.queue.add("git", "POST", "/stuck")
        for number in range(50):
            shop.queue.add("billing", "POST", f"/{number}")
        shop.worker.start()
        fault_server.wait_for_requests(1)
        other.wait_for_requests(50)
        shop.queue.add("billing", "POST", "/late")
        other.wait_for_requests(51)
        assert len(fault_server.requests) == 1
        fault_server.release()
        until(lambda: shop.queue.list() == [])


def test_a_sick_service_holds_up_nobody(shop: Workshop, fault_server: FaultServer) -> None:
    """While one service fails, all letters of another arrive."""
    with FaultServer() as other:
        shop.client(fault_server, "git")
        shop.client(other, "billing")
        fault_server.default = Answer(500)
        shop.queue.add("git", "POST", "/sick")
        for number in range(50):
            shop.queue.add("billing", "POST", f"/{number}")
        shop.worker.start()
        other.wait_for_requests(50)
    fault_server.wait_for_requests(1)


def test_starting_twice_starts_once(shop: Workshop) -> None:
    """The second start changes nothing, and after a stop it can be started again."""
    gate = Gate()
    gate.opened.set()
    shop.worker.register("note", gate)
    shop.worker.start()
    before = [each for each in threading.enumerate() if each.name == "dead-letters"]
    shop.worker.start()
    assert [each for each in threading.enumerate() if each.name == "dead-letters"] == before
    assert shop.worker.running
    assert shop.worker.stop()
    assert not shop.worker.running
    shop.worker.start()
    shop.queue.add_message("note", 1)
    until(lambda: gate.got == [1])


def test_stopping_what_never_began_is_no_matter(shop: Workshop) -> None:
    """There is nothing to wait for."""
    assert shop.worker.stop()
    assert shop.worker.stop(timeout=0.0)


def test_stop_waits_for_the_letter_in_hand(shop: Workshop) -> None:
    """It is finished and settled; those behind it are given back at once, not tried."""
    gate = Gate()
    shop.worker.register("note", gate)
    letters = [shop.queue.add_message("note", number) for number in range(3)]
    shop.worker.start()
    assert gate.entered.wait(PATIENCE)
    stopped: list[bool] = []
    stopper = threading.Thread(target=lambda: stopped.append(shop.worker.stop()))
    stopper.start()
    until(lambda: [shop.letter(each).status for each in letters[1:]] == [LetterStatus.PENDING] * 2)
    assert stopped == []
    gate.opened.set()
    stopper.join(PATIENCE)

    assert stopped == [True]
    assert gate.got == [0]
    assert shop.queue.get(letters[0]) is None
    assert shop.worker.counts["skipped"] == 2


def test_stop_waits_no_longer_than_it_is_asked_to(shop: Workshop) -> None:
    """What takes longer is still settled when it ends."""
    gate = Gate()
    shop.worker.register("note", gate)
    letters = [shop.queue.add_message("note", number) for number in range(2)]
    shop.worker.start()
    assert gate.entered.wait(PATIENCE)

    assert not shop.worker.stop(timeout=0.01)
    assert shop.letter(letters[1]).status is LetterStatus.PENDING
    gate.opened.set()
    until(lambda: shop.queue.get(letters[0]) is None)
    assert gate.got == [0]
    assert shop.worker.stop()


def test_a_handler_may_stop_the_worker(shop: Workshop) -> None:
    """It does not wait for itself, and its message is settled."""

    def handler(payload: Any) -> None:
        shop.worker.stop(timeout=0.01)

    shop.worker.register("last", handler)
    letter = shop.queue.add_message("last", 1)
    shop.worker.start()
    until(lambda: shop.queue.get(letter) is None)
    assert shop.worker.stop()


def test_the_worker_outlives_a_store_that_fails(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable file is told, and work goes on when it is readable again."""
    gate = Gate()
    gate.opened.set()
    shop.worker.register("note", gate)
    failed = threading.Event()

    def broken(*_: Any, **__: Any) -> Any:
        failed.set()
        raise StorageError("/var/letters.db: disk I/O error")

    with caplog.at_level(logging.ERROR, "service_utils"), monkeypatch.context() as patch:
        patch.setattr(shop.store, "lease", broken)
        shop.queue.add_message("note", 1)
        shop.worker.start()
        assert failed.wait(PATIENCE)
        until(lambda: "disk I/O error" in caplog.text)
    until(lambda: gate.got == [1])
    assert shop.worker.running


def test_a_delivery_that_cannot_be_noted_is_made_again(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, fault_server: FaultServer
) -> None:
    """A store that fails after the service's answer costs a second request with the same key."""
    workshop = Workshop(lease_seconds=60.0)
    try:
        workshop.client(fault_server)
        letter = workshop.queue.add("git", "POST", "/a")

        def broken(*_: Any, **__: Any) -> Any:
            raise StorageError("/var/letters.db: no space left")

        with monkeypatch.context() as patch:
            patch.setattr(workshop.store, "settle", broken)
            with pytest.raises(StorageError):
                workshop.worker.run_once()
        assert workshop.letter(letter).status is LetterStatus.LEASED
        workshop.clock.advance(60.0)
        assert workshop.worker.run_once()["delivered"] == 1
    finally:
        workshop.close()
    first, second = fault_server.requests
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


def test_the_worker_outlives_any_bug(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure nobody has foreseen is logged with its traceback, and the letter is not lost."""
    gate = Gate()
    gate.opened.set()
    shop.worker.register("note", gate)
    send, calls = shop.worker._sender.handle, []

    def broken(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise ZeroDivisionError("unforeseen")
        return send(*given)

    monkeypatch.setattr(shop.worker._sender, "handle", broken)
    with caplog.at_level(logging.ERROR, "service_utils"):
        shop.queue.add_message("note", 1)
        shop.worker.start()
        until(lambda: gate.got == [1])
        until(lambda: "unforeseen" in caplog.text)


def test_a_lease_that_ran_out_makes_our_word_void(fault_server: FaultServer) -> None:
    """A worker that was too slow changes nothing: the letter is another's by then."""
    first = Workshop(lease_seconds=60.0)
    second = DeadLetterWorker(first.queue, ServiceRegistry(), clock=first.clock)
    got: list[str] = []

    def slow(payload: Any) -> None:
        got.append("slow")
        first.clock.advance(61.0)
        assert second.run_once()["delivered"] == 1
        raise OSError("too late to say")

    first.worker.register("note", slow)
    second.register("note", lambda payload: got.append("quick"))
    letters = [first.queue.add_message("note", 1)]

    assert first.worker.run_once() == {
        "leased": 1,
        "delivered": 0,
        "retried": 0,
        "dead": 0,
        "skipped": 0,
        "lost": 1,
    }
    assert got == ["slow", "quick"]
    assert first.events == [(letters[0], "delivered", 1)]
    first.close()


def test_leases_of_a_slow_batch_are_kept() -> None:
    """Letters that wait for their turn in a batch stay ours although each takes a while."""
    workshop = Workshop(lease_seconds=60.0)
    other = DeadLetterWorker(workshop.queue, ServiceRegistry(), clock=workshop.clock)
    taken: list[int] = []
    other.register("note", taken.append)

    def slow(payload: int) -> None:
        workshop.clock.advance(25.0)
        other.run_once()

    workshop.worker.register("note", slow)
    for number in range(10):
        workshop.queue.add_message("note", number)

    assert workshop.worker.run_once()["delivered"] == 10
    assert taken == []
    workshop.close()


def test_a_handler_that_outlasts_its_lease_is_not_called_beside_itself() -> None:
    """Another worker may have the message then; this one does not take it up a second time meanwhile."""
    workshop = Workshop(clock=SYSTEM, interval=0.01, lease_seconds=0.02)
    stuck, other = Gate(), Gate()
    other.opened.set()
    workshop.worker.register("stuck", stuck)
    workshop.worker.register("other", other)
    workshop.queue.add_message("stuck", 1)
    workshop.worker.start()
    assert stuck.entered.wait(PATIENCE)
    until(lambda: "stuck" in workshop.store.waiting(SYSTEM.now().timestamp()))
    for number in range(3):  # some more looks at the queue
        workshop.queue.add_message("other", number)
        until(lambda number=number: number in other.got)

    assert stuck.got == [1]
    stuck.opened.set()
    workshop.close()


def test_a_forked_child_works_when_it_is_started_there(shop: Workshop) -> None:
    """The parent's thread and letters in hand are not the child's."""
    gate = Gate()
    shop.worker.register("note", gate)
    shop.queue.add_message("note", "parent's")
    shop.worker.start()
    assert gate.entered.wait(PATIENCE)

    def work() -> Any:
        running = shop.worker.running
        gate.opened.set()
        shop.worker.register("other", gate)
        shop.queue.add_message("other", "child's")
        shop.worker.start()
        until(lambda: "child's" in gate.got)
        return running, shop.worker.stop(), gate.got

    assert in_child(work) == (False, True, ["parent's", "child's"])
    gate.opened.set()
    until(lambda: shop.queue.list() == [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interval": 0}, "interval=0"),
        ({"interval": "5"}, "interval='5'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"lease_seconds": 0}, "lease_seconds=0"),
        ({"jitter": 2}, "jitter=2"),
        ({"backoff": 5}, "backoff=5"),
        ({"clock": 5}, "clock=5"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], said: str) -> None:
    """Argument and value stand in the error."""
    with pytest.raises((TypeError, ValueError), match=said):
        Workshop(**{"clock": None, **options})


def test_queue_and_registry_must_be_what_they_should(shop: Workshop) -> None:
    """A mistaken argument is found at once, not in the background."""
    with pytest.raises(TypeError, match="queue="):
        DeadLetterWorker("letters.db", shop.registry)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="registry="):
        DeadLetterWorker(shop.queue, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout=-1"):
        shop.worker.stop(timeout=-1)
