"""@with_retry: any function, called again when it fails."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service_utils.clock import SystemClock
from service_utils.policies import checks, retry
from service_utils.policies.backoff import fixed
from service_utils.policies.budget import RetryBudget
from service_utils.policies.retry import RetryPolicy, with_retry
from service_utils.testing import FakeClock


class AwayError(Exception):
    """What the functions here fail with."""

    def __init__(self, number: int, retry_after: float | None = None) -> None:
        super().__init__(f"failure {number}")
        self.number = number
        self.retry_after = retry_after


def failing(times: int, retry_after: float | None = None) -> Callable[[], int]:
    """A function that fails so many times and then returns the number of its call."""
    calls = []

    def func() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise AwayError(len(calls), retry_after)
        return len(calls)

    return func


def failing_async(times: int) -> Callable[[], Any]:
    """The same as a coroutine function."""
    inner = failing(times)

    async def func() -> int:
        return inner()

    return func


@pytest.fixture
def clock() -> FakeClock:
    """A clock that moves on by itself when this thread sleeps."""
    return FakeClock()


def test_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """@with_retry without brackets means all defaults."""
    monkeypatch.setattr(retry, "_uniform", lambda: 1.0)
    monkeypatch.setattr(checks, "SYSTEM", clock := FakeClock())
    func = with_retry(failing(2))
    assert func() == 3
    assert clock.slept == [0.5, 1.0]


def test_empty_brackets(clock: FakeClock) -> None:
    """By default there are three attempts, one and two seconds apart at most."""
    func = with_retry(clock=clock)(failing(9))
    with pytest.raises(AwayError, match="failure 3"):
        func()
    first, second = clock.slept
    assert 0.5 <= first <= 1.0 <= second <= 2.0


def test_positional_arguments(clock: FakeClock) -> None:
    """Attempts, delay and back-off factor may be given by position."""
    func = with_retry(5, 0.1, 3.0, jitter=0, clock=clock)(failing(9))
    with pytest.raises(AwayError, match="failure 5"):
        func()
    assert clock.slept == pytest.approx([0.1, 0.3, 0.9, 2.7])


def test_max_delay(clock: FakeClock) -> None:
    """Delays grow to max_delay and no further."""
    func = with_retry(5, max_delay=3, jitter=0, clock=clock)(failing(9))
    with pytest.raises(AwayError):
        func()
    assert clock.slept == [1, 2, 3, 3]


def test_the_very_exception(clock: FakeClock) -> None:
    """The last exception is raised as it is: same object, no wrapper, its own traceback."""
    raised: list[Exception] = []

    @with_retry(clock=clock)
    def func() -> None:
        raised.append(AwayError(len(raised) + 1))
        raise raised[-1]

    with pytest.raises(AwayError) as caught:
        func()
    assert caught.value is raised[2]
    assert caught.traceback[-1].name == "func"


def test_other_exceptions_pass(clock: FakeClock) -> None:
    """What is not among the exceptions is no reason to try again."""
    func = with_retry(exceptions=(KeyError, ValueError), clock=clock)(failing(9))
    with pytest.raises(AwayError, match="failure 1"):
        func()
    assert clock.slept == []


def test_one_exception_type(clock: FakeClock) -> None:
    """A single type needs no tuple."""
    assert with_retry(exceptions=AwayError, clock=clock)(failing(1))() == 2


def test_keeps_name_docstring_and_signature(clock: FakeClock) -> None:
    """The decorated function looks like the one it was."""

    @with_retry(clock=clock)
    def charge(user: str, *, cents: int = 0) -> bool:
        """Charge a user."""
        return bool(user and cents)

    assert charge.__name__ == "charge"
    assert charge.__doc__ == "Charge a user."
    assert list(inspect.signature(charge).parameters) == ["user", "cents"]
    assert charge("alice", cents=5) is True


def test_methods(clock: FakeClock) -> None:
    """Methods can be decorated, and each call has its own attempts."""

    class Thing:
        def __init__(self) -> None:
            self.calls = 0

        @with_retry(clock=clock)
        def ask(self) -> int:
            self.calls += 1
            if self.calls % 3:
                raise AwayError(self.calls)
            return self.calls

    thing = Thing()
    assert [thing.ask(), thing.ask()] == [3, 6]


def test_async_function(clock: FakeClock) -> None:
    """A coroutine function stays one, and waits without blocking its loop."""
    func = with_retry(jitter=0, clock=clock)(failing_async(2))
    assert inspect.iscoroutinefunction(func)
    assert asyncio.run(func()) == 3
    assert clock.slept == [1.0, 2.0]


def test_async_last_exception(clock: FakeClock) -> None:
    """A coroutine raises its last exception as it is, too."""
    func = with_retry(clock=clock)(failing_async(9))
    with pytest.raises(AwayError, match="failure 3"):
        asyncio.run(func())


def test_partial_of_a_coroutine_function(clock: FakeClock) -> None:
    """A partial of a coroutine function is awaited as well."""

    async def add(left: int, right: int) -> int:
        return left + right

    assert asyncio.run(with_retry(clock=clock)(functools.partial(add, 1))(2)) == 3


@pytest.mark.parametrize("make", [failing, failing_async])
def test_no_sleep_overruns_the_timeout(make: Callable[[int], Any], clock: FakeClock) -> None:
    """With 2.5 s for everything the second wait, of 2 s after 1 s, is not begun."""
    func = with_retry(9, jitter=0, timeout=2.5, clock=clock)(make(9))
    with pytest.raises(AwayError, match="failure 2"):
        _finish(func)
    assert clock.slept == [1.0]


def test_a_sleep_that_ends_with_the_timeout_is_not_begun(clock: FakeClock) -> None:
    """A wait after which no time is left is no use."""
    func = with_retry(jitter=0, timeout=1.0, clock=clock)(failing(9))
    with pytest.raises(AwayError, match="failure 1"):
        func()
    assert clock.slept == []


def test_attempts_count_towards_the_timeout(clock: FakeClock) -> None:
    """Time spent in attempts is time spent."""
    calls = []

    @with_retry(9, jitter=0, timeout=10, clock=clock)
    def slow() -> None:
        calls.append(1)
        clock.advance(6)
        raise AwayError(len(calls))

    with pytest.raises(AwayError, match="failure 2"):
        slow()
    assert clock.slept == [1.0]


@pytest.mark.parametrize("make", [failing, failing_async])
def test_overslept(make: Callable[[int], Any], clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a wait lasts longer than it should, no attempt begins after the timeout."""

    async def async_sleep(seconds: float) -> None:
        clock.advance(seconds + 5)

    monkeypatch.setattr(clock, "sleep", lambda seconds: clock.advance(seconds + 5))
    monkeypatch.setattr(clock, "async_sleep", async_sleep)
    func = with_retry(9, jitter=0, timeout=3, clock=clock)(make(9))
    with pytest.raises(AwayError, match="failure 1"):
        _finish(func)


