"""The backend's own full-text index."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.index import DocumentIndex
from backend.models import Document
from backend.text import match_expression


def document(key: str, text: str) -> Document:
    return Document(id=key, text=text, metadata={"n": 1})


@pytest.fixture
def index(tmp_path: Path) -> DocumentIndex:
    """An empty index."""
    return DocumentIndex(tmp_path / "deep/index.sqlite3")


def found(index: DocumentIndex, query: str, project: str = "p", most: int = 10) -> list[str]:
    return [each["id"] for each in index.search(query, project, most)]


def test_best_match_comes_first(index: DocumentIndex) -> None:
    """A document with more of the words, and rarer ones, stands before the others."""
    index.put("p", [document("a", "red apples"), document("b", "red red roses"), document("c", "blue sky")])

    assert found(index, "red apples") == ["a", "b"]
    scores = [each["score"] for each in index.search("red apples", "p", 10)]
    assert scores == sorted(scores, reverse=True)


def test_words_are_found_in_other_forms(index: DocumentIndex) -> None:
    """Endings, accents and case make no difference."""
    index.put("p", [document("a", "Refunds for CAFÉS")])

    assert found(index, "refund") == found(index, "cafe") == found(index, "CAFÉ") == ["a"]


def test_projects_are_apart(index: DocumentIndex) -> None:
    """Nobody finds another project's documents, even under the same id."""
    index.put("p", [document("a", "apples")])
    index.put("q", [document("a", "oranges")])

    assert found(index, "apples oranges", "p") == ["a"]
    assert found(index, "oranges", "p") == []


def test_document_is_replaced(index: DocumentIndex) -> None:
    """The last text of an id is the one that is found."""
    index.put("p", [document("a", "apples")])
    index.put("p", [document("a", "oranges")])

    assert (found(index, "apples"), found(index, "oranges")) == ([], ["a"])


def test_index_survives_a_restart(tmp_path: Path) -> None:
    """Another process finds what this one has indexed."""
    DocumentIndex(tmp_path / "i.sqlite3").put("p", [document("a", "apples")])

    assert found(DocumentIndex(tmp_path / "i.sqlite3"), "apples") == ["a"]


def test_many_threads_write_at_once(index: DocumentIndex) -> None:
    """No write is lost."""
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait(10)
        index.put("p", [document(f"{number}-{n}", "apples") for n in range(5)])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(found(index, "apples", most=100)) == 40


def test_spoiled_file_is_noticed(tmp_path: Path) -> None:
    """A file that is no database is an error at the start, not at the first search."""
    (tmp_path / "i.sqlite3").write_bytes(b"no database" * 1000)

    with pytest.raises(sqlite3.DatabaseError):
        DocumentIndex(tmp_path / "i.sqlite3")


def test_question_words_do_not_count() -> None:
    """What stands in every text tells nothing."""
    assert match_expression("What is the price of the apples?") == '"price" OR "apples"'
    assert match_expression("What is it?") == ""


@given(st.text())
def test_any_text_makes_a_valid_expression(text: str) -> None:
    """No user's text is ever taken for FTS5 syntax."""
    with sqlite3.connect(":memory:") as db:
        db.execute("CREATE VIRTUAL TABLE t USING fts5(x)")
        expression = match_expression(text)
        if expression:
            db.execute("SELECT * FROM t WHERE t MATCH ?", (expression,)).fetchall()
    db.close()
