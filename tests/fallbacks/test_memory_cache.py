"""MemoryCache: a cache in memory with the manners of Redis."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service_utils.fallbacks import MemoryCache
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.side_by_side import together


@pytest.fixture
def cache(fake_clock: FakeClock) -> MemoryCache:
    return MemoryCache(clock=fake_clock)


@pytest.mark.parametrize(
    ("value", "kept"), [("ü", "ü".encode()), (b"\xff", b"\xff"), (7, b"7"), (1.5, b"1.5")]
)
def test_values(cache: MemoryCache, value: Any, kept: bytes) -> None:
    """What is kept comes back as bytes; str and bytes are the same key."""
    assert cache.set("key", value) is True
    assert cache.get(b"key") == kept


def test_text(fake_clock: FakeClock) -> None:
    """With decode_responses values come back as text, whatever is in them."""
    cache = MemoryCache(decode_responses=True)
    cache.set("key", b"\xff")
    text = cache.get("key")
    assert isinstance(text, str)
    assert text.encode("utf-8", "surrogateescape") == b"\xff"


def test_delete_and_exists(cache: MemoryCache) -> None:
    """Both tell how many there were."""
    cache.set("a", 1)
    assert cache.exists("a", "a", "b") == 2
    assert (cache.delete("a", "a", "b"), cache.get("a"), cache.exists("a")) == (1, None, 0)


def test_time_to_live(cache: MemoryCache, fake_clock: FakeClock) -> None:
    """A key is there until its time is over, to the moment."""
    cache.set("a", 1, ex=10)
    cache.set("b", 1, px=1500)
    assert (cache.ttl("a"), cache.ttl("b"), cache.ttl("none")) == (10, 2, -2)
    fake_clock.advance(1.5)
    assert (cache.get("a"), cache.get("b")) == (b"1", None)
    fake_clock.advance(8.5)
    assert cache.exists("a") == 0


def test_expire(cache: MemoryCache, fake_clock: FakeClock) -> None:
    """The time to live can be changed; none at all forgets the key; set() takes it away."""
    assert cache.expire("a", 5) is False
    cache.set("a", 1)
    assert (cache.ttl("a"), cache.expire("a", 5), cache.ttl("a")) == (-1, True, 5)
    cache.set("a", 2)
    assert cache.ttl("a") == -1
    assert (cache.expire("a", 0), cache.get("a")) == (True, None)


def test_conditions(cache: MemoryCache, fake_clock: FakeClock) -> None:
    """nx keeps only where nothing is, xx only where something is; what has expired is nothing."""
    assert (cache.set("a", 1, xx=True), cache.set("a", 1, ex=5, nx=True), cache.set("a", 2, nx=True)) == (
        None,
        True,
        None,
    )
    assert cache.get("a") == b"1"
    fake_clock.advance(5)
    assert cache.set("a", 3, nx=True) is True


def test_numbers(cache: MemoryCache) -> None:
    """Counting begins at 0 and leaves the time to live alone."""
    assert (cache.incr("n"), cache.incr("n", 5), cache.decr("n", 2)) == (1, 6, 4)
    cache.expire("n", 9)
    cache.incr("n")
    assert (cache.ttl("n"), cache.get("n")) == (9, b"5")


@pytest.mark.parametrize("value", ["x", "", "1_0", " 1", "+1", "01", "1.5", str(2**63 - 1)])
def test_what_is_no_number(cache: MemoryCache, value: str) -> None:
    """What Redis would not count neither do we, and it stays as it was."""
    cache.set("n", value)
    with pytest.raises(ValueError, match=r"integer|overflow"):
        cache.incr("n")
    assert cache.get("n") == value.encode()


def test_entries_bound(fake_clock: FakeClock) -> None:
    """What has not been used for longest makes room."""
    cache = MemoryCache(max_entries=2)
    cache.set("a", 1)
    cache.set("b", 1)
    cache.get("a")
    cache.set("c", 1)
    assert [cache.exists(key) for key in "abc"] == [1, 0, 1]


def test_too_long(cache: MemoryCache) -> None:
    """What is longer than all may be is not kept, and neither is what was there before."""
    cache = MemoryCache(max_bytes=1000)
    cache.set("a", 1)
    assert cache.set("a", "x" * 1000) is None
    assert cache.get("a") is None


def test_threads_count_at_one_stroke(cache: MemoryCache) -> None:
    """No step of a count is lost among threads."""
    together(4, lambda _: [cache.incr("n") for _ in range(200)])
    assert cache.get("n") == b"800"


def test_forked_child(cache: MemoryCache) -> None:
    """A child goes on with a copy."""
    cache.set("a", 1)
    assert in_child(lambda: (cache.get("a"), cache.set("a", 2))) == (b"1", True)
    assert cache.get("a") == b"1"


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda cache: cache.get(1), TypeError),
        (lambda cache: cache.set("a", None), TypeError),
        (lambda cache: cache.set("a", True), TypeError),
        (lambda cache: cache.set("a", 1, ex=0), ValueError),
        (lambda cache: cache.set("a", 1, ex="5"), TypeError),
        (lambda cache: cache.set("a", 1, ex=1, px=1), ValueError),
        (lambda cache: cache.incr("a", 1.5), TypeError),
        (lambda cache: cache.expire("a", float("nan")), ValueError),
        (lambda cache: MemoryCache(max_entries=0), ValueError),
        (lambda cache: MemoryCache(max_bytes="1"), TypeError),
    ],
)
def test_wrong_use(cache: MemoryCache, use: Any, error: type[Exception]) -> None:
    """What makes no sense is refused."""
    with pytest.raises(error):
        use(cache)


KEYS = st.sampled_from(["a", "b", "c", "d"])


class AgainstADictionary(RuleBasedStateMachine):
    """The cache against a dictionary of values and moments."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.cache = MemoryCache(max_entries=4, max_bytes=1200, clock=self.clock)
        self.model: dict[str, tuple[bytes, float]] = {}

    def alive(self, key: str) -> tuple[bytes, float] | None:
        entry = self.model.get(key)
        return entry if entry is not None and entry[1] > self.clock.monotonic() else None

    @rule(key=KEYS, value=st.integers(), ex=st.none() | st.integers(1, 5))
    def set(self, key: str, value: int, ex: int | None) -> None:
        """As Redis does."""
        self.cache.set(key, value, ex)
        self.model[key] = str(value).encode(), self.clock.monotonic() + (ex or 1e9)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        """As Redis does."""
        assert self.cache.delete(key) == (self.alive(key) is not None)
        self.model.pop(key, None)

    @rule(key=KEYS, seconds=st.integers(-1, 5))
    def expire(self, key: str, seconds: int) -> None:
        """As Redis does."""
        entry = self.alive(key)
        assert self.cache.expire(key, seconds) is (entry is not None)
        if entry is not None:
            self.model[key] = entry[0], self.clock.monotonic() + seconds

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @invariant()
    def same(self) -> None:
        """Both hold the same, and the bytes are counted rightly."""
        for key in "abcd":
            entry = self.alive(key)
            assert self.cache.get(key) == (None if entry is None else entry[0])
        entries = self.cache._entries
        assert self.cache._bytes == sum(200 + len(key) + len(value) for key, (value, _) in entries.items())


TestAgainstADictionary = AgainstADictionary.TestCase
TestAgainstADictionary.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
