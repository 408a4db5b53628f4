"""Threads that ask a StaleCache for the same at the same time: one call, and nobody waits for nobody."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import requests

from service_utils.calls import CallRecord, EndReason, attach_call
from service_utils.errors import DeadlineExceeded, ServiceError
from service_utils.policies.fallback import StaleCache
from service_utils.policies.fallback.single_flight import Ending, Flight, SingleFlight
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import PATIENCE, in_thread, together

THREADS = 64


class Slow:
    """A function whose calls wait until so many others wait for them; each ends as the plan says.

    Args:
        cache: Whose waiting threads are counted.
        plan: What the calls return or raise, in order; the last stands for all further ones.
    """

    def __init__(self, cache: StaleCache, *plan: Any) -> None:
        self.cache = cache
        self.plan = list(plan)
        self.calls = 0
        self.waiting: list[int] = []  # how many must wait, for the first calls
        self.error: BaseException | None = None

    def __call__(self) -> Any:
        number, self.calls = self.calls, self.calls + 1
        if number < len(self.waiting):
            wait_until_waiting(self.cache, self.waiting[number])
        result = self.plan[min(number, len(self.plan) - 1)]
        if isinstance(result, BaseException):
            raise result
        return result


def flights_of(cache: StaleCache) -> list[Flight]:
    """The calls that are under way."""
    return list(cache._answers._flights._flights.values())


def wait_until_waiting(cache: StaleCache, number: int) -> None:
    until = time.monotonic() + PATIENCE
    while sum(flight.waiting for flight in flights_of(cache)) < number:
        assert time.monotonic() < until, "they do not wait"
        time.sleep(0.001)


def outcome(work: Callable[[], Any]) -> Any:
    """What it returns or raises."""
    try:
        return work()
    except BaseException as error:  # some of these tests interrupt threads
        return error


@pytest.fixture
def cache() -> StaleCache:
    return StaleCache(60, 60, clock=FakeClock())


def ask(cache: StaleCache, slow: Slow, threads: int = THREADS) -> list[Any]:
    """What each of so many threads gets."""
    return together(threads, lambda _: outcome(lambda: cache.call("k", slow)))


def test_one_call(cache: StaleCache) -> None:
    """64 threads that ask at once are answered by one call, each with a copy of its own."""
    slow = Slow(cache, {"items": [1]})
    slow.waiting = [THREADS - 1]

    answers = ask(cache, slow)

    assert slow.calls == 1
    assert answers == [{"items": [1]}] * THREADS
    assert len({id(answer) for answer in answers}) == len({id(each["items"]) for each in answers}) == THREADS
    assert cache.get_status()["coalesced"] == THREADS - 1


class Watched:
    """A key; when it is looked up for the n-th time, something happens first."""

    def __init__(self, turn: int, work: Callable[[], object]) -> None:
        self.turn = turn
        self.work = work

    def __hash__(self) -> int:
        self.turn -= 1
        if self.turn == 0:
            self.work()
        return hash("k")

    def __eq__(self, other: object) -> bool:
        return other == "k"


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_none_too_late(cache: StaleCache, turn: int) -> None:
    """Whoever has looked just before another's answer came does not make a call all the same."""
    key = Watched(turn, lambda: cache.call("k", lambda: "just come"))

    assert cache.call(key, lambda: "once more") == "just come"


def test_keys_side_by_side(cache: StaleCache) -> None:
    """Calls for other keys go on meanwhile: no lock is held over a call."""
    meet = threading.Barrier(8, timeout=PATIENCE)

    assert together(8, lambda number: cache.call(number, lambda: meet.wait() >= 0)) == [True] * 8


def test_a_shared_failure(cache: StaleCache) -> None:
    """A failed call is one call for all who waited, and each gets an error of his own."""
    failed = requests.Response()
    failed.status_code = 503
    error = requests.HTTPError("Shop: failed", response=failed)
    slow = Slow(cache, error)
    slow.waiting = [THREADS - 1]

    errors = ask(cache, slow)

    assert slow.calls == 1
    assert {str(each) for each in errors} == {"Shop: failed"}
    assert {type(each) for each in errors} == {requests.HTTPError}
    assert len({id(each) for each in errors}) == len({id(each.response) for each in errors}) == THREADS


class Odd(ServiceError):
    """An error whose constructor takes something else than its message."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Odder(Exception):
    """One that copy.copy cannot make anew."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"code {code}")
        self.why = why


@pytest.mark.parametrize("error", [Odd(code=7), Odder(7, why="so")])
def test_errors_of_any_make(cache: StaleCache, error: Exception) -> None:
    """Errors with constructors of any kind reach everybody who waited."""
    slow = Slow(cache, error)
    slow.waiting = [3]

    errors = ask(cache, slow, threads=4)

    assert [(type(each), str(each)) for each in errors] == [(type(error), "code 7")] * 4
    assert all(vars(error).items() <= vars(each).items() for each in errors)
    assert len({id(each) for each in errors}) == 4


def test_a_shared_failure_with_an_old_answer() -> None:
    """When the one call fails, everybody gets the old answer, and each of them counts as degraded."""
    cache = StaleCache(0, 60, clock=FakeClock())
    cache.call("k", lambda: "old")
    slow = Slow(cache, requests.ConnectionError("away"))
    slow.waiting = [7]

    assert ask(cache, slow, threads=8) == ["old"] * 8
    assert (slow.calls, cache.get_status()["stale"]) == (1, 8)


