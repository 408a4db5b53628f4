"""Filters on metadata."""

from __future__ import annotations

from typing import Any

import pytest

from backend.services.chroma.where import check_where, matches

PAGE: dict[str, Any] = {"source": "a.md", "page": 3, "draft": False, "score": 0.5, "author": None}


@pytest.mark.parametrize(
    "where",
    [
        {"source": "a.md"},
        {"page": 3},
        {"page": 3.0},
        {"draft": False},
        {"author": None},
        {"missing": None},
        {"source": "a.md", "page": 3},
        {"page": {"$gt": 2, "$lte": 3}},
        {"page": {"$gte": 3, "$lt": 3.5}},
        {"source": {"$gt": "a.m"}},
        {"source": {"$ne": "b.md"}},
        {"missing": {"$ne": "b.md"}},
        {"page": {"$in": [1, 3]}},
        {"page": {"$nin": [1, 2]}},
        {"missing": {"$nin": [1, 2]}},
        {"$or": [{"page": 9}, {"source": "a.md"}]},
        {"$and": [{"page": 3}, {"$or": [{"page": 3}, {"page": 4}]}]},
    ],
)
def test_what_matches(where: dict[str, Any]) -> None:
    """Filters that a page satisfies."""
    check_where(where)
    assert matches(PAGE, where)


@pytest.mark.parametrize(
    "where",
    [
        {"source": "b.md"},
        {"missing": "a.md"},
        {"draft": 0},
        {"page": True},
        {"page": "3"},
        {"page": 3, "source": "b.md"},
        {"page": {"$gt": 3}},
        {"page": {"$gt": 2, "$lt": 3}},
        {"page": {"$gt": "2"}},
        {"draft": {"$lt": 1}},
        {"author": {"$lt": 1}},
        {"missing": {"$gte": 0}},
        {"page": {"$in": []}},
        {"page": {"$nin": [3]}},
        {"page": {"$ne": 3}},
        {"$or": [{"page": 9}, {"source": "b.md"}]},
        {"$and": [{"page": 3}, {"page": 4}]},
    ],
)
def test_what_does_not_match(where: dict[str, Any]) -> None:
    """Filters that a page does not satisfy; a text, a number and a boolean are never compared."""
    check_where(where)
    assert not matches(PAGE, where)


def nested(levels: int) -> dict[str, Any]:
    return {"$and": [nested(levels - 1)]} if levels else {"a": 1}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "at least one condition"),
        ([], "at least one condition"),
        ({"a": {}}, "no condition"),
        ({"a": [1]}, "compared with"),
        ({"a": {"$like": "x"}}, "unknown operator \\$like"),
        ({"$not": {"a": 1}}, "unknown operator \\$not"),
        ({"a": {"$in": 1}}, "list of values"),
        ({"a": {"$in": [[1]]}}, "list of values"),
        ({"a": {"$gt": [1]}}, "takes a text"),
        ({"$and": {"a": 1}}, "list of conditions"),
        ({"$or": []}, "list of conditions"),
        ({"$or": [{}]}, "at least one condition"),
        (nested(10), "nested"),
    ],
)
def test_what_is_no_filter(where: Any, message: str) -> None:
    """A filter that would match everything, or cannot be understood, is refused with its flaw."""
    with pytest.raises(ValueError, match=message):
        check_where(where)
