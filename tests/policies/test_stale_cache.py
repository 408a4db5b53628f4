"""StaleCache round any function: fresh, stale, forgotten, bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from service_utils.errors import CircuitOpenError, DeadlineExceeded
from service_utils.events import Event, FallbackUsed, subscribe
from service_utils.policies.fallback import StaleCache, collect_degradations, stale_age
from service_utils.policies.fallback.shelf import Fetching, Kept, Shelf
from service_utils.testing import FakeClock

AWAY = requests.ConnectionError("away")


class Service:
    """Answers with the number of the call, unless it has been told to fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return {"call": self.calls, "args": args, "parts": [1, 2]}


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def cache(fake_clock: FakeClock) -> StaleCache:
    return StaleCache(10, 60, clock=fake_clock)


@pytest.fixture
def events() -> Iterator[list[FallbackUsed]]:
    seen: list[FallbackUsed] = []
    unsubscribe = subscribe(lambda event: seen.append(event) if isinstance(event, FallbackUsed) else None)
    yield seen
    unsubscribe()


def response(status: int, body: bytes = b"", **headers: str) -> requests.Response:
    """An answer as requests gives it."""
    made = requests.Response()
    made.status_code = status
    made.url = "http://shop/items"
    made._content = body
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


# -- fresh, stale, gone ---------------------------------------------------------------------------------


def test_fresh(cache: StaleCache, service: Service, fake_clock: FakeClock) -> None:
    """While an answer is fresh nobody is asked."""
    first = cache.call("k", service)
    fake_clock.advance(9.9)

    assert cache.call("k", service) == first
    assert service.calls == 1


def test_no_longer_fresh(cache: StaleCache, service: Service, fake_clock: FakeClock) -> None:
    """After ttl the next call is made, and its answer takes the place of the old one."""
    cache.call("k", service)
    fake_clock.advance(10)

    assert cache.call("k", service)["call"] == 2
    assert cache.call("k", service)["call"] == 2


def test_arguments(cache: StaleCache, service: Service) -> None:
    """The function gets its arguments, one called key included."""
    assert cache.call("k", service, 1, key=2, func=3)["args"] == (1,)


def test_keys_apart(cache: StaleCache, service: Service) -> None:
    """Another key is another answer."""
    assert cache.call("a", service) != cache.call("b", service)


@pytest.mark.parametrize("error", [AWAY, CircuitOpenError("Shop", 5.0), DeadlineExceeded("late")])
def test_stale(cache: StaleCache, service: Service, fake_clock: FakeClock, error: Exception) -> None:
    """When the call fails after ttl, the last good answer stands in for it, time after time."""
    first = cache.call("k", service)
    service.error = error
    fake_clock.advance(69.9)

    assert cache.call("k", service) == first
    assert cache.call("k", service) == first
    assert service.calls == 3


def test_gone(cache: StaleCache, service: Service, fake_clock: FakeClock) -> None:
    """After ttl and stale_for together a failure is a failure."""
    cache.call("k", service)
    service.error = AWAY
    fake_clock.advance(70)

    with pytest.raises(requests.ConnectionError):
        cache.call("k", service)


def test_nothing_kept(cache: StaleCache, service: Service) -> None:
    """The error of the first call is the caller's."""
    service.error = AWAY

    with pytest.raises(requests.ConnectionError) as caught:
        cache.call("k", service)

    assert caught.value is AWAY


def test_stale_only(fake_clock: FakeClock, service: Service) -> None:
    """With ttl=0 the service is asked each time, and its last answer is there when it fails."""
    cache = StaleCache(0, 60, clock=fake_clock)
    cache.call("k", service)

    assert cache.call("k", service)["call"] == 2
    service.error = AWAY
    assert cache.call("k", service)["call"] == 2


def test_none_is_an_answer(cache: StaleCache, fake_clock: FakeClock) -> None:
    """None is kept like any other answer, fresh and stale."""
    asked: list[int] = []

    def nothing() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise AWAY

    cache.call("k", nothing)
    assert cache.call("k", nothing) is None
    fake_clock.advance(20)
    assert cache.call("k", nothing) is None
    assert len(asked) == 2


