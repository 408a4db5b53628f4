"""``a%2Fb/../../x`` left the base path: the hidden slash counted as a level, but nobody undid it."""

from __future__ import annotations

import pytest
import requests

from service_utils.http.urls import BaseURL, fill_path

BASE = BaseURL.parse("http://api.local/base")


@pytest.mark.parametrize(
    "path",
    [
        "a%2Fb/../../x",
        "a%2fb%5Cc/../../x",
        "a\\b/../../x",
        "a%5Cb/%2e%2e/../x",
        "a%2Fb\\../..",
        "..;/x",
        "a/..;v=1/..;/x",
        ".;/../x",
    ],
)
def test_slashes_that_not_everybody_sees(path: str) -> None:
    """A path that climbs out for one reader is refused, even if it stays below the base for another."""
    with pytest.raises(ValueError, match="must not climb out"):
        BASE.join(path)


@pytest.mark.parametrize("path", ["a%2Fb/../x", "a/b/../../x", "a..b/...", "x;v=../y", "v1..2/%2Fx"])
def test_paths_that_stay_below(path: str) -> None:
    """Dots that lead nowhere above the base path are the caller's business."""
    sent = requests.Request("GET", BASE.join(path)).prepare().url

    assert str(sent).startswith("http://api.local/base/")


@pytest.mark.parametrize("value", ["../admin", "..\\admin", "a/../../admin", "/.."])
def test_value_that_climbs_out_of_its_place(value: str) -> None:
    """A value for a path cannot reach another resource of a server that undoes the quoting."""
    with pytest.raises(ValueError, match="path_params: id="):
        fill_path("/projects/{id}", {"id": value})


@pytest.mark.parametrize(
    "url", ["http://evil.example\\@api.local/", "http://evil.example\t@api.local/", "http:\\\\api.local/"]
)
def test_redirect_that_readers_understand_differently(url: str) -> None:
    """An address with a backslash or a control character in it is nobody's origin."""
    assert not BASE.contains(url)
