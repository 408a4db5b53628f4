"""The store of vectors: what it keeps, how it ranks, and that all threads and processes see the same."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from backend.services.chroma.cache import CachedCollection, CollectionCache, Segment
from backend.services.chroma.embedding import embed
from backend.services.chroma.index import VectorIndex, pack
from backend.services.chroma.store import Chunk, VectorStore, content_id

ADD_FROM_ANOTHER_PROCESS = """
import sys, pathlib
from backend.services.chroma.store import Chunk, VectorStore
store = VectorStore(pathlib.Path(sys.argv[1]))
for number in range(40):
    store.upsert("shared", [Chunk(f"process {sys.argv[2]} number {number}")])
    store.upsert("shared", [Chunk(f"every process adds {number}")])
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    store = VectorStore(tmp_path / "chroma.db")
    yield store
    store.close()


def found(store: VectorStore, query: str, limit: int = 10) -> list[str]:
    return [match.document for match in store.query("c", [query], limit)[0]]


def test_what_was_added_is_found(store: VectorStore) -> None:
    """A chunk comes back with its id, text, metadata and distance."""
    store.upsert("c", [Chunk("a red apple", {"page": 1}, "one"), Chunk("a blue sky", None, "two")])
    nearest, other = store.query("c", ["a red apple"], 5)[0]
    assert (nearest.id, nearest.document, nearest.metadata) == ("one", "a red apple", {"page": 1})
    assert nearest.distance == pytest.approx(0, abs=1e-5)
    assert (other.id, other.metadata) == ("two", None)
    assert other.distance == pytest.approx(1, abs=0.01)


def test_several_queries_at_once(store: VectorStore) -> None:
    """Each text gets an answer of its own."""
    store.upsert("c", [Chunk("a red apple"), Chunk("a blue sky")])
    answers = store.query("c", ["sky", "apple"], 1)
    assert [[match.document for match in answer] for answer in answers] == [["a blue sky"], ["a red apple"]]


def test_an_unknown_collection_is_an_empty_one(store: VectorStore) -> None:
    """Nothing is found in, or deleted from, a collection that nobody has added to."""
    assert store.query("none", ["a", "b"], 5) == [[], []]
    assert store.delete("none", ids=["a"]) == []
    assert store.collections() == {}


def test_collections_are_apart(store: VectorStore) -> None:
    """A chunk is found in its own collection only, even under the same id."""
    store.upsert("c", [Chunk("apple", None, "x")])
    store.upsert("d", [Chunk("pear", None, "x")])
    assert found(store, "pear") == ["apple"]
    assert store.collections() == {"c": 1, "d": 1}


def test_adding_again_changes_nothing(store: VectorStore) -> None:
    """An add repeated after a lost answer makes no second copy."""
    chunks = [Chunk("apple", {"page": 1}), Chunk("pear")]
    store.upsert("c", chunks)
    store.upsert("c", chunks)
    assert store.collections() == {"c": 2}


def test_the_same_text_from_two_sources_is_two_chunks() -> None:
    """Other metadata make another chunk; their order does not."""
    assert content_id("a", {"x": 1}) != content_id("a", {"x": 2}) != content_id("a")
    assert content_id("a", {"x": 1, "y": 2}) == content_id("a", {"y": 2, "x": 1})


def test_a_new_text_under_an_old_id(store: VectorStore) -> None:
    """A chunk added under a known id replaces the old one, also for those who searched before."""
    store.upsert("c", [Chunk("apple", None, "x"), Chunk("cherry", None, "y")])
    assert found(store, "pear", 1) == ["apple"]
    store.upsert("c", [Chunk("pear", {"n": 1}, "x")])
    assert found(store, "pear") == ["pear", "cherry"]
    assert store.collections() == {"c": 2}


