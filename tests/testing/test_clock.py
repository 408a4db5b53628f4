"""FakeClock: time for tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest

from service_utils.clock import Clock, wait_for
from service_utils.testing import FakeClock


class InThread:
    """A function under way in another thread; ``result`` waits for it and hands on what it raised."""

    def __init__(self, func: Callable[[], object]) -> None:
        self._func = func
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._func()
        except BaseException as error:  # handed on to the test
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def finish(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


def test_is_a_clock() -> None:
    """A FakeClock fits every ``clock=`` argument."""
    assert isinstance(FakeClock(), Clock)


def test_stands_still() -> None:
    """Without anybody moving it the time does not change."""
    clock = FakeClock(start=7.0)
    assert (clock.monotonic(), clock.monotonic()) == (7.0, 7.0)
    assert clock.now() == clock.now()


def test_advance_moves_both_times() -> None:
    """advance() moves the monotonic time and the time of day by as much."""
    clock = FakeClock(start=1.0, now=datetime(2030, 5, 1, tzinfo=UTC))
    clock.advance(2.5)
    assert clock.monotonic() == 3.5
    assert clock.now() == datetime(2030, 5, 1, 0, 0, 2, 500_000, tzinfo=UTC)


def test_now_is_told_in_utc() -> None:
    """A start in another time zone is the same moment, told in UTC."""
    clock = FakeClock(now=datetime(2030, 5, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now() == datetime(2030, 5, 1, tzinfo=UTC)
    assert clock.now().tzinfo is UTC


def test_set_now_leaves_the_monotonic_time_alone() -> None:
    """A jump of the time of day, even backwards, is no passing of time."""
    clock = FakeClock(start=5.0)
    clock.advance(10)
    clock.set_now(datetime(2001, 1, 1, tzinfo=UTC))
    assert clock.monotonic() == 15.0
    clock.advance(1)
    assert clock.now() == datetime(2001, 1, 1, 0, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_advance_refuses_what_is_no_way_forward(seconds: float) -> None:
    """advance() takes only a finite number that is not negative."""
    clock = FakeClock()
    with pytest.raises(ValueError, match="seconds="):
        clock.advance(seconds)
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("start", {"start": float("nan")}),
        ("patience", {"patience": 0.0}),
        ("now", {"now": datetime(2030, 1, 1)}),  # noqa: DTZ001 - naive is what is refused
    ],
)
def test_bad_arguments_are_named(name: str, arguments: dict[str, object]) -> None:
    """A bad argument is refused by its name when the clock is made."""
    with pytest.raises(ValueError, match=f"^{name}="):
        FakeClock(**arguments)  # type: ignore[arg-type]


def test_sleep_in_the_thread_that_made_the_clock_moves_the_time() -> None:
    """Where nobody else could move the time, sleeping does it and returns at once."""
    clock = FakeClock()
    clock.sleep(3)
    clock.sleep(0.5)
    assert clock.monotonic() == 3.5


def test_sleep_of_nothing_returns_at_once_in_any_thread() -> None:
    """Zero and negative seconds are no sleep, and do not move the time back."""
    clock = FakeClock(start=10.0)
    clock.sleep(-5)
    InThread(lambda: clock.sleep(0)).finish()
    assert clock.monotonic() == 10.0


def test_sleep_refuses_what_is_no_number() -> None:
    """Sleeping for NaN seconds is a mistake of the code under test."""
    with pytest.raises(ValueError, match="seconds=nan"):
        FakeClock().sleep(float("nan"))


def test_slept_lists_what_was_asked_for() -> None:
    """``slept`` has every request in order, those for nothing too."""
    clock = FakeClock()
    clock.sleep(1)
    clock.sleep(0)
    asyncio.run(clock.async_sleep(0.25))
    assert clock.slept == [1, 0, 0.25]


def test_sleep_in_another_thread_waits_for_its_time() -> None:
    """Another thread sleeps until advance() has reached its time, and no shorter."""
    clock = FakeClock()
    sleeping = InThread(lambda: clock.sleep(10))
    clock.wait_for_sleepers(1)
    clock.advance(9.99)
    assert clock.sleepers == 1
    assert sleeping.running
    clock.advance(0.01)
    assert clock.sleepers == 0
    sleeping.finish()


def test_each_sleeper_wakes_at_its_own_time() -> None:
    """Of many sleepers every step wakes those who are due, whatever the order in which they lay down."""
    clock = FakeClock()
    sleeping = {seconds: InThread(partial(clock.sleep, seconds)) for seconds in (3, 1, 2)}
    clock.wait_for_sleepers(3)
    for seconds in (1, 2, 3):
        clock.advance(1)
        assert clock.sleepers == 3 - seconds
        sleeping[seconds].finish()


def test_one_step_wakes_everybody_it_passes() -> None:
    """A step past several due times wakes all of them, and they see the time after the step."""
    clock = FakeClock()
    seen: list[float] = []

    def sleep(seconds: int) -> None:
        clock.sleep(seconds)
        seen.append(clock.monotonic())

    sleeping = [InThread(partial(sleep, seconds)) for seconds in (4, 2, 5, 1, 3)]
    clock.wait_for_sleepers(5)
    clock.advance(10)
    for each in sleeping:
        each.finish()
    assert seen == [10.0] * 5


def test_a_sleeper_of_the_makers_thread_wakes_the_others() -> None:
    """Time that the test's own thread sleeps away passes for the other threads too."""
    clock = FakeClock()
    sleeping = InThread(lambda: clock.sleep(2))
    clock.wait_for_sleepers(1)
    clock.sleep(2)
    sleeping.finish()


