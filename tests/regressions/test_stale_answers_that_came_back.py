"""A StaleCache kept, shared or lost answers that it should not have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests

from service_utils import DeadlineExceeded, RateLimitedError, StaleCache
from service_utils.calls import CallRecord, EndReason, attach_call
from service_utils.policies.fallback.answers import Worth, worth_of_error
from service_utils.policies.fallback.last_answers import LastAnswers
from service_utils.policies.fallback.single_flight import _leading
from service_utils.testing import FakeClock
from tests.side_by_side import PATIENCE


class UnderWay:
    """A call in another thread, made for nobody else, that ends when the test says so."""

    def __init__(self, cache: StaleCache, answer: object) -> None:
        self._began, self._go = threading.Event(), threading.Event()

        def slow() -> object:
            self._began.set()
            assert self._go.wait(PATIENCE)
            return answer

        # Within another call of the cache it waits for no other thread, and no other thread for it.
        self._thread = threading.Thread(
            target=lambda: cache.call(self, lambda: cache.call("k", slow)), daemon=True
        )
        self._cache, self._slow = cache, slow

    def start(self) -> UnderWay:
        self._thread.start()
        assert self._began.wait(PATIENCE)
        return self

    def end(self) -> None:
        self._go.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class Answer:
    """As much of a response as a cache looks at."""

    def __init__(self, status: int) -> None:
        self.status_code = status
        self.headers: dict[str, str] = {}
        self.content = b""

    def raise_for_status(self) -> None:
        return

    def __deepcopy__(self, memo: Any) -> Answer:
        twin = Answer(self.status_code)
        vars(twin).update(vars(self))
        return twin


def leading(cache: StaleCache) -> Callable[[], None]:
    """Another thread that leads a call of the same key meanwhile, so that the one under way is alone."""
    began, go = threading.Event(), threading.Event()

    def work() -> Answer:
        began.set()
        assert go.wait(PATIENCE)
        return Answer(404)

    thread = threading.Thread(target=lambda: cache.call("k", work), daemon=True)
    thread.start()
    assert began.wait(PATIENCE)

    def end() -> None:
        go.set()
        thread.join(PATIENCE)

    return end


def test_a_lonely_call_after_a_no() -> None:
    """What a call brings that began before the service said no is not kept."""
    cache = StaleCache(60, 600)
    end = leading(cache)
    lonely = UnderWay(cache, Answer(200)).start()
    end()
    lonely.end()
    assert cache.call("k", lambda: Answer(403)).status_code == 403


@pytest.mark.parametrize("forget", [lambda cache: cache.clear(), lambda cache: cache.forget("k")])
def test_a_lonely_call_after_forgetting(forget: Callable[[StaleCache], None]) -> None:
    """What a call brings that began before clear() or forget() is not kept."""
    cache = StaleCache(60, 600)
    end = leading(cache)
    lonely = UnderWay(cache, "before").start()
    forget(cache)
    end()
    lonely.end()
    assert cache.call("k", lambda: "after") == "after"


def test_a_newer_answer_is_not_thrown_away() -> None:
    """When a forgotten call ends at last, the answer that came after it stays."""
    cache = StaleCache(60, 600)
    began, go = threading.Event(), threading.Event()

    def old() -> str:
        began.set()
        assert go.wait(PATIENCE)
        return "old"

    thread = threading.Thread(target=lambda: cache.call("k", old), daemon=True)
    thread.start()
    assert began.wait(PATIENCE)
    cache.forget("k")
    cache.call("k", lambda: "new")
    go.set()
    thread.join(PATIENCE)
    assert cache.call("k", lambda: "newest") == "new"


def ended(error: Exception, reason: EndReason) -> Exception:
    attach_call(error, CallRecord("S", "s", "GET", "/", (), None, None, reason))
    return error


@pytest.mark.parametrize(
    "error",
    [
        ended(requests.HTTPError("no time for a retry"), EndReason.DEADLINE),
        RateLimitedError("no time for the pause"),
        DeadlineExceeded("no time"),
    ],
    ids=["retry", "pause", "deadline"],
)
def test_a_hasty_callers_failure_is_his_own(error: Exception) -> None:
    """What failed for one caller's lack of time says nothing to those who have more of it."""
    assert worth_of_error(error) is Worth.OWN
    assert worth_of_error(ended(requests.HTTPError("503"), EndReason.ATTEMPTS_EXHAUSTED)) is Worth.FAILURE


@pytest.mark.parametrize("method", ["fresh", "fetch"])
def test_a_signal_handler_that_asks_the_same(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Code that interrupts a call in its own thread and asks for the same does not wait for that call."""
    cache = StaleCache(60, 600)
    original, nested = getattr(LastAnswers, method), [0]

    def interrupted(self: LastAnswers, *arguments: Any) -> Any:
        nested[0] += 1
        if nested[0] == 2:
            _leading.count = 0  # of this thread: as it is before the call has begun to count
            assert cache.call("k", lambda: "handler") == "handler"
        return original(self, *arguments)

    monkeypatch.setattr(LastAnswers, method, interrupted)
    done = threading.Event()

    def ask() -> None:
        nested[0] = 2 - (method == "fresh") - 1
        cache.call("k", lambda: "call")
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    assert done.wait(PATIENCE)


def test_the_lock_is_free_when_an_answer_goes() -> None:
    """What an answer runs at its end may take its time: the cache serves others meanwhile."""
    cache = StaleCache(60, 600, max_entries=1, copy=lambda answer: answer)
    free: list[bool] = []

    class Last:
        def __del__(self) -> None:
            other = threading.Thread(target=lambda: free.append(bool(cache.get_status())), daemon=True)
            other.start()
            other.join(2)
            free.append(not other.is_alive())

    cache.call("one", Last)
    cache.call("two", lambda: "another")
    assert free == [True, True]


def test_another_caches_old_answer_is_not_kept() -> None:
    """What is stale in one cache is not fresh in another."""
    clock = FakeClock()
    old = Answer(200)
    old._stale_age = 30.0  # type: ignore[attr-defined]
    cache = StaleCache(60, 600, clock=clock)
    cache.call("k", lambda: old)
    assert cache.get_status()["entries"] == 0