def test_new_metadata_under_an_old_id(store: VectorStore) -> None:
    """The same text with other metadata takes these over."""
    store.upsert("c", [Chunk("apple", None, "x")])
    store.upsert("c", [Chunk("apple", {"n": 1}, "x")])
    assert store.query("c", ["apple"], 1)[0][0].metadata == {"n": 1}


def test_equal_texts_are_ordered_by_age(store: VectorStore) -> None:
    """What is equally near comes in the order in which it was added, always."""
    for number in range(40):
        store.upsert("c", [Chunk("the same text", None, str(number))])
        found(store, "warm up the cache")
    orders = {tuple(match.id for match in store.query("c", ["same text"], 40)[0]) for _ in range(3)}
    assert orders == {tuple(map(str, range(40)))}


def test_many_small_additions(store: VectorStore) -> None:
    """However many times a little is added between searches, all of it is found."""
    store.upsert("c", [Chunk(f"the same text {number}", None, f"old {number}") for number in range(200)])
    for number in range(100):
        store.upsert("c", [Chunk(f"addition {number}", None, str(number))])
        assert store.query("c", [f"addition {number}"], 1)[0][0].id == str(number)
    ids = [match.id for match in store.query("c", ["addition"], 1000)[0]]
    assert sorted(ids) == sorted(
        [f"old {number}" for number in range(200)] + [str(number) for number in range(100)]
    )


def test_at_most_so_many(store: VectorStore) -> None:
    """No more than asked for, no more than there are."""
    store.upsert("c", [Chunk(f"text {number}") for number in range(700)])
    assert [len(store.query("c", ["text"], limit)[0]) for limit in (1, 699, 1000)] == [1, 699, 700]


def test_a_filter_chooses(store: VectorStore) -> None:
    """A filter is applied before counting, not after."""
    store.upsert("c", [Chunk("apple", {"n": number}, str(number)) for number in range(10)])
    chosen = store.query("c", ["apple"], 2, {"n": {"$gte": 7}})[0]
    assert [match.id for match in chosen] == ["7", "8"]


def test_deleting_by_id_and_filter(store: VectorStore) -> None:
    """Deleted is what has one of the ids and satisfies the filter; a second time there is nothing left."""
    store.upsert("c", [Chunk("apple", {"n": number}, str(number)) for number in range(6)])
    found(store, "apple")
    assert store.delete("c", ids=["1", "2", "none"]) == ["1", "2"]
    assert store.delete("c", ids=["1", "2"]) == []
    assert store.delete("c", where={"n": {"$gt": 4}}) == ["5"]
    assert store.delete("c", ids=["0", "3"], where={"n": 3}) == ["3"]
    assert [match.id for match in store.query("c", ["apple"], 9)[0]] == ["0", "4"]


def test_deleting_everything_needs_a_word(store: VectorStore) -> None:
    """Without ids and without a filter nothing is deleted."""
    with pytest.raises(ValueError, match="one of them must say"):
        store.delete("c")


def test_an_emptied_collection_can_be_filled_again(store: VectorStore) -> None:
    """After everything was deleted, new chunks are found."""
    store.upsert("c", [Chunk("apple", None, "x")])
    store.delete("c", ids=["x"])
    assert found(store, "apple") == []
    store.upsert("c", [Chunk("apple", None, "x")])
    assert found(store, "apple") == ["apple"]


def test_it_outlives_the_process(tmp_path: Path) -> None:
    """What was added is there after a restart."""
    VectorStore(tmp_path / "chroma.db").upsert("c", [Chunk("apple")])
    assert found(VectorStore(tmp_path / "chroma.db"), "apple") == ["apple"]


def test_threads_add_the_same(store: VectorStore) -> None:
    """Many threads that add the same chunks at once, while others search, leave each chunk once."""
    start = threading.Barrier(8)

    def add(_: int) -> None:
        start.wait()
        for number in range(20):
            store.upsert("c", [Chunk(f"text {number}")])
            assert f"text {number}" in found(store, f"text {number}", 50)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert sorted(found(store, "text", 50)) == sorted(f"text {number}" for number in range(20))


