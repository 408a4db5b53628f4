"""CacheWithFallback: Redis, or memory while it is away."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis

from service_utils import CircuitBreaker
from service_utils.fallbacks import CacheWithFallback, MemoryCache
from service_utils.fallbacks import cache as cache_module
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import together

AWAY = redis.ConnectionError("Connection refused")


class Redis(MemoryCache):
    """A Redis that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.calls = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("get", "set", "delete", "incr"):
            self.calls += 1
            if self.error is not None:
                raise self.error
        return super().__getattribute__(name)


@pytest.fixture
def server() -> Redis:
    return Redis()


@pytest.fixture
def cache(server: Redis, fake_clock: FakeClock) -> CacheWithFallback:
    return CacheWithFallback(server, MemoryCache(clock=fake_clock), clock=fake_clock)


def test_redis_is_used_while_it_is_there(cache: CacheWithFallback, server: Redis) -> None:
    """Everything goes to Redis, and nothing is kept in memory."""
    assert cache.set("a", 1, ex=9) is True
    assert (cache.incr("a", 2), cache.decr("a"), cache.ttl("a"), cache.expire("a", 5)) == (3, 2, 9, True)
    assert (cache.get("a"), cache.exists("a"), cache.delete("a")) == (b"2", 1, 1)
    assert cache.get_status()["entries_in_memory"] == 0
    assert cache.get_status()["using"] == "redis"


@pytest.mark.parametrize("error", [AWAY, redis.TimeoutError("slow"), OSError("reset"), TimeoutError()])
def test_memory_is_used_while_redis_is_away(
    cache: CacheWithFallback, server: Redis, error: Exception
) -> None:
    """While Redis cannot be reached the memory answers."""
    server.error = error
    assert (cache.set("a", 1), cache.get("a"), cache.incr("a")) == (True, b"1", 2)
    assert cache.get_status()["using"] == "memory"


def test_circuit_spares_redis(cache: CacheWithFallback, server: Redis, fake_clock: FakeClock) -> None:
    """After three failures Redis is not asked for ten seconds; then it is, and used again."""
    server.error, server.calls = AWAY, 0
    for _ in range(10):
        cache.get("a")
    assert (server.calls, cache.breaker.state.value) == (3, "open")
    server.error = None
    fake_clock.advance(10)
    cache.set("a", 1)
    assert (server.get("a"), cache.breaker.state.value, cache.get_status()["using"]) == (
        b"1",
        "closed",
        "redis",
    )


def test_old_values_do_not_come_back(cache: CacheWithFallback, server: Redis, fake_clock: FakeClock) -> None:
    """What was set or deleted without Redis is gone there when it is back; the rest is still there."""
    for key in "abc":
        cache.set(key, "old")
    server.error = AWAY
    cache.set("a", "new")
    cache.delete("b")
    server.error = None
    fake_clock.advance(10)
    assert [cache.get(key) for key in "abc"] == [None, None, b"old"]


def test_memory_of_an_outage_is_forgotten_after_it(
    cache: CacheWithFallback, server: Redis, fake_clock: FakeClock
) -> None:
    """The next outage does not bring back what was in memory in this one."""
    server.error = AWAY
    cache.set("a", "then")
    server.error = None
    cache.get("x")
    server.error = AWAY
    assert cache.get("a") is None


def test_redis_that_goes_away_while_it_forgets(cache: CacheWithFallback, server: Redis) -> None:
    """What could not be deleted there is deleted the next time."""
    cache.set("a", "old")
    server.error = AWAY
    cache.delete("a")
    assert cache.get("x") is None
    assert cache.get_status()["changed_meanwhile"] == 1
    server.error = None
    assert cache.get("a") is None
    assert cache.get_status()["changed_meanwhile"] == 0


def test_change_while_redis_forgets(cache: CacheWithFallback, server: Redis) -> None:
    """What is changed once more while the old value is being deleted is deleted again."""
    server.error = AWAY
    cache.delete("a")
    server.error = None
    delete = server.delete

    def slow(*keys: Any) -> int:
        server.error = AWAY
        cache.delete("a")
        return delete(*keys)

    server.delete = slow  # type: ignore[method-assign]
    cache.get("x")
    assert cache.get_status()["changed_meanwhile"] == 1


def test_answers_of_redis_pass(cache: CacheWithFallback, server: Redis) -> None:
    """An error that Redis has answered with is the caller's, and no sign of an outage."""
    server.error = redis.ResponseError("WRONGTYPE")
    for _ in range(5):
        with pytest.raises(redis.ResponseError):
            cache.get("a")
    assert (cache.breaker.state.value, cache.get_status()["using"]) == ("closed", "redis")


def test_catch(server: Redis, fake_clock: FakeClock) -> None:
    """With catch= exactly those mean that Redis is away."""
    cache = CacheWithFallback(server, MemoryCache(), catch=redis.ResponseError)
    server.error = redis.ResponseError("LOADING")
    assert cache.get("a") is None
    server.error = AWAY
    with pytest.raises(redis.ConnectionError):
        cache.get("a")


def test_interrupt_passes(server: Redis, fake_clock: FakeClock) -> None:
    """Ctrl-C is nobody's failure, and holds no probe back."""
    breaker = CircuitBreaker("redis", failure_threshold=1, recovery_timeout=5, clock=fake_clock)
    cache = CacheWithFallback(server, MemoryCache(), breaker=breaker)
    server.error = AWAY
    cache.get("a")
    fake_clock.advance(5)
    server.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        cache.get("a")
    server.error = None
    cache.get("a")
    assert breaker.state.value == "closed"


def test_log_lines(
    cache: CacheWithFallback, server: Redis, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage is told once when it begins and once when it ends."""
    caplog.set_level(logging.INFO, "service_utils")
    server.error = AWAY
    for _ in range(5):
        cache.get("a")
    server.error = None
    fake_clock.advance(10)
    cache.get("a")
    lines = [each.getMessage() for each in caplog.records if "Cache" in each.getMessage()]
    assert lines == ["[redis] Cache in memory only (connection failed)", "[redis] Cache in Redis again"]


def test_more_changes_than_can_be_remembered(
    cache: CacheWithFallback, server: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The number of changes that are remembered is bounded, and a line says when some are not."""
    monkeypatch.setattr(cache_module, "_MOST_CHANGED", 3)
    server.error = AWAY
    for number in range(10):
        cache.delete(str(number))
    assert cache.get_status()["changed_meanwhile"] == 3
    assert sum("More than 3 keys" in each.getMessage() for each in caplog.records) == 1


def test_threads(cache: CacheWithFallback, server: Redis) -> None:
    """Redis may go away and come back among many threads: nobody gets an error or another's value."""

    def work(number: int) -> None:
        for step in range(50):
            if number == 0:
                server.error = AWAY if step % 2 else None
            cache.set(str(number), step)
            assert cache.get(str(number)) in (None, str(step).encode())

    together(4, work)


def test_forked_child(cache: CacheWithFallback, server: Redis) -> None:
    """A child leaves it to its parent to delete what changed before."""
    server.error = AWAY
    cache.delete("a")
    assert in_child(lambda: cache.get_status()["changed_meanwhile"]) == 0
    assert cache.get_status()["changed_meanwhile"] == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"redis": object()}, TypeError),
        ({"memory": {}}, TypeError),
        ({"name": ""}, ValueError),
        ({"breaker": object()}, TypeError),
        ({"catch": int}, TypeError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Bad arguments are refused at once."""
    with pytest.raises(error, match=f"{next(iter(arguments))}="):
        CacheWithFallback(**{"redis": Redis(), "memory": MemoryCache()} | arguments)
