"""The vector service over HTTP: what its callers see."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.services.chroma import create_app


@pytest.fixture
def chroma(serving: Callable[..., Any], tmp_path: Path) -> Any:
    return serving(create_app(tmp_path))


def add(chroma: Any, *documents: str, **more: Any) -> Any:
    return chroma.post("/add", {"collection_name": "project_1", "documents": list(documents), **more})


def query(chroma: Any, *texts: str, **more: Any) -> Any:
    return chroma.post("/query", {"collection_name": "project_1", "query_texts": list(texts), **more})


def test_a_query_has_the_shape_of_a_vector_server(chroma: Any) -> None:
    """Each of the four columns has a list for each text, nearest first."""
    add(
        chroma,
        "Artificial intelligence (AI) is a science.",
        "Bananas are yellow.",
        ids=["ai", "b"],
        metadatas=[{"n": 1}, None],
    )
    answer = query(chroma, "what is AI?", "yellow banana", n_results=5).json()
    assert answer["ids"] == [["ai", "b"], ["b", "ai"]]
    assert answer["documents"][1] == ["Bananas are yellow.", "Artificial intelligence (AI) is a science."]
    assert answer["metadatas"][0] == [{"n": 1}, None]
    assert all(distances == sorted(distances) for distances in answer["distances"])
    assert answer.keys() == {"ids", "documents", "metadatas", "distances"}


def test_add_says_the_ids(chroma: Any) -> None:
    """Added documents without ids get ids that are the same when they are added again."""
    first, second = add(chroma, "one", "two").json(), add(chroma, "one", "two").json()
    assert first == second
    assert first["count"] == len(set(first["ids"])) == 2
    assert chroma.get("/collections").json() == {"collections": [{"name": "project_1", "count": 2}]}


def test_chunks_can_be_added(chroma: Any) -> None:
    """Chunks carry their own ids and metadata, where they have them."""
    chunks = [{"text": "one", "id": "1", "metadata": {"page": 1}}, {"text": "two"}]
    answer = chroma.post("/add_chunks", {"collection_name": "project_1", "chunks": chunks})
    assert answer.json()["ids"][0] == "1"
    found = query(chroma, "one", n_results=1).json()
    assert (found["ids"], found["metadatas"]) == ([["1"]], [[{"page": 1}]])


def test_both_ways_of_adding_agree(chroma: Any) -> None:
    """The same text gets the same id, however it is added."""
    chunked = chroma.post("/add_chunks", {"collection_name": "project_1", "chunks": [{"text": "one"}]})
    assert chunked.json()["ids"] == add(chroma, "one").json()["ids"]


def test_an_unknown_collection_is_empty(chroma: Any) -> None:
    """A query in a collection nobody has added to finds nothing, and does not make it."""
    answer = query(chroma, "a", "b")
    assert answer.status_code == 200
    assert answer.json() == {name: [[], []] for name in ("ids", "documents", "metadatas", "distances")}
    assert chroma.get("/collections").json() == {"collections": []}


def test_ten_results_unless_told_otherwise(chroma: Any) -> None:
    """A query without n_results gets ten."""
    add(chroma, *(f"text {number}" for number in range(20)))
    assert len(query(chroma, "text").json()["ids"][0]) == 10


def test_a_query_can_be_filtered(chroma: Any) -> None:
    """A filter on metadata narrows the query."""
    add(chroma, "one", "two", metadatas=[{"page": 1}, {"page": 2}])
    assert query(chroma, "one", where={"page": 2}).json()["documents"] == [["two"]]


def test_delete(chroma: Any) -> None:
    """What is deleted is named, is gone, and can be deleted again without harm."""
    add(chroma, "one", "two", ids=["1", "2"], metadatas=[{"page": 1}, {"page": 2}])
    by_id = {"collection_name": "project_1", "ids": ["1"]}
    assert chroma.post("/delete", by_id).json() == {"collection_name": "project_1", "ids": ["1"], "count": 1}
    assert chroma.post("/delete", by_id).json()["count"] == 0
    assert chroma.post("/delete", {"collection_name": "project_1", "where": {"page": 2}}).json()["ids"] == [
        "2"
    ]
    assert query(chroma, "one").json()["ids"] == [[]]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/add", {"documents": ["a"]}, "collection_name"),
        ("/add", {"collection_name": "", "documents": ["a"]}, "collection_name"),
        ("/add", {"collection_name": "a/b", "documents": ["a"]}, "collection_name"),
        ("/add", {"collection_name": "c\n", "documents": ["a"]}, "collection_name"),
        ("/add", {"collection_name": "c" * 129, "documents": ["a"]}, "collection_name"),
        ("/add", {"collection_name": "c"}, "documents"),
        ("/add", {"collection_name": "c", "documents": []}, "documents"),
        ("/add", {"collection_name": "c", "documents": "a"}, "documents"),
        ("/add", {"collection_name": "c", "documents": ["a", 1]}, "documents.1"),
        ("/add", {"collection_name": "c", "documents": ["a" * 200_001]}, "documents.0"),
        ("/add", {"collection_name": "c", "documents": ["a"] * 5001}, "documents"),
        ("/add", {"collection_name": "c", "documents": ["a"], "ids": ["1", "2"]}, "ids"),
        ("/add", {"collection_name": "c", "documents": ["a"], "ids": []}, "ids"),
        ("/add", {"collection_name": "c", "documents": ["a"], "ids": [""]}, "ids.0"),
        ("/add", {"collection_name": "c", "documents": ["a", "b"], "ids": ["1", "1"]}, "ids"),
        ("/add", {"collection_name": "c", "documents": ["a"], "metadatas": []}, "metadatas"),
        ("/add_chunks", {"collection_name": "c", "chunks": []}, "chunks"),
        ("/add_chunks", {"collection_name": "c", "chunks": [{"id": "1"}]}, "chunks.0.text"),
        ("/add_chunks", {"collection_name": "c", "chunks": [{"text": "a", "id": "1"}] * 2}, "chunks"),
        ("/query", {"collection_name": "c"}, "query_texts"),
        ("/query", {"collection_name": "c", "query_texts": []}, "query_texts"),
        ("/query", {"collection_name": "c", "query_texts": ["a"] * 101}, "query_texts"),
        ("/query", {"collection_name": "c", "query_texts": ["a"], "n_results": 0}, "n_results"),
        ("/query", {"collection_name": "c", "query_texts": ["a"], "n_results": 1001}, "n_results"),
        ("/query", {"collection_name": "c", "query_texts": ["a"], "n_results": "5"}, "n_results"),
        ("/query", {"collection_name": "c", "query_texts": ["a"], "where": {"a": {"$x": 1}}}, "where"),
        ("/delete", {"collection_name": "c"}, "ids"),
        ("/delete", {"collection_name": "c", "where": {}}, "where"),
    ],
)  # fmt: skip
def test_wrong_bodies_name_the_field(chroma: Any, path: str, body: Any, field: str) -> None:
    """What is missing, wrong or too much is a 400 that names the field."""
    answer = chroma.post(path, body)
    assert answer.status_code == 400
    assert answer.json()["field"] == field


def test_nested_metadata_are_refused(chroma: Any) -> None:
    """Metadata are flat: a list or an object as a value is a 400."""
    answer = add(chroma, "a", metadatas=[{"tags": ["x"]}])
    assert answer.status_code == 400
    assert answer.json()["field"].startswith("metadatas.0")


def test_a_body_over_the_limit(chroma: Any) -> None:
    """A body over 16 MiB is a 413."""
    assert add(chroma, *["a" * 190_000] * 100).status_code == 413


def test_any_text_comes_back_as_it_was(chroma: Any) -> None:
    """NUL, emoji and right-to-left marks survive."""
    text = "a\0b 🎉 \u200fabc\r\n "
    add(chroma, text)
    assert query(chroma, text).json()["documents"] == [[text]]


def test_it_needs_the_token(chroma: Any) -> None:
    """Without the token nothing is answered."""
    chroma.session.headers["X-INTERNAL-TOKEN"] = "wrong"
    assert query(chroma, "a").status_code == 401


def test_a_killed_service_has_whole_adds(spawn: Callable[..., Any], tmp_path: Path) -> None:
    """Every add that was answered is there after kill -9, and the others are there whole or not at all."""
    arguments = ("-m", "backend.services.chroma", "--port", "0", "--data", str(tmp_path))
    answered = 0
    for run in range(4):
        running = spawn(*arguments)
        killer = threading.Timer(0.1 + 0.07 * run, running.kill)
        killer.start()
        with suppress(requests.RequestException):
            for batch in range(10_000):
                assert add(running, *(f"run {run} batch {batch} part {part}" for part in range(10))).ok
                answered += 10
        killer.join()
    kept = spawn(*arguments).get("/collections").json()["collections"][0]["count"]
    assert kept % 10 == 0
    assert answered <= kept <= answered + 4 * 10