def test_marked_and_told(
    cache: StaleCache,
    service: Service,
    fake_clock: FakeClock,
    events: list[FallbackUsed],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stale answer is a degraded one, and a log line says so."""
    cache.call("k", service)
    service.error = CircuitOpenError("Shop", 5.0)
    fake_clock.advance(20)

    with caplog.at_level(logging.WARNING, "service_utils"), collect_degradations() as degraded:
        cache.call("k", service)

    assert degraded == ["stale_cache"]
    [event] = events
    assert (event.pattern, event.strategy, event.status) == ("stale_cache", "stale_cache", "success")
    assert (event.service, event.reason) == ("Shop", "circuit open")
    assert "[Shop] Fallback stale_cache used (circuit open)" in caplog.messages


def test_nothing_to_tell(cache: StaleCache, service: Service, events: list[FallbackUsed]) -> None:
    """Fresh answers, new answers and failures without one are no fallback."""
    with collect_degradations() as degraded:
        cache.call("k", service)
        cache.call("k", service)
        service.error = AWAY
        with pytest.raises(requests.ConnectionError):
            cache.call("other", service)

    assert (degraded, events) == ([], [])


def test_own_listeners(service: Service, fake_clock: FakeClock) -> None:
    """Listeners of the cache hear of its stale answers under its name."""
    heard: list[Event] = []
    cache = StaleCache(0, 60, name="last menu", clock=fake_clock, listeners=[heard.append])
    cache.call("k", service)
    service.error = AWAY
    cache.call("k", service)

    [event] = heard
    assert isinstance(event, FallbackUsed)
    assert (event.service, event.strategy) == ("last menu", "last menu")


# -- what counts as a failure ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("k"), requests.exceptions.InvalidURL("no")])
def test_mistakes(cache: StaleCache, service: Service, fake_clock: FakeClock, error: Exception) -> None:
    """Mistakes in the program are never covered up by an old answer."""
    cache.call("k", service)
    service.error = error
    fake_clock.advance(20)

    with pytest.raises(type(error)):
        cache.call("k", service)


def test_catch(service: Service, fake_clock: FakeClock) -> None:
    """With catch= exactly the exceptions named are failures."""
    cache = StaleCache(0, 60, catch=KeyError, clock=fake_clock)
    cache.call("k", service)

    service.error = KeyError("k")
    assert cache.call("k", service)["call"] == 1
    service.error = AWAY
    with pytest.raises(requests.ConnectionError):
        cache.call("k", service)


@pytest.mark.parametrize("status", [408, 429, 500, 503, 599])
@pytest.mark.parametrize("raised", [False, True])
def test_failed_statuses(fake_clock: FakeClock, status: int, raised: bool) -> None:
    """408, 429 and 5xx are failures, returned or raised."""
    cache = StaleCache(0, 60, clock=fake_clock)
    cache.call("k", lambda: response(200, b"good"))

    def fail() -> requests.Response:
        failed = response(status)
        if raised:
            raise requests.HTTPError(response=failed)
        return failed

    answer = cache.call("k", fail)

    assert (answer.status_code, answer.content, stale_age(answer)) == (200, b"good", 0.0)


def test_failed_response_without_an_old_one(cache: StaleCache) -> None:
    """A failed response that was returned is returned when there is nothing better, and not kept."""
    failed = response(503)

    assert cache.call("k", lambda: failed) is failed
    assert cache.get_status()["entries"] == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
@pytest.mark.parametrize("raised", [False, True])
def test_other_4xx(fake_clock: FakeClock, status: int, raised: bool) -> None:
    """Other 4xx are the service's answer: never covered up, and what was kept before is forgotten."""
    cache = StaleCache(0, 60, clock=fake_clock, catch=Exception)
    cache.call("k", lambda: response(200, b"good"))
    refused = response(status)

    def refuse() -> requests.Response:
        if raised:
            raise requests.HTTPError(response=refused)
        return refused

    if raised:
        with pytest.raises(requests.HTTPError):
            cache.call("k", refuse)
    else:
        assert cache.call("k", refuse) is refused

    with pytest.raises(requests.ConnectionError):
        cache.call("k", _raise_away)


def _raise_away() -> requests.Response:
    raise AWAY


@pytest.mark.parametrize(
    "answer",
    [
        response(206, b"part"),
        response(302, Location="/elsewhere"),
        response(200, Cache_Control="private, No-Store"),
        response(200, Vary="Accept, *"),
    ],
    ids=["206", "302", "no-store", "vary"],
)
def test_not_kept(fake_clock: FakeClock, answer: requests.Response) -> None:
    """What is partial, leads elsewhere or must not be stored is not kept; nor is what was there before."""
    cache = StaleCache(0, 60, clock=fake_clock)
    cache.call("k", lambda: response(200, b"good"))
    cache.call("k", lambda: answer)

    with pytest.raises(requests.ConnectionError):
        cache.call("k", _raise_away)


@pytest.mark.parametrize("status", [200, 201, 203, 204, 299])
def test_kept(fake_clock: FakeClock, status: int) -> None:
    """Every other 2xx is kept, whatever it says of its age."""
    cache = StaleCache(0, 60, clock=fake_clock)
    cache.call("k", lambda: response(status, Cache_Control="no-cache, max-age=0", Vary="Accept"))

    assert cache.call("k", _raise_away).status_code == status


# -- copies ---------------------------------------------------------------------------------------------


def test_copies(cache: StaleCache, service: Service) -> None:
    """What one caller does to his answer nobody else sees."""
    first = cache.call("k", service)
    first["parts"].append("mine")
    second = cache.call("k", service)
    second["parts"].append("mine too")

    assert cache.call("k", service)["parts"] == [1, 2]


def test_not_to_be_copied(cache: StaleCache) -> None:
    """An answer that cannot be copied is refused with the way out."""
    with pytest.raises(TypeError, match=r"of type generator cannot be copied .* copy="):
        cache.call("k", lambda: (each for each in [1]))


def test_copy_as_asked(fake_clock: FakeClock) -> None:
    """copy= says how an answer is copied; where nobody changes it, not at all."""
    cache = StaleCache(10, 60, copy=lambda answer: answer, clock=fake_clock)
    answer = object()

    assert cache.call("k", lambda: answer) is answer
    assert cache.call("k", object) is answer


# -- bounds ---------------------------------------------------------------------------------------------


def test_entries_bound(service: Service, fake_clock: FakeClock) -> None:
    """What has not been used for longest makes room."""
    cache = StaleCache(10, 60, max_entries=2, clock=fake_clock)
    for key in ("a", "b", "a", "c"):
        cache.call(key, service)
    assert service.calls == 3

    cache.call("a", service)
    assert service.calls == 3
    cache.call("b", service)
    assert service.calls == 4


def test_bytes_bound(fake_clock: FakeClock) -> None:
    """The bytes of all answers together are bounded."""
    cache = StaleCache(10, 60, max_bytes=100_000, clock=fake_clock)
    for number in range(20):
        cache.call(number, lambda: response(200, b"x" * 10_000))
        assert cache.get_status()["bytes"] <= 100_000

    assert 5 <= cache.get_status()["entries"] <= 9


def test_bytes_within(fake_clock: FakeClock) -> None:
    """Bytes are counted in whatever an answer holds."""
    cache = StaleCache(10, 60, clock=fake_clock)
    cache.call("k", lambda: {"pages": [{"text": "x" * 5000}, ("y" * 5000, {b"z" * 5000})]})

    assert 15_000 < cache.get_status()["bytes"] < 17_000


def test_too_long(fake_clock: FakeClock) -> None:
    """An answer longer than the bound is handed on, but not kept; the one before is not the last any more."""
    cache = StaleCache(0, 60, max_bytes=10_000, clock=fake_clock)
    for key in ("k", "other"):
        cache.call(key, lambda: response(200, b"short"))

    assert len(cache.call("k", lambda: response(200, b"x" * 10_001)).content) == 10_001
    assert cache.call("other", _raise_away).content == b"short"
    with pytest.raises(requests.ConnectionError):
        cache.call("k", _raise_away)


def test_expired_make_room(service: Service, fake_clock: FakeClock) -> None:
    """What is of no use any more is not held for nothing."""
    cache = StaleCache(10, 60, clock=fake_clock)
    for key in range(50):
        cache.call(key, service)
    fake_clock.advance(69)
    cache.call("late", service)
    assert cache.get_status()["entries"] == 51
    fake_clock.advance(1)

    assert cache.get_status()["entries"] == 1


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 6), st.integers(0, 4), st.booleans()), max_size=40
    )
)
def test_shelf_against_a_simple_model(steps: list[tuple[str, int, int, bool]]) -> None:
    """Whatever comes and goes: the bounds hold, and what is found is the last that was put there."""
    shelf, now = Shelf(3, 10, 6.0), 0.0
    model: dict[str, Kept] = {}
    for key, size, wait, reading in steps:
        now += wait
        if reading:
            model = {name: kept for name, kept in model.items() if now - kept.at < 6.0}
            assert shelf.find(key, now, 6.0) is model.get(key)
            if key in model:
                model[key] = model.pop(key)
        else:
            model = {name: kept for name, kept in model.items() if now - kept.at < 6.0 and name != key}
            model[key] = kept = Kept(object(), size, now, now)
            shelf.put(Fetching(key, now), kept)
            while len(model) > 3 or sum(each.size for each in model.values()) > 10:
                del model[next(iter(model))]
    model = {name: kept for name, kept in model.items() if now - kept.at < 6.0}
    assert shelf.counts(now) == (len(model), sum(kept.size for kept in model.values()))


