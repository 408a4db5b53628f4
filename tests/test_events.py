"""Events: told to everybody, broken by nobody."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from service_utils.calls import CallRecord, EndReason, Outcome
from service_utils.events import (
    CallFinished,
    CircuitRejected,
    CircuitState,
    Event,
    FailureKind,
    Hush,
    count_hushed,
    notify,
    notify_rejection,
    routine_wanted,
    subscribe,
)
from service_utils.events import telling as events
from tests.forked import in_child
from tests.side_by_side import in_thread, together

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


class Choosy:
    """Says what it wants, and keeps what it is told."""

    def __init__(self, *, routine: bool = False, hush: Hush | None = None) -> None:
        self.told: list[Event] = []
        self._routine = routine
        self._hush = hush

    def __call__(self, event: Event) -> None:
        self.told.append(event)

    def wants_routine(self) -> bool:
        return self._routine

    def hush(self, who: tuple[str, str], generation: int, at: float) -> Hush | None:
        return self._hush


class Unsure(Choosy):
    """Has a bug where it should say what it wants."""

    def wants_routine(self) -> bool:
        raise LookupError("no such level")

    def hush(self, who: tuple[str, str], generation: int, at: float) -> Hush | None:
        raise LookupError("no such count")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which nobody has subscribed, not even the log."""
    monkeypatch.setattr(events, "_subscribers", {})


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("listeners", "wanted"),
    [
        ([], False),
        ([lambda event: None], True),
        ([Choosy()], False),
        ([Choosy(), Choosy(routine=True)], True),
        ([Choosy(), lambda event: None], True),
        ([Unsure()], True),
    ],
)
def test_who_wants_to_hear_of_calls_that_go_well(
    listeners: list[events.Listener], wanted: bool, subscribed: Subscribe
) -> None:
    """Everybody does who does not say otherwise, be it a client's listener or a subscriber."""
    assert routine_wanted(listeners) is wanted
    for listener in listeners:
        subscribed(listener)
    assert routine_wanted(()) is wanted


@pytest.mark.usefixtures("nobody")
def test_what_is_wanted_changes_with_who_listens(subscribed: Subscribe) -> None:
    """Those who come are heard at once, and those who leave no more."""
    answers = [routine_wanted(())]
    end = subscribed(lambda event: None)
    answers.append(routine_wanted(()))
    end()
    answers.append(routine_wanted(()))
    assert answers == [False, True, False]


def reject(listeners: tuple[events.Listener, ...] = (), at: float = 2.0) -> Hush | None:
    return notify_rejection(listeners, ("Chroma Server", "chroma"), 3, at, CircuitState.OPEN, 7.5)


@pytest.mark.usefixtures("nobody")
def test_a_rejection_is_told(subscribed: Subscribe) -> None:
    """Listeners hear of a rejection first, then the subscribers, all of them the same event."""
    told: list[tuple[str, Event]] = []
    subscribed(lambda event: told.append(("process", event)))
    reject((lambda event: told.append(("client", event)),))

    assert [who for who, _ in told] == ["client", "process"]
    assert told[0][1] is told[1][1]
    assert told[0][1] == CircuitRejected(
        service="Chroma Server",
        name="chroma",
        at=2.0,
        state=CircuitState.OPEN,
        cooldown_remaining=7.5,
        generation=3,
    )


@pytest.mark.usefixtures("nobody")
def test_a_hushed_rejection_is_not_even_made(subscribed: Subscribe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all listeners only count for now, there is no event."""
    monkeypatch.delattr(events, "CircuitRejected")
    hushes = [Hush(9.0), Hush(9.0)]
    subscribed(Choosy(hush=hushes[0]))
    reject((Choosy(hush=hushes[1]),))
    assert [hush.unsaid for hush in hushes] == [1, 1]


@pytest.mark.usefixtures("nobody")
def test_one_hush_silences_nobody_else(subscribed: Subscribe) -> None:
    """Others are told each rejection, whoever counts."""
    plain: list[Event] = []
    counting, telling = Choosy(hush=Hush(9.0)), Choosy()
    for listener in (plain.append, counting, telling):
        subscribed(listener)

    assert reject() is None
    assert reject() is None

    assert (len(plain), len(counting.told), len(telling.told)) == (2, 0, 2)


@pytest.mark.usefixtures("nobody")
def test_a_listener_that_cannot_say_is_told(subscribed: Subscribe) -> None:
    """A bug in what a listener says of itself keeps nothing from it, or from others."""
    unsure, other = Unsure(), Choosy()
    subscribed(unsure)
    assert reject((other,)) is None
    assert (len(unsure.told), len(other.told)) == (1, 1)


@pytest.mark.usefixtures("nobody")
def test_a_hush_is_counted_without_asking(subscribed: Subscribe) -> None:
    """The hush of one that listens alone is good until its time, and until somebody else comes."""
    hush = Hush(9.0)
    subscribed(Choosy(hush=hush))
    assert reject() is hush

    assert count_hushed(hush, 8.9)
    assert not count_hushed(hush, 9.0)
    assert not count_hushed(None, 8.9)
    subscribed(lambda event: None)
    assert not count_hushed(hush, 8.9)
    assert hush.unsaid == 2


@pytest.mark.usefixtures("nobody")
def test_hushed_rejections_of_many_threads(subscribed: Subscribe) -> None:
    """However many threads count at once, none is lost, those included that somebody reads meanwhile."""
    hush = Hush(9.0)
    subscribed(Choosy(hush=hush))
    reject()

    def count(index: int) -> int:
        read = 0
        for _ in range(2000):
            if index:
                assert count_hushed(hush, 2.0)
            else:
                some, hush.unsaid = hush.unsaid, 0
                read += some
        return read

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        read = together(8, count)
    finally:
        sys.setswitchinterval(before)
    assert sum(read) + hush.unsaid == 1 + 7 * 2000


def test_subscribing_in_a_forked_child() -> None:
    """A child can subscribe, even if another thread was just doing so when it was forked."""
    with events._subscribing:
        assert in_child(lambda: in_thread(lambda: subscribe(lambda event: None)))


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
    event = CallFinished(
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
