"""The machine's clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from service_utils.clock import SYSTEM, Clock, SystemClock, wait_for


def test_system_clock_is_a_clock() -> None:
    """The default of every ``clock=`` argument fulfils the protocol."""
    assert isinstance(SYSTEM, Clock)
    assert isinstance(SYSTEM, SystemClock)


def test_something_without_the_methods_is_no_clock() -> None:
    """The time module has other names and is not mistaken for a clock."""
    assert not isinstance(time, Clock)


def test_monotonic_is_the_systems() -> None:
    """monotonic() lies between two readings of the system's own."""
    before = time.monotonic()
    assert before <= SYSTEM.monotonic() <= time.monotonic()


def test_now_is_the_time_of_day_in_utc() -> None:
    """now() is aware, in UTC, and right."""
    now = SYSTEM.now()
    assert now.tzinfo is UTC
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)


def test_sleep_takes_as_long_as_it_says() -> None:
    """sleep() does not come back early."""
    began = time.monotonic()
    SYSTEM.sleep(0.01)
    assert time.monotonic() - began >= 0.01


@pytest.mark.parametrize("seconds", [0, -1])
def test_sleep_of_nothing_returns_at_once(seconds: float) -> None:
    """Zero and negative seconds are no error and no wait."""
    SYSTEM.sleep(seconds)
    asyncio.run(SYSTEM.async_sleep(seconds))


def test_async_sleep_takes_as_long_as_it_says() -> None:
    """async_sleep() does not come back early."""

    async def main() -> float:
        began = time.monotonic()
        await SYSTEM.async_sleep(0.01)
        return time.monotonic() - began

    # An event loop may fire a timer up to its clock's resolution early.
    assert asyncio.run(main()) >= 0.01 - time.get_clock_info("monotonic").resolution


def test_async_sleep_lets_others_run() -> None:
    """While one coroutine sleeps, the others of its loop go on."""
    order: list[str] = []

    async def sleeper() -> None:
        await SYSTEM.async_sleep(0.01)
        order.append("sleeper")

    async def other() -> None:
        order.append("other")

    async def main() -> None:
        await asyncio.gather(sleeper(), other())

    asyncio.run(main())
    assert order == ["other", "sleeper"]


class OnlySleeps:
    """A clock as a user may write one: it has the four methods of the protocol and no more."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        self.time += 0.25
        return self.time


def test_wait_for_looks_at_a_clock_that_cannot_wait() -> None:
    """A clock without wait() is looked at again and again until its time is over."""
    looked: list[float] = []
    came = wait_for(lambda seconds: bool(looked.append(seconds)), 2.0, cast(Clock, OnlySleeps()))
    assert not came
    assert len(looked) > 2
    assert looked[-1] == 0.0


def test_wait_for_returns_when_the_thing_is_there() -> None:
    """Whatever the clock, what has come ends the waiting."""
    assert wait_for(lambda _: True, 2.0, cast(Clock, OnlySleeps()))
    assert wait_for(lambda _: True, 2.0, SYSTEM)
    assert not wait_for(lambda seconds: seconds > 0, 0.0, SYSTEM)
