"""The gate that a Retry-After closes for everybody."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.errors import CircuitOpenError, RateLimitedError
from service_utils.events import CallsPaused, RateLimited
from service_utils.policies import gate as gate_module
from service_utils.policies.deadline import Deadline
from service_utils.policies.gate import RetryAfterGate
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import together


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Busy(Exception):
    def __init__(self, retry_after: Any) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


def test_open_until_somebody_is_told(clock: FakeClock) -> None:
    """A new gate holds nobody."""
    gate = RetryAfterGate(clock=clock)
    assert (gate.closed, gate.remaining(), gate.delay(), gate.wait()) == (False, 0.0, 0.0, 0.0)


def test_closed_for_as_long_as_was_asked(clock: FakeClock) -> None:
    """It opens by itself when the time is over."""
    gate = RetryAfterGate(clock=clock)
    gate.close(5)
    clock.advance(4)
    assert gate.remaining() == 1.0
    clock.advance(1)
    assert gate.remaining() == 0.0
    assert not gate.closed
    assert repr(gate) == "<RetryAfterGate 'retry-after' open>"


def test_a_shorter_pause_does_not_end_a_longer_one(clock: FakeClock) -> None:
    """The service has asked for both, so the one that ends later counts."""
    gate = RetryAfterGate(clock=clock)
    gate.close(9)
    gate.close(2)
    assert gate.remaining() == 9.0
    gate.close(12)
    assert gate.remaining() == 12.0


@given(st.floats(0, 1e18), st.floats(0, 100), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_delays_are_within_their_bounds(asked: float, most: float, jitter: float, drawn: float) -> None:
    """Nobody comes back before the pause is over, nor later than the jitter allows above it."""
    gate = RetryAfterGate(most, jitter, clock=FakeClock())
    gate.close(asked)
    pause = min(asked, most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_module, "_uniform", lambda: drawn)
        assert pause <= gate.delay() <= pause * (1 + jitter) * (1 + 1e-12)
    assert gate.closed == (pause > 0)


def test_callers_come_back_at_different_moments(clock: FakeClock) -> None:
    """Each draws a wait of its own, also when little of the pause is left."""
    gate = RetryAfterGate(clock=clock)
    gate.close(40)
    clock.advance(39)
    delays = {gate.delay() for _ in range(50)}
    assert len(delays) == 50
    assert min(delays) >= 1.0
    assert 5.0 < max(delays) <= 11.0


def test_the_jitter_leaves_room_within_the_time_there_is(clock: FakeClock) -> None:
    """Whoever has time for the rest of the pause waits, however long that was when it was asked for."""
    gate = RetryAfterGate(clock=clock)
    gate.close(40)
    clock.advance(39.5)
    assert all(0.5 <= gate.delay(2.0) < 2.0 for _ in range(100))
    assert gate.wait(Deadline.after(2.0, clock)) < 2.0
    gate.close(40)
    assert gate.delay(2.0) == pytest.approx(40.0)


def test_a_deadline_is_no_number(clock: FakeClock) -> None:
    """A number of seconds in its place is refused at once, not when the gate closes one day."""
    with pytest.raises(TypeError, match="deadline=5"):
        RetryAfterGate(clock=clock).wait(5)  # type: ignore[arg-type]


def test_waiting_moves_on_to_the_end(clock: FakeClock) -> None:
    """Whoever waits sleeps through the pause."""
    gate = RetryAfterGate(clock=clock)
    gate.close(8)
    assert 8.0 <= gate.wait() <= 10.0


def test_who_has_less_time_does_not_wait(clock: FakeClock) -> None:
    """With a deadline before the end of the pause one is refused at once, and told how long it lasts."""
    told: list[Any] = []
    gate = RetryAfterGate(clock=clock, name="git", label="Git Server", listeners=[told.append])
    gate.close(8)
    with pytest.raises(RateLimitedError, match="Git Server: the service has asked for a pause") as caught:
        gate.wait(Deadline.after(3, clock))
    assert (caught.value.retry_after, caught.value.service) == (8.0, "Git Server")
    assert clock.slept == []
    assert gate.get_status() == {"closed": True, "remaining": 8.0, "rejected": 1}
    paused, limited = told
    assert isinstance(paused, CallsPaused)
    assert (paused.seconds, paused.name) == (8.0, "git")
    assert isinstance(limited, RateLimited)
    assert (limited.retry_after, limited.reason) == (8.0, "Retry-After")


def test_a_pause_is_told_once(clock: FakeClock) -> None:
    """Sixty answers that ask for the same are one event; the next pause is another."""
    told: list[Any] = []
    gate = RetryAfterGate(clock=clock, listeners=[told.append])
    for _ in range(60):
        gate.close(5)
        clock.advance(0.01)
    assert len(told) == 1
    clock.advance(10)
    gate.close(5)
    assert len(told) == 2


def test_opened_by_hand(clock: FakeClock) -> None:
    """reset() ends the pause."""
    gate = RetryAfterGate(clock=clock)
    gate.close(5)
    gate.reset()
    assert (gate.closed, gate.remaining()) == (False, 0.0)


def test_a_function_behind_the_gate(clock: FakeClock) -> None:
    """What a function raises closes the gate for the next one, if it says for how long."""
    gate = RetryAfterGate(clock=clock)
    answers = iter([Busy(4), "there"])

    @gate
    def ask() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(Busy):
        ask()
    assert gate.remaining() == 4.0
    assert ask() == "there"
    assert 4.0 <= clock.monotonic() <= 5.0


@pytest.mark.parametrize("said", [None, "4", True, -1, math.nan])
def test_what_is_no_time_closes_nothing(clock: FakeClock, said: Any) -> None:
    """An exception whose retry_after is no number of seconds is only an exception."""
    gate = RetryAfterGate(clock=clock)

    def ask() -> None:
        raise Busy(said)

    with pytest.raises(Busy):
        gate.call(ask)
    assert not gate.closed


def test_our_own_refusals_pause_nobody(clock: FakeClock) -> None:
    """How long our circuit stays open is nothing that the service has asked for."""
    gate = RetryAfterGate(clock=clock)

    def ask() -> None:
        raise CircuitOpenError("Git Server", 40.0)

    with pytest.raises(CircuitOpenError):
        gate.call(ask)
    assert not gate.closed


def test_functions_that_would_not_run_behind_it(clock: FakeClock) -> None:
    """Coroutine and generator functions are refused, when they are decorated or called."""
    gate = RetryAfterGate(clock=clock)

    async def later() -> None:
        await asyncio.sleep(0)

    def piecemeal() -> Iterator[int]:
        yield 1

    for func, what in ((later, "is async"), (piecemeal, "generator"), (3, "must be a function")):
        with pytest.raises(TypeError, match=what):
            gate(func)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=what):
            gate.call(func)  # type: ignore[arg-type]


def test_a_clock_may_begin_anywhere() -> None:
    """A pause is heeded, opened by hand and heeded again also where the clock counts from below zero."""
    gate = RetryAfterGate(clock=FakeClock(start=-100.0))
    gate.close(5)
    assert gate.remaining() == 5.0
    gate.reset()
    gate.close(3)
    assert gate.remaining() == 3.0


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"max_seconds": -1}, ValueError, "max_seconds=-1"),
        ({"max_seconds": "9"}, TypeError, "max_seconds='9'"),
        ({"jitter": 1.5}, ValueError, "jitter=1.5"),
        ({"name": ""}, ValueError, "name=''"),
        ({"label": 5}, ValueError, "label=5"),
        ({"clock": 3}, TypeError, "clock=3"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], named: str) -> None:
    """Each is refused by name and value."""
    with pytest.raises(error, match=named):
        RetryAfterGate(**arguments)


@pytest.mark.parametrize(("seconds", "error"), [("5", TypeError), (-1, ValueError), (math.nan, ValueError)])
def test_bad_pauses(seconds: Any, error: type[Exception]) -> None:
    """A pause that is no number of seconds is refused."""
    with pytest.raises(error, match="seconds="):
        RetryAfterGate().close(seconds)


def test_a_forked_child_heeds_the_pause(clock: FakeClock) -> None:
    """The pause holds for the child, too; who was refused is the parent's own count."""
    gate = RetryAfterGate(clock=clock)
    gate.close(5)
    gate.refusal()
    assert in_child(gate.get_status) == {"closed": True, "remaining": 5.0, "rejected": 0}


def test_sixty_four_threads_close_and_look() -> None:
    """The longest pause of all that were asked for is the one that holds."""
    clock = FakeClock()
    gate = RetryAfterGate(1000, clock=clock)
    looked: list[float] = []
    barrier = threading.Barrier(64)

    def work(number: int) -> None:
        barrier.wait(10)
        gate.close(number + 1)
        looked.append(gate.remaining())

    together(64, work)
    assert gate.remaining() == 64.0
    assert min(looked) >= 1.0