def test_running_coroutine_is_cut() -> None:
    """On the machine's clock a coroutine that hangs is cut when the time for everything is up."""
    began = []

    @with_retry(3, 0.001, timeout=0.05)
    async def hang() -> None:
        began.append(1)
        if len(began) == 1:
            raise AwayError(1)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="the time for all attempts is up"):
        asyncio.run(hang())
    assert len(began) == 2


def test_a_cut_attempt_is_not_tried_again() -> None:
    """After the time is up nothing begins, even where a TimeoutError is worth a retry."""
    began = []

    @with_retry(9, 0, timeout=0.05, exceptions=TimeoutError)
    async def hang() -> None:
        began.append(1)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(hang())
    assert began == [1]


def test_a_cut_is_the_end_whatever_the_clock_says() -> None:
    """Event loops wake a little early: what was cut is over, also when the clock still sees time left."""
    began = []

    class Late(SystemClock):
        def monotonic(self) -> float:
            return 100.0

    @with_retry(9, 0, timeout=0.05, clock=Late())
    async def hang() -> None:
        began.append(1)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(hang())
    assert began == [1]


def test_time_outs_of_the_functions_own_are_retried() -> None:
    """A TimeoutError that the function raises by itself is a failure like any other."""
    calls = []

    @with_retry(delay=0, timeout=30)
    async def times_out_once() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise TimeoutError("its own")
        return "answer"

    assert asyncio.run(times_out_once()) == "answer"