def test_overtaken() -> None:
    """An answer to an earlier call does not take the place of one to a later call."""
    shelf = Shelf(3, 1000, 60.0)
    later, earlier = Kept("later", 1, began=2.0, at=3.0), Kept("earlier", 1, began=1.0, at=4.0)
    shelf.put(Fetching("k", 2.0), later)
    shelf.put(Fetching("k", 1.0), earlier)

    assert shelf.find("k", 4.0, 60.0) is later


# -- the decorator, and the rest ------------------------------------------------------------------------


def test_cached(cache: StaleCache, fake_clock: FakeClock) -> None:
    """A decorated function answers by the key of its arguments."""
    calls: list[str] = []

    @cache.cached(key=lambda user, page=1: (user, page))
    def items(user: str, page: int = 1) -> str:
        """Items of a user."""
        calls.append(user)
        if len(calls) > 2:
            raise AWAY
        return f"{user}'s page {page}"

    assert [items("ann"), items("ann", page=1), items("bob")] == ["ann's page 1"] * 2 + ["bob's page 1"]
    assert calls == ["ann", "bob"]
    fake_clock.advance(20)
    assert items("ann") == "ann's page 1"
    assert (items.__name__, items.__doc__) == ("items", "Items of a user.")


def test_functions_apart(cache: StaleCache) -> None:
    """Two decorated functions with the same key have answers of their own."""
    one, two = (cache.cached(key=lambda: "k")(lambda number=number: number) for number in (1, 2))

    assert (one(), two()) == (1, 2)
    assert cache.call("k", lambda: 3) == 3


