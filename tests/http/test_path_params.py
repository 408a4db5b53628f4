"""Values in paths: each is one segment, whatever is in it."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service_utils.http.urls import BaseURL, fill_path


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("abc", "abc"),
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("100%", "100%25"),
        ("%2e%2e", "%252e%252e"),
        ("ü", "%C3%BC"),
        ("a.b-c_d~e", "a.b-c_d~e"),
        ("...", "..."),
        ("a/../b", "a%2F..%2Fb"),
        ("{id}", "%7Bid%7D"),
        (7, "7"),
        (-1.5, "-1.5"),
        (Colour.RED, "red"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_values(value: object, segment: str) -> None:
    """Each value is quoted as one segment."""
    assert fill_path("/projects/{id}/files", {"id": value}) == f"/projects/{segment}/files"


def test_several_places() -> None:
    """A place may come more than once, and braces around no name stay as they are."""
    filled = fill_path("/{a}/{b_2}/{a}/{}/{9}", {"a": "x", "b_2": "y"})
    assert filled == "/x/y/x/{}/{9}"


def test_template_without_places() -> None:
    """Without places there is nothing to fill."""
    assert fill_path("/query", {}) == "/query"


def test_missing_value() -> None:
    """A place without a value is named."""
    with pytest.raises(ValueError, match=r"path_params: .* needs a value for b, c"):
        fill_path("/{a}/{c}/{b}", {"a": 1})


def test_value_without_a_place() -> None:
    """So is a value without a place: it is probably misspelt."""
    with pytest.raises(ValueError, match=r"path_params: .* no place for idd"):
        fill_path("/{id}", {"id": 1, "idd": 2})


@pytest.mark.parametrize("value", ["", ".", "..", "../x", "..\\x", "a/../..", "/..", "..;x", "\ud800"])
def test_values_that_are_no_segment(value: str) -> None:
    """Nothing, and what leads to another place, is no segment."""
    with pytest.raises(ValueError, match="path_params: id="):
        fill_path("/{id}/x", {"id": value})


@pytest.mark.parametrize("value", [None, True, False, b"x", bytearray(b"x"), ["x"], ("x",), {"x": 1}, {"x"}])
def test_values_of_wrong_types(value: Any) -> None:
    """None and its like in a path are always a mistake."""
    with pytest.raises(TypeError, match="path_params: id="):
        fill_path("/{id}", {"id": value})


@given(st.text())
def test_any_value(value: str) -> None:
    """Whatever the value, it is refused, or is one segment from which it can be had again."""
    try:
        filled = fill_path("/projects/{id}/files", {"id": value})
    except ValueError:
        return
    before, segment, after = filled.split("/")[1:]
    assert (before, unquote(segment), after) == ("projects", value, "files")


@given(st.text(), st.text())
def test_values_stay_in_their_places(first: str, second: str) -> None:
    """A filled path leads below the base and has as many segments as its template."""
    base = BaseURL.parse("http://h/api")
    try:
        url = base.join(fill_path("/{a}/{b}", {"a": first, "b": second}))
    except ValueError:
        assume(False)
    assert url.startswith("http://h/api/")
    assert url.count("/") == 5