def test_another_clock_cuts_nothing(clock: FakeClock) -> None:
    """With a clock of one's own the running attempt ends by itself; only the waits are bounded."""

    @with_retry(timeout=1, clock=clock)
    async def slow() -> str:
        clock.advance(100)
        await asyncio.sleep(0)
        return "answer"

    assert asyncio.run(slow()) == "answer"


def test_tasks_do_not_share_attempts(clock: FakeClock) -> None:
    """Calls under way at the same time in one loop count their own failures."""
    calls: dict[int, int] = {}

    @with_retry(3, delay=0, clock=clock)
    async def fetch(number: int) -> int:
        calls[number] = calls.get(number, 0) + 1
        await asyncio.sleep(0)
        if calls[number] < 3:
            raise AwayError(number)
        return number

    async def main() -> list[int]:
        return list(await asyncio.gather(*(fetch(number) for number in range(20))))

    assert asyncio.run(main()) == list(range(20))


def test_threads_do_not_share_attempts() -> None:
    """Calls under way at the same time in many threads count their own failures."""
    barrier = threading.Barrier(8)
    calls: dict[int, int] = {}
    answers: list[int] = []

    @with_retry(3, delay=0)
    def fetch(number: int) -> int:
        calls[number] = calls.get(number, 0) + 1
        if calls[number] < 3:
            raise AwayError(number)
        return number

    def run(number: int) -> None:
        barrier.wait(10)
        answers.append(fetch(number))

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == list(range(8))


def test_sleeping_blocks_only_the_caller() -> None:
    """While one thread waits for its retry another one's call goes through."""
    clock = FakeClock(auto_advance=False)
    first, second = failing(1), failing(0)
    decorated = with_retry(jitter=0, clock=clock)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(decorated(first)()), daemon=True)
    thread.start()
    clock.wait_for_sleepers(1)
    assert decorated(second)() == 1
    assert answers == []
    clock.advance(1)
    thread.join(20)
    assert answers == [2]


def test_retry_after_of_an_error(clock: FakeClock) -> None:
    """An error that says when to come back makes the wait that long, up to a quarter more."""
    assert with_retry(clock=clock)(failing(1, retry_after=20))() == 2
    assert 20 <= clock.slept[0] <= 25


def test_retry_after_beyond_patience(clock: FakeClock) -> None:
    """An error that asks for more than a minute is raised at once."""
    with pytest.raises(AwayError, match="failure 1"):
        with_retry(clock=clock)(failing(9, retry_after=60.5))()
    assert clock.slept == []


def test_retry_after_at_the_end_of_patience(clock: FakeClock) -> None:
    """A minute is still waited for."""
    assert with_retry(clock=clock)(failing(1, retry_after=60))() == 2
    assert 60 <= clock.slept[0] <= 75


def test_retry_after_beyond_the_timeout(clock: FakeClock) -> None:
    """An error that asks for more than the time there is, too."""
    with pytest.raises(AwayError, match="failure 1"):
        with_retry(timeout=10, clock=clock)(failing(9, retry_after=11))()
    assert clock.slept == []


def test_no_budget_by_default(clock: FakeClock) -> None:
    """Retries of plain functions cost nothing: the hundredth call has as many as the first."""
    for _ in range(100):
        with pytest.raises(AwayError, match="failure 3"):
            with_retry(clock=clock)(failing(9))()


