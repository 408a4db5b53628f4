"""Where calls go: below the base URL and nowhere else, whoever reads the address."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from service_utils.http.urls import BaseURL, origin_of


def sent(url: str) -> str:
    """The URL as requests sends it."""
    return str(requests.Request("GET", url).prepare().url)


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        ("http://h", "/query", "http://h/query"),
        ("http://h", "query", "http://h/query"),
        ("http://h/", "/query", "http://h/query"),
        ("http://h/", "query", "http://h/query"),
        ("http://h///", "query", "http://h/query"),
        ("http://h/api/v1", "/query", "http://h/api/v1/query"),
        ("http://h/api/v1/", "query/", "http://h/api/v1/query/"),
        ("http://h:8080", "a?b=c#d", "http://h:8080/a?b=c#d"),
        ("http://h", "", "http://h/"),
        ("http://h", "/", "http://h/"),
        ("http://h", "?a=1", "http://h/?a=1"),
        ("http://h/api", "", "http://h/api"),
        ("http://h/api", "/", "http://h/api/"),
        ("http://h/api", "?a=1", "http://h/api?a=1"),
        ("http://h/api", "#top", "http://h/api#top"),
        ("https://[::1]:8443/x", "y", "https://[::1]:8443/x/y"),
        ("http://u:p@h/x", "y", "http://h/x/y"),
        ("http://h", "a//b", "http://h/a//b"),
        ("http://h", "a:b", "http://h/a:b"),
        ("http://h", "/search?next=http://other/", "http://h/search?next=http://other/"),
        ("http://h", "/x?up=/../..", "http://h/x?up=/../.."),
        ("http://h", "/a/http://b", "http://h/a/http://b"),
    ],
)
def test_join(base: str, path: str, expected: str) -> None:
    """Base and path meet in one slash; what is in the query is the caller's business."""
    assert sent(BaseURL.parse(base).join(path)) == sent(expected)
    assert BaseURL.parse(base).join(path).rstrip("/") == expected.rstrip("/")


@pytest.mark.parametrize(
    "path",
    [
        "http://evil.example",
        "HTTPS://h/",
        "ftp://h/",
        "file:/etc/passwd",
        "//evil.example/x",
        "///evil.example",
        "\\\\evil.example",
        "\\evil.example",
        "/\\evil.example",
    ],
)
def test_addresses_of_their_own(path: str) -> None:
    """An absolute URL, also one without a scheme, is no path."""
    with pytest.raises(ValueError, match=r"path=.*not an address of its own"):
        BaseURL.parse("http://h").join(path)


@pytest.mark.parametrize("char", [*map(chr, range(0x20)), "\x7f", "\x80", "\x85", "\x9f"])
def test_control_characters(char: str) -> None:
    """No control character is sent, wherever it is."""
    for path in (f"/a{char}b", f"{char}/a", f"/a{char}", f"/a?b={char}"):
        with pytest.raises(ValueError, match=r"path=.*control characters"):
            BaseURL.parse("http://h").join(path)


def test_spaces_and_letters() -> None:
    """Spaces and letters of any language may stand in a path; they are sent encoded."""
    assert sent(BaseURL.parse("http://h").join("/a b/ü")) == "http://h/a%20b/%C3%BC"


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../",
        "/..",
        "/../x",
        "a/../..",
        "a/../../b",
        "./..",
        "a/./../../b",
        "a//../../b",
        "%2e%2e/x",
        "%2E%2E/x",
        ".%2e/x",
        "%2e./x",
        "..%2fx",
        "..%2Fx",
        "a%2f..%2f..%2fx",
        "..\\x",
        "..%5cx",
        "%2e%2e%5Cx",
        "a/..\\..\\x",
        "../?a=1",
        "..#x",
        "..;a=1/x",
    ],
)
@pytest.mark.parametrize("base", ["http://h", "http://h/api", "http://h/api/v1"])
def test_climbing(base: str, path: str) -> None:
    """Dot segments that lead above the base path are refused, in all their disguises."""
    with pytest.raises(ValueError, match=r"path=.*climb"):
        BaseURL.parse(base).join(path)


@pytest.mark.parametrize(
    "path", ["a/../b", "./a", "a/.", "a/b/../../c", "...", "..a", "a..", "a/..b/c", ". ."]
)
def test_dots_that_do_not_climb(path: str) -> None:
    """Dots that stay below the base path are allowed."""
    assert sent(BaseURL.parse("http://h/api").join(path)).startswith("http://h/api/")


@pytest.mark.parametrize("path", [None, 5, b"/x", ["x"]])
def test_paths_that_are_none(path: Any) -> None:
    """A path is a string."""
    with pytest.raises(TypeError, match="path="):
        BaseURL.parse("http://h").join(path)


# -- any path at all


def without_dot_segments(path: str) -> str:
    """RFC 3986, section 5.2.4, on a path that begins with a slash."""
    out: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == "..":
            out[-1:] = []
        elif segment != ".":
            out.append(segment)
        if last and segment in (".", ".."):
            out.append("")
    return "/" + "/".join(out)


def readings(path: str) -> set[str]:
    """What servers may make of a path: decoded or not, backslashes as slashes, parameters cut off."""
    found = {path, unquote(path, "latin-1"), path.replace("%2f", "/").replace("%2F", "/")}
    found |= {re.sub(r"%2e", ".", each, flags=re.IGNORECASE) for each in found}
    found |= {each.replace("\\", "/").replace("%5c", "/").replace("%5C", "/") for each in found}
    found |= {re.sub(r";[^/]*", "", each) for each in found}
    return {without_dot_segments(each) for each in found}


def is_below(path: str, base_path: str) -> bool:
    return path == base_path.rstrip("/") or path.startswith(base_path.rstrip("/") + "/")


BASES = st.sampled_from(["http://h", "http://h:8080/", "http://h/api/v1/", "http://u:p@[::1]/a/b"])
PIECES = [*"/ .. . a %2e %2E %2f %2F %5c \\ ; ? # @ : // % http: ü".split(), "b c"]
PATHS = st.text() | st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@given(BASES, PATHS)
@example("http://h/api", "a%2fb/../../x")
@example("http://h/api", "a\\b/../../x")
@example("http://h/api", "a%5cb/%2e%2e/../x")
@example("http://h/api", ".;/../x")
def test_any_path(base_url: str, path: str) -> None:
    """Whatever path is asked for, it is refused, or leads below the base for each reader of addresses."""
    base = BaseURL.parse(base_url)
    try:
        url = base.join(path)
        final = sent(url)
    except ValueError:
        return
    base_path = urlsplit(base.url).path
    for address in (url, final):
        assert origin_of(address) == base.origin
        assert base.contains(final)
        found = urlsplit(address.partition("#")[0]).path or "/"
        for reading in readings(found):
            assert is_below(reading, base_path), (address, reading)