def test_processes_add_the_same(tmp_path: Path) -> None:
    """What several processes add at once is found by another that has been searching all the time."""
    path = tmp_path / "chroma.db"
    store = VectorStore(path)
    processes = [
        subprocess.Popen([sys.executable, "-c", ADD_FROM_ANOTHER_PROCESS, str(path), str(number)])
        for number in range(3)
    ]
    last = 0
    while any(process.poll() is None for process in processes):
        now = len(store.query("shared", ["process number"], 1000)[0])
        assert now >= last
        last = now
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(store.query("shared", ["process number"], 1000)[0]) == 3 * 40 + 40


def test_thousands_of_chunks_are_searched_in_milliseconds(store: VectorStore) -> None:
    """A search in thousands of chunks takes milliseconds, also right after a chunk was added."""
    store.upsert(
        "c", [Chunk(f"page {number} about topic {number % 97} and nothing else") for number in range(4_000)]
    )
    found(store, "topic")
    spent = []
    for number in range(5):
        store.upsert("c", [Chunk(f"one more page {number}")])
        start = time.perf_counter()
        store.query("c", ["what is topic 42 about?"], 10)
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.05


class ManyChanges(RuleBasedStateMachine):
    """Two stores on one file, through any order of changes, never find what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "chroma.db"
        self.stores = [VectorStore(path), VectorStore(path)]
        self.model: dict[str, str] = {}

    @rule(
        which=st.integers(0, 1),
        ids=st.lists(st.sampled_from("abcdef"), max_size=4, unique=True),
        text=st.sampled_from(["x", "y", "z"]),
    )
    def upsert(self, which: int, ids: list[str], text: str) -> None:
        self.stores[which].upsert("c", [Chunk(text, None, one) for one in ids])
        self.model.update(dict.fromkeys(ids, text))

    @rule(which=st.integers(0, 1), ids=st.lists(st.sampled_from("abcdef"), max_size=3, unique=True))
    def delete(self, which: int, ids: list[str]) -> None:
        deleted = self.stores[which].delete("c", ids=ids)
        assert set(deleted) == set(ids) & self.model.keys()
        for one in deleted:
            del self.model[one]

    @invariant()
    def both_stores_find_the_same(self) -> None:
        for store in self.stores:
            (matches,) = store.query("c", ["x"], 10)
            assert {match.id: match.document for match in matches} == self.model
            near = [match.id for match in matches if match.distance < 0.5]
            assert set(near) == {one for one, text in self.model.items() if text == "x"}
            assert [match.id for match in matches][: len(near)] == near

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()


ManyChanges.TestCase.settings = settings(max_examples=25, stateful_step_count=25)
TestManyChanges = ManyChanges.TestCase


def cached(version: int, texts: int = 1) -> CachedCollection:
    index = VectorIndex([pack(embed("some text"))] * texts)
    return CachedCollection(version, (Segment(np.arange(texts, dtype=np.int64), index),))


def test_the_cache_never_goes_back() -> None:
    """An older version, put late by a slow reader, does not replace a newer one."""
    cache = CollectionCache()
    cache.put(1, cached(2))
    cache.put(1, cached(1))
    assert (kept := cache.get(1)) is not None
    assert kept.version == 2


def test_the_cache_is_bounded() -> None:
    """Beyond its bound the cache lets go of what was used longest ago, but never of what is used now."""
    cache = CollectionCache(most_bytes=cached(1).nbytes * 2)
    for collection in (1, 2):
        cache.put(collection, cached(1))
    cache.get(1)
    cache.put(3, cached(1))
    assert [cache.get(collection) is not None for collection in (1, 2, 3)] == [True, False, True]
    cache.put(4, cached(1, texts=10_000))
    assert [cache.get(collection) is not None for collection in (1, 3, 4)] == [False, False, True]
