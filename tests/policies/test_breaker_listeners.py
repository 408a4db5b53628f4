"""What a breaker's listeners may do: everything, and nothing that harms it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from service_utils.calls import Outcome
from service_utils.errors import CircuitOpenError
from service_utils.events import CircuitChanged, CircuitRejected, Event
from service_utils.events import telling as events
from service_utils.logs import LoggingListener
from service_utils.policies.breaker import CircuitBreaker
from service_utils.testing import FakeClock
from tests.policies.circuits import (
    RECOVERY,
    THRESHOLD,
    Ear,
    fail,
    half_open_breaker,
    make_breaker,
    open_breaker,
    succeed,
    totals,
    try_acquire,
)
from tests.side_by_side import in_thread


def everything(breaker: CircuitBreaker) -> None:
    """Each method of a breaker; ends with the state it began with as far as calls can see."""
    breaker.get_stats()
    breaker.retry_after()
    repr(breaker)
    if (permit := try_acquire(breaker)) is not None:
        breaker.release(permit)


def test_listener_runs_without_the_lock(fake_clock: FakeClock) -> None:
    """While a listener runs, other threads use the breaker as if nothing were."""
    free: list[bool] = []

    def listener(event: Event) -> None:
        if isinstance(event, CircuitChanged):
            free.append(in_thread(lambda: everything(breaker)))

    breaker = make_breaker(fake_clock, listeners=[listener])
    fail(breaker, THRESHOLD)
    fake_clock.advance(RECOVERY)
    succeed(breaker)
    breaker.force_open("maintenance")
    breaker.disable("experiment")
    breaker.reset()
    assert free == [True] * 6


def test_listener_runs_without_the_lock_when_calls_are_refused(fake_clock: FakeClock) -> None:
    """Refusals are told without the lock too, by acquire() and by check()."""
    free: list[bool] = []

    def listener(event: Event) -> None:
        if isinstance(event, CircuitRejected):
            free.append(in_thread(breaker.get_stats))

    breaker = open_breaker(fake_clock, listeners=[listener])
    for ask in (breaker.acquire, breaker.check):
        with pytest.raises(CircuitOpenError):
            ask()
    assert free == [True, True]


@pytest.mark.parametrize("how", ["record", "acquire"])
def test_listener_runs_without_the_lock_when_a_probe_has_expired(fake_clock: FakeClock, how: str) -> None:
    """That a silent probe has failed is told without the lock, whoever finds out."""
    free: list[bool] = []

    def listener(event: Event) -> None:
        if isinstance(event, CircuitChanged) and event.reason == "recovery probe failed":
            free.append(in_thread(breaker.get_stats))

    breaker, probe = half_open_breaker(fake_clock, listeners=[listener])
    fake_clock.advance(RECOVERY)
    if how == "record":
        breaker.record(probe, Outcome.SUCCESS)
    else:
        assert try_acquire(breaker) is None
    assert free == [True]


def test_guarded_and_classifying_code_runs_without_the_lock(fake_clock: FakeClock) -> None:
    """Neither the guarded code nor classify keeps others from the breaker."""
    free: list[bool] = []

    def classify(error: Exception) -> None:
        free.append(in_thread(lambda: everything(breaker)))

    def func() -> None:
        free.append(in_thread(lambda: everything(breaker)))
        raise ConnectionResetError

    breaker = make_breaker(fake_clock, classify=classify)
    with pytest.raises(ConnectionResetError):
        breaker.call(func)
    with pytest.raises(ConnectionResetError), breaker:
        func()
    assert free == [True] * 4


def test_listener_may_use_the_breaker(fake_clock: FakeClock) -> None:
    """A listener that calls back into the breaker finds it in its new state, and does not hang."""
    seen = []

    def listener(event: Event) -> None:
        if isinstance(event, CircuitChanged):
            seen.append((event.to_state, breaker.state))
            everything(breaker)

    breaker = make_breaker(fake_clock, listeners=[listener])

    def story() -> None:
        fail(breaker, THRESHOLD)
        fake_clock.advance(RECOVERY)
        succeed(breaker)

    assert in_thread(story)
    assert seen == [("open", "open"), ("half_open", "half_open"), ("closed", "closed")]


def test_listener_may_change_the_breaker(fake_clock: FakeClock) -> None:
    """A listener may even take the circuit in hand: here, one that lets no outage be."""

    def listener(event: Event) -> None:
        if isinstance(event, CircuitChanged) and event.to_state == "open":
            breaker.disable("not on my watch")

    breaker = make_breaker(fake_clock, listeners=[listener])
    assert in_thread(lambda: fail(breaker, THRESHOLD))
    assert breaker.state == "disabled"


def test_listener_with_a_bug_changes_nothing(fake_clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises is logged; calls, states and the other listeners go on as without it."""

    def buggy(event: Event) -> None:
        raise ZeroDivisionError("by a listener")

    ear = Ear()
    breaker = make_breaker(fake_clock, listeners=[buggy, ear])
    fail(breaker, THRESHOLD)
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    fake_clock.advance(RECOVERY)
    with breaker:
        pass
    breaker.force_open("maintenance")
    breaker.reset()

    assert [to for _, to, _ in ear.changes] == ["open", "half_open", "closed", "forced_open", "closed"]
    assert len(ear.rejections) == 1
    assert totals(breaker) == (1, THRESHOLD, 0, 1)
    assert sum("Listener" in record.message for record in caplog.records) == 6


