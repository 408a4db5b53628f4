"""Idempotency records in memory."""

from __future__ import annotations

import pytest

from service_utils.idempotency import Answer, MemoryIdempotency, Replay, Started, StoreFull, Unknown
from service_utils.testing import FakeClock
from tests.forked import in_child
from tests.idempotency.store_contract import DAY, StoreContract, asking


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self, clock: FakeClock) -> MemoryIdempotency:
        return MemoryIdempotency(clock=clock)


def test_no_key_is_dropped_before_its_time() -> None:
    """When it is full new keys are refused; a repeat of an old one is not run again."""
    clock = FakeClock()
    store = MemoryIdempotency(max_records=2, clock=clock)
    for key in "ab":
        store.begin(question := asking(key))
        store.finish(question, Answer(200), DAY)
    with pytest.raises(StoreFull, match="max_records=2"):
        store.begin(asking("c"))
    assert store.begin(asking("a")) == Replay(Answer(200))
    clock.advance(DAY)
    assert store.begin(asking("c")) == Started()


def test_bodies_have_a_limit_together() -> None:
    """A body for which there is no room is not kept, its status is; room comes back when they expire."""
    clock = FakeClock()
    store = MemoryIdempotency(max_bytes=10, clock=clock)
    for key, body in (("a", b"12345678"), ("b", b"123"), ("c", b"12")):
        store.begin(question := asking(key))
        store.finish(question, Answer(200, (), body), DAY)
    assert store.begin(asking("b")) == Replay(Answer(200, (), None))
    assert store.begin(asking("c")) == Replay(Answer(200, (), b"12"))
    clock.advance(DAY)
    store.purge()
    store.begin(question := asking("d"))
    store.finish(question, Answer(200, (), b"1234567890"), DAY)
    assert store.begin(asking("d")) == Replay(Answer(200, (), b"1234567890"))


def test_what_the_parent_runs_is_unknown_to_the_child() -> None:
    """A child will never hear what became of it, so it runs it no second time."""
    store = MemoryIdempotency()
    store.begin(asking())
    assert isinstance(in_child(lambda: store.begin(asking())), Unknown)


@pytest.mark.parametrize(
    "arguments", [{"max_records": 0}, {"max_bytes": -1}, {"max_records": True}, {"clock": 1}]
)
def test_bad_arguments(arguments: dict[str, object]) -> None:
    """A wrong setting is found where it is made, by name."""
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        MemoryIdempotency(**arguments)  # type: ignore[arg-type]