def of_a_mistaken_call() -> Exception:
    """What a client raises for an error in its caller's code."""
    error = requests.ConnectionError("of his own session's hook")
    record = CallRecord("Shop", "shop", "GET", "/items", (), None, None, EndReason.CALLER_ERROR)
    attach_call(error, record)
    return error


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
        DeadlineExceeded("his own time is up"),
        requests.exceptions.InvalidURL("his own mistake"),
        of_a_mistaken_call(),
    ],
)
def test_taken_over(cache: StaleCache, error: BaseException) -> None:
    """When the one who calls is interrupted, or ends by a limit or mistake of his own, another one calls."""
    slow = Slow(cache, error, "good")
    slow.waiting = [15, 14]

    answers = ask(cache, slow, threads=16)

    assert slow.calls == 2
    assert [each for each in answers if each != "good"] == [error]
    assert flights_of(cache) == []


def test_private_answers(cache: StaleCache) -> None:
    """An answer that must not be stored is for one caller: each who waited makes a call of his own."""

    class Private(Slow):
        def __call__(self) -> requests.Response:
            super().__call__()
            answer = requests.Response()
            answer.status_code = 200
            answer.headers["Cache-Control"] = "no-store"
            return answer

    slow = Private(cache, None)
    slow.waiting = [7]

    answers = ask(cache, slow, threads=8)

    assert slow.calls == len({id(answer) for answer in answers}) == 8
    assert cache.get_status()["entries"] == 0


def test_asking_within(cache: StaleCache) -> None:
    """A function that asks for its own key does not wait for itself."""

    def outer() -> str:
        return f"outer round {cache.call('k', lambda: 'inner')}"

    assert in_thread(lambda: cache.call("k", outer))


def test_needing_each_other(cache: StaleCache) -> None:
    """Two calls that need each other's answers do not wait for ever, in one cache or in two."""
    other = StaleCache(60, 60, clock=FakeClock())
    meet = threading.Barrier(2, timeout=PATIENCE)

    def work(number: int) -> str:
        first, second = (cache, other) if number else (other, cache)

        def needing() -> str:
            meet.wait()
            return f"with {second.call('k', lambda: 'another')}"

        return first.call("k", needing)

    together(2, work)


def test_nothing_is_held(cache: StaleCache) -> None:
    """An error that nobody waited for is gone as soon as its caller lets go of it."""
    seen: list[weakref.ref[Exception]] = []

    def fail() -> None:
        error = requests.ConnectionError("away")
        seen.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error  # or the frame would refer to what refers to the frame

    gc.disable()
    try:
        with contextlib.suppress(requests.ConnectionError):
            cache.call("k", fail)
        assert [each() for each in seen] == [None]
    finally:
        gc.enable()


class Leading:
    """A turn that makes its call, and must not do anything else."""

    def lead(self, flight: Flight) -> str:
        flight.ending = Ending.SHARED
        return "anew"

    def follow(self, flight: Flight) -> str:
        raise AssertionError("there is nobody to follow")

    alone = follow

    def patience(self) -> None:
        raise AssertionError("there is nobody to wait for")


def test_a_call_that_was_not_taken_away() -> None:
    """Whoever is interrupted while he lets the others go on leaves nothing that a later caller falls over."""
    flights, key = SingleFlight(FakeClock()), ("k", None)
    left = Flight(key)
    left.done.set()
    flights._flights[key] = left

    assert flights.run(key, Leading()) == "anew"
    assert flights._flights == {}


def test_forks(cache: StaleCache) -> None:
    """A forked child keeps the answers, counts from zero, and waits for no call of its parent's threads."""
    cache.call("kept", lambda: "answer")
    asked, go_on = threading.Event(), threading.Event()

    def hanging() -> str:
        asked.set()
        assert go_on.wait(PATIENCE)
        return "the parent's"

    thread = threading.Thread(target=lambda: cache.call("k", hanging), daemon=True)
    thread.start()
    assert asked.wait(PATIENCE)
    try:
        said = in_child(
            lambda: (
                cache.call("kept", lambda: "anew"),
                cache.call("k", lambda: "the child's"),
                cache.get_status()["misses"],
            )
        )
    finally:
        go_on.set()
        thread.join(PATIENCE)

    assert said == ("answer", "the child's", 1)
    assert cache.call("k", lambda: "anew") == "the parent's"


def test_forking_within_a_call(cache: StaleCache) -> None:
    """A call that forks goes on in the child, where others can wait for it again."""

    def forking() -> Any:
        thread = threading.Thread(target=lambda: outcome(lambda: cache.call("k", lambda: 1)), daemon=True)
        thread.start()
        wait_until_waiting(cache, 1)

        def go_on() -> Any:
            own = threading.Thread(target=lambda: cache.call("k", lambda: 1), daemon=True)
            own.start()
            wait_until_waiting(cache, 1)
            [flight] = flights_of(cache)
            cache._answers._flights._land(flight)
            own.join(PATIENCE)
            return own.is_alive()

        return in_child(go_on)

    assert cache.call("k", forking) is False