def test_killed_while_a_refusal_is_told(fake_clock: FakeClock) -> None:
    """A call that is killed while its refusal is told counts as refused, and as nothing else."""

    def killing(event: Event) -> None:
        if isinstance(event, CircuitRejected):
            raise KeyboardInterrupt

    breaker = open_breaker(fake_clock, listeners=[killing])
    with pytest.raises(KeyboardInterrupt):
        breaker.acquire()
    assert totals(breaker) == (0, THRESHOLD, 0, 1)


@pytest.fixture
def only_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[[], list[str]]:
    """A process in which only the log listens; gives what it wrote of refusals."""
    listener = LoggingListener()
    monkeypatch.setattr(events, "_subscribers", {object(): listener})
    opening = "[chroma] Circuit breaker OPEN - rejecting request"

    def lines() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        return [text.removeprefix(opening) for text in texts if text.startswith(opening)]

    return lines


@pytest.mark.parametrize("ask", ["acquire", "check", "refused"])
@pytest.mark.parametrize("state", ["open", "forced_open", "half_open"])
def test_refusals_in_the_log(
    fake_clock: FakeClock, only_the_log: Callable[[], list[str]], state: str, ask: str
) -> None:
    """The first refusal has a line, those of the next second are counted, each of them once."""
    breaker, _ = half_open_breaker(fake_clock)
    if state == "open":
        breaker.reset()
        fail(breaker, THRESHOLD)
    elif state == "forced_open":
        breaker.force_open("maintenance")
    for _ in range(38):
        with contextlib.suppress(CircuitOpenError):
            getattr(breaker, ask)()
    fake_clock.advance(1)
    try_acquire(breaker)
    fake_clock.advance(0.9)
    try_acquire(breaker)
    fake_clock.advance(0.1)
    try_acquire(breaker)
    assert only_the_log() == ["", " (37 more)", " (1 more)"]


def test_each_open_spell_begins_with_a_line(
    fake_clock: FakeClock, only_the_log: Callable[[], list[str]]
) -> None:
    """A circuit that opens again within the second is not silent about it."""
    breaker = open_breaker(fake_clock, recovery_timeout=0.1)
    for _ in range(3):
        for _ in range(4):
            assert try_acquire(breaker) is None
        fake_clock.advance(0.1)
        fail(breaker)
    assert only_the_log() == [""] * 3


def test_a_listener_that_comes_later_hears_every_refusal(
    fake_clock: FakeClock, only_the_log: Callable[[], list[str]]
) -> None:
    """While the log only counts, somebody who subscribes is told from then on, and until he leaves."""
    breaker, ear = open_breaker(fake_clock), Ear()
    assert [try_acquire(breaker) for _ in range(5)] == [None] * 5
    end = events.subscribe(ear)
    assert [try_acquire(breaker) for _ in range(5)] == [None] * 5
    end()
    assert [try_acquire(breaker) for _ in range(5)] == [None] * 5
    fake_clock.advance(1)
    try_acquire(breaker)
    assert len(ear.rejections) == 5
    assert only_the_log() == ["", " (14 more)"]


def test_a_listener_of_its_own_hears_every_refusal(
    fake_clock: FakeClock, only_the_log: Callable[[], list[str]]
) -> None:
    """That the log only counts keeps nothing from the breaker's own listeners."""
    ear = Ear()
    breaker = open_breaker(fake_clock, listeners=[ear])
    assert [try_acquire(breaker) for _ in range(5)] == [None] * 5
    assert len(ear.rejections) == 5
    assert only_the_log() == [""]
