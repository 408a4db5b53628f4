"""Events: told to everybody, broken by nobody."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from service_utils import events
from service_utils.calls import CallRecord, EndReason, Outcome
from service_utils.events import CircuitState, Event, FailureKind, notify, subscribe

EVENT = Event(service="Chroma Server", name="chroma", at=1.0)


@pytest.fixture
def subscribed() -> Iterator[Callable[[events.Listener], Callable[[], None]]]:
    """subscribe(), undone after the test."""
    ends: list[Callable[[], None]] = []

    def subscribe_for_now(listener: events.Listener) -> Callable[[], None]:
        end = subscribe(listener)
        ends.append(end)
        return end

    yield subscribe_for_now
    for end in ends:
        end()


Subscribe = Callable[[events.Listener], Callable[[], None]]


def broken(event: Event) -> None:
    """A listener with a bug."""
    raise LookupError("no such label")


def test_listeners_are_told_in_order() -> None:
    """Every listener gets the very event, one after the other, in the caller's thread."""
    told: list[tuple[str, Event, threading.Thread]] = []
    notify(
        [
            lambda event: told.append(("first", event, threading.current_thread())),
            lambda event: told.append(("second", event, threading.current_thread())),
        ],
        EVENT,
    )
    here = threading.current_thread()
    assert told == [("first", EVENT, here), ("second", EVENT, here)]
    assert told[0][1] is EVENT


def test_nobody_listening_is_no_error() -> None:
    """An event that nobody wants is gone."""
    notify([], EVENT)


def test_a_broken_listener_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a listener reaches neither the caller nor the other listeners, but the log."""
    told: list[Event] = []
    notify([broken, told.append], EVENT)
    assert told == [EVENT]
    (line,) = caplog.records
    assert line.name == "service_utils"
    assert line.levelno == logging.ERROR
    assert line.getMessage() == f"[Chroma Server] Listener {broken!r} failed on Event"
    assert line.exc_info is not None
    assert isinstance(line.exc_info[1], LookupError)


def test_a_broken_log_is_borne_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """When even the report of a broken listener fails, the request still goes on."""

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("disk full")

    monkeypatch.setattr(logging.getLogger("service_utils"), "handlers", [Broken()])
    told: list[Event] = []
    notify([broken, told.append], EVENT)
    assert told == [EVENT]


def test_what_is_no_exception_passes() -> None:
    """KeyboardInterrupt and its like are for the program, not for the log."""

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        notify([interrupted], EVENT)


def test_a_subscriber_hears_all_events_of_the_process(subscribed: Subscribe) -> None:
    """subscribe() is for those who want everything, after the listeners of the one who tells it."""
    told: list[str] = []
    subscribed(lambda event: told.append("process"))
    notify([lambda event: told.append("client")], EVENT)
    notify([], EVENT)
    assert told == ["client", "process", "process"]


def test_a_subscription_ends_when_told(subscribed: Subscribe) -> None:
    """The function that subscribe() returns ends it; calling it again does nothing."""
    told: list[Event] = []
    end = subscribed(told.append)
    end()
    end()
    notify([], EVENT)
    assert told == []


def test_each_subscription_stands_alone(subscribed: Subscribe) -> None:
    """A listener subscribed twice is told twice, and ending one of the two leaves the other."""
    told: list[Event] = []
    listener = told.append
    end = subscribed(listener)
    subscribed(listener)
    notify([], EVENT)
    assert len(told) == 2
    end()
    end()
    notify([], EVENT)
    assert len(told) == 3


def test_a_listener_may_end_its_own_subscription(subscribed: Subscribe) -> None:
    """Who wants to hear only the next event can leave while it is told."""
    told: list[Event] = []

    def once(event: Event) -> None:
        told.append(event)
        end()

    end = subscribed(once)
    notify([], EVENT)
    notify([], EVENT)
    assert told == [EVENT]


def test_only_callables_can_subscribe() -> None:
    """What cannot be called is refused at once, not at the first event."""
    with pytest.raises(TypeError, match="listener=3"):
        subscribe(3)  # type: ignore[arg-type]


def test_threads_may_subscribe_at_once(subscribed: Subscribe) -> None:
    """No subscription is lost when many threads subscribe at the same moment."""
    together = threading.Barrier(16)
    told: list[Event] = []

    def join() -> None:
        together.wait(10)
        for _ in range(50):
            subscribed(told.append)

    threads = [threading.Thread(target=join) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    notify([], EVENT)
    assert len(told) == 16 * 50


def test_events_are_values() -> None:
    """An event cannot be changed by one listener under the eyes of the next, and compares by its fields."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVENT.at = 2.0  # type: ignore[misc]
    assert Event(service="Chroma Server", name="chroma", at=1.0) == EVENT


def test_call_finished_has_no_error_unless_said() -> None:
    """A call that ended well says nothing of errors."""
    record = CallRecord("S", "s", "GET", "/", (), None, None, EndReason.SUCCESS)
    event = events.CallFinished(
        service="S", name="s", at=0.0, record=record, outcome=Outcome.SUCCESS, max_attempts=3
    )
    assert (event.error_type, event.detail) == (None, None)


def test_states_are_the_words_of_the_contract() -> None:
    """States and kinds of failure are strings, ready for JSON and labels."""
    assert [str(state) for state in CircuitState] == [
        "closed",
        "open",
        "half_open",
        "forced_open",
        "disabled",
    ]
    assert str(FailureKind.TIMEOUT) == "timeout"