def test_clear(cache: StaleCache, service: Service) -> None:
    """After clear() everybody is asked anew."""
    cache.call("k", service)
    cache.clear()

    assert cache.call("k", service)["call"] == 2


def test_forget(cache: StaleCache, service: Service) -> None:
    """After forget() of a key the others are still there."""
    for key in ("a", "b"):
        cache.call(key, service)
    cache.forget("a")

    assert [cache.call(key, service)["call"] for key in ("a", "b")] == [3, 2]


def test_cleared_meanwhile(cache: StaleCache, service: Service) -> None:
    """An answer that was on its way when the cache was cleared is not kept."""

    def clearing() -> dict[str, Any]:
        cache.clear()
        return service()

    cache.call("k", clearing)

    assert cache.call("k", service)["call"] == 2


def test_status(cache: StaleCache, service: Service, fake_clock: FakeClock) -> None:
    """The status counts each kind of answer."""
    cache.call("k", service)
    cache.call("k", service)
    fake_clock.advance(20)
    service.error = AWAY
    cache.call("k", service)
    status = cache.get_status()

    assert {name: status[name] for name in ("hits", "misses", "stale", "coalesced", "passed")} == {
        "hits": 1,
        "misses": 2,
        "stale": 1,
        "coalesced": 0,
        "passed": 0,
    }
    assert (status["ttl"], status["stale_for"], status["entries"]) == (10.0, 60.0, 1)


async def _coroutine() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"ttl": -1}, ValueError),
        ({"ttl": float("nan")}, ValueError),
        ({"ttl": "1"}, TypeError),
        ({"stale_for": float("inf")}, ValueError),
        ({"max_entries": 0}, ValueError),
        ({"max_bytes": 1.5}, TypeError),
        ({"name": ""}, ValueError),
        ({"catch": "all"}, TypeError),
        ({"copy": None}, TypeError),
        ({"clock": 1}, TypeError),
        ({"listeners": [1]}, TypeError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """A bad argument is refused at once by its name."""
    [name] = arguments
    with pytest.raises(error, match=name):
        StaleCache(**{"ttl": 1, "stale_for": 1, **arguments})


def test_wrong_use(cache: StaleCache) -> None:
    """Async functions, generator functions and keys that cannot be one are refused."""
    with pytest.raises(TypeError, match="async"):
        cache.call("k", _coroutine)
    with pytest.raises(TypeError, match="async"):
        cache.cached(key=lambda: 1)(_coroutine)
    with pytest.raises(TypeError, match="generator"):
        cache.cached(key=lambda: 1)(lambda: (yield))
    with pytest.raises(TypeError, match="unhashable"):
        cache.call([], lambda: 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key="):
        cache.cached(key="k")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callable"):
        cache.call("k", 3)  # type: ignore[arg-type]