def test_auto_advance_on_lets_any_thread_move_the_time() -> None:
    """With auto_advance=True no thread ever waits."""
    clock = FakeClock(auto_advance=True)
    InThread(lambda: clock.sleep(60)).finish()
    assert clock.monotonic() == 60.0


def test_auto_advance_off_makes_the_makers_thread_wait_too() -> None:
    """With auto_advance=False the thread that made the clock waits for somebody else to advance it."""
    clock = FakeClock(auto_advance=False)

    def helper() -> None:
        clock.wait_for_sleepers(1)
        clock.advance(1)

    helping = InThread(helper)
    clock.sleep(1)
    helping.finish()
    assert clock.monotonic() == 1.0


def test_a_forgotten_sleeper_says_so() -> None:
    """A thread whom nobody wakes gets a RuntimeError after the clock's patience, so that no test hangs."""
    clock = FakeClock(patience=0.02)
    with pytest.raises(RuntimeError, match=r"sleeps 5 s on a FakeClock that nobody has advanced"):
        InThread(lambda: clock.sleep(5)).finish()
    assert clock.sleepers == 0


def test_wait_for_sleepers_gives_up() -> None:
    """Waiting for sleepers that never come ends with a TimeoutError that counts them."""
    with pytest.raises(TimeoutError, match="0 instead of 2 sleepers"):
        FakeClock().wait_for_sleepers(2, timeout=0.01)


def test_async_sleep_in_the_thread_that_made_the_clock_moves_the_time() -> None:
    """A coroutine that sleeps in the test's thread moves the time and lets others run."""
    clock = FakeClock()
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    async def main() -> None:
        task = asyncio.create_task(other())
        await clock.async_sleep(1.5)
        ran.append("main")
        await task

    asyncio.run(main())
    assert ran == ["other", "main"]
    assert clock.monotonic() == 1.5


def test_async_sleep_of_nothing_still_lets_others_run() -> None:
    """``async_sleep(0)`` is a pause of no length, as with asyncio."""
    clock = FakeClock()
    asyncio.run(clock.async_sleep(0))
    assert clock.monotonic() == 0.0