def test_policy(clock: FakeClock) -> None:
    """A policy brings its attempts, its back-off and its budget."""
    budget = RetryBudget(ratio=0, capacity=2)
    func = with_retry(
        policy=RetryPolicy(max_attempts=9, backoff=fixed(7), jitter=0, budget=budget), clock=clock
    )(failing(99))
    with pytest.raises(AwayError, match="failure 3"):
        func()
    assert clock.slept == [7, 7]
    assert budget.balance == 0


def test_policy_goes_with_timeout_and_exceptions(clock: FakeClock) -> None:
    """What a policy does not say may be said beside it."""
    func = with_retry(policy=RetryPolicy(jitter=0), timeout=1.5, exceptions=AwayError, clock=clock)(
        failing(9)
    )
    with pytest.raises(AwayError, match="failure 2"):
        func()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_attempts", 3),
        ("max_attempts", 7),
        ("delay", 1.0),
        ("backoff", 2.0),
        ("max_delay", 30.0),
        ("jitter", 0.5),
    ],
)
def test_policy_and_what_it_replaces(argument: str, value: float) -> None:
    """Saying the same thing twice is refused by name and value, even when it is the default."""
    with pytest.raises(ValueError, match=f"{argument}={value!r}.*policy="):
        with_retry(policy=RetryPolicy(), **{argument: value})  # type: ignore[call-overload]


def test_signature_shows_the_defaults() -> None:
    """Help and editors show what happens by default."""
    defaults = {
        name: repr(parameter.default) for name, parameter in inspect.signature(with_retry).parameters.items()
    }
    assert defaults["max_attempts"] == "3"
    assert defaults["delay"] == "1.0"
    assert defaults["backoff"] == "2.0"
    assert defaults["max_delay"] == "30.0"
    assert defaults["jitter"] == "0.5"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_attempts", 0),
        ("delay", -1),
        ("delay", math.inf),
        ("backoff", 0.5),
        ("backoff", math.nan),
        ("max_delay", -1),
        ("jitter", 2),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", math.nan),
    ],
)
def test_out_of_range(argument: str, value: Any) -> None:
    """An argument out of its range is refused when decorating, by name and value."""
    with pytest.raises(ValueError, match=f"{argument}={value!r}"):
        with_retry(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_attempts", "3"),
        ("max_attempts", True),
        ("delay", "1"),
        ("backoff", None),
        ("timeout", "5"),
        ("exceptions", "KeyError"),
        ("exceptions", (KeyError, 1)),
        ("exceptions", BaseException),
        ("exceptions", (KeyboardInterrupt,)),
        ("policy", 3),
    ],
)
def test_wrong_type(argument: str, value: Any) -> None:
    """An argument of the wrong type is refused when decorating, by name and value."""
    with pytest.raises(TypeError) as caught:
        with_retry(**{argument: value})
    assert f"{argument}={value!r}" in str(caught.value)


def test_generator_functions_are_refused() -> None:
    """A generator function fails only when it is iterated, so decorating it is a mistake."""

    def numbers() -> Any:
        yield 1

    async def async_numbers() -> Any:
        yield 1

    for func in (numbers, async_numbers):
        with pytest.raises(TypeError, match="generator"):
            with_retry()(func)
        with pytest.raises(TypeError, match="generator"):
            with_retry(func)


@pytest.mark.parametrize("thing", [None, 1, "text"])
def test_only_callables(thing: Any) -> None:
    """What cannot be called cannot be decorated."""
    with pytest.raises(TypeError, match="only functions"):
        with_retry()(thing)


def test_interrupts_pass(clock: FakeClock) -> None:
    """Ctrl-C ends the attempts at once."""

    @with_retry(clock=clock)
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert clock.slept == []


def test_does_not_load_asyncio() -> None:
    """Programs without coroutines do not pay for asyncio."""
    program = (
        "import sys; from service_utils.policies.retry import with_retry; "
        "assert with_retry(lambda: 1)() == 1; sys.exit('asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def _finish(func: Callable[[], Any]) -> Any:
    result = func()
    return asyncio.run(result) if inspect.iscoroutine(result) else result