def test_async_sleepers_wait_without_blocking_their_loop() -> None:
    """Coroutines of another thread wait for advance() side by side and wake in the order of their times."""
    clock = FakeClock()
    woken: list[int] = []

    async def sleep(seconds: int) -> None:
        await clock.async_sleep(seconds)
        woken.append(seconds)

    async def main() -> None:
        await asyncio.gather(sleep(3), sleep(1), sleep(2))

    running = InThread(lambda: asyncio.run(main()))
    clock.wait_for_sleepers(3)
    clock.advance(5)
    running.finish()
    assert woken == [1, 2, 3]


def test_a_cancelled_coroutine_sleeps_no_more() -> None:
    """A coroutine that is cancelled in its sleep is no sleeper any longer."""
    clock = FakeClock(auto_advance=False)

    async def main() -> None:
        task = asyncio.create_task(clock.async_sleep(10))
        await asyncio.sleep(0)
        assert clock.sleepers == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert clock.sleepers == 0
    clock.advance(20)


def test_a_forgotten_coroutine_says_so() -> None:
    """A coroutine whom nobody wakes gets a RuntimeError, too."""
    clock = FakeClock(auto_advance=False, patience=0.02)
    with pytest.raises(RuntimeError, match="nobody has advanced"):
        asyncio.run(clock.async_sleep(5))
    assert clock.sleepers == 0


def test_a_closed_loop_does_not_stop_the_others() -> None:
    """A coroutine left behind in a closed event loop does not keep advance() from waking others."""
    clock = FakeClock(auto_advance=False)
    loop = asyncio.new_event_loop()
    left_behind = loop.create_task(clock.async_sleep(1))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    sleeping = InThread(lambda: clock.sleep(2))
    clock.wait_for_sleepers(2)
    clock.advance(3)
    sleeping.finish()
    assert not left_behind.done()
    left_behind.get_coro().close()
    left_behind._log_destroy_pending = False  # type: ignore[attr-defined]  # nobody will run it, as intended


def test_waiting_in_vain_moves_the_time() -> None:
    """In the thread that made the clock a wait for what does not come passes its time at once."""
    clock = FakeClock()
    assert not wait_for(threading.Event().wait, 7.0, clock)
    assert clock.monotonic() == 7.0


def test_waiting_for_what_is_there_takes_no_time() -> None:
    """What is there already is not waited for, and it is taken once."""
    clock, looks = FakeClock(), []
    assert wait_for(lambda seconds: not looks.append(seconds), 7.0, clock)
    assert (clock.monotonic(), looks) == (0.0, [0.0])
    assert not wait_for(threading.Event().wait, 0.0, clock)
    assert clock.monotonic() == 0.0


def test_another_thread_waits_until_the_time_has_come() -> None:
    """A wait in another thread ends when the clock is advanced far enough, or the thing comes before that."""
    clock, thing, came = FakeClock(), threading.Event(), []
    waiting = InThread(lambda: came.append(wait_for(thing.wait, 7.0, clock)))
    clock.wait_for_sleepers(1)
    clock.advance(7)
    waiting.finish()
    waiting = InThread(lambda: came.append(wait_for(thing.wait, 7.0, clock)))
    clock.wait_for_sleepers(1)
    thing.set()
    waiting.finish()
    assert came == [False, True]
    assert clock.sleepers == 0


def test_a_forgotten_wait_says_so() -> None:
    """A wait that nothing ends gets a RuntimeError."""
    clock = FakeClock(auto_advance=False, patience=0.02)
    with pytest.raises(RuntimeError, match="nobody has advanced"):
        wait_for(threading.Event().wait, 5.0, clock)
    assert clock.sleepers == 0


def test_repr_tells_time_and_sleepers() -> None:
    """The repr says what a failing test wants to know."""
    assert repr(FakeClock(start=2.0)) == "FakeClock(monotonic=2.0, sleepers=0)"
