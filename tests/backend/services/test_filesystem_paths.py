"""Which paths are taken, from the text alone."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.filesystem.paths import check_file_path, is_allowed_name, saving_name

PIECES = st.sampled_from(
    [
        "..",
        ".",
        "",
        "/",
        "\\",
        "a",
        "b.md",
        "~",
        ".git",
        "\0",
        "%2e%2e",
        "．．",
        "…",
        "C:",
        "\n",
        " ",
        "\u202e",
        "é",
    ]
)
PATHS = st.one_of(
    st.lists(PIECES, max_size=8).map("/".join), st.lists(PIECES, max_size=8).map("".join), st.text()
)


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a.md",
        "a/b/c.md",
        ".hidden",
        "..a",
        "a..",
        "a b",
        "~",
        "-rf",
        "C:x",
        "…",
        "日本/語.txt",
        "%2e%2e/a",
    ],
)
def test_ordinary_paths(path: str) -> None:
    """Paths with dots, spaces, dashes and letters of any script are taken as they are."""
    assert check_file_path(path) == path


@pytest.mark.parametrize(
    ("path", "flaw"),
    [
        ("", "empty"),
        ("/a", "slash"),
        ("/", "slash"),
        ("//a", "slash"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("..", "or .."),
        ("../a", "or .."),
        ("a/../../b", "or .."),
        ("./a", "or .."),
        ("a/.", "or .."),
        ("..\\a", "backslash"),
        ("a\\b", "backslash"),
        ("a\0b", "NUL"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("a" * 256, "longer than 255"),
        ("é" * 128, "longer than 255"),
        ("/".join("a" * 34), "folders deep"),
        ("/".join(["a" * 250] * 17), "longer than 4096"),
        ("\ud800", "Unicode"),
        (".git", "reserved"),
        (".git/config", "reserved"),
        ("a/.GIT/hooks/post-commit", "reserved"),
        (".git ", "reserved"),
        (".git.", "reserved"),
        (".g\u200cit", "reserved"),
        ("．git", "reserved"),
        (".git::$INDEX_ALLOCATION", "reserved"),
        ("GIT~1", "reserved"),
        (".saving-1234", "reserved"),
    ],
)
def test_refused_paths(path: str, flaw: str) -> None:
    """What leads out of the project, is no name everywhere, or is the service's own, is refused."""
    with pytest.raises(ValueError, match=flaw):
        check_file_path(path)


@given(PATHS)
def test_what_is_taken_stays_inside(path: str) -> None:
    """Whatever is taken is a relative path that the system itself finds below the folder."""
    try:
        check_file_path(path)
    except ValueError:
        return
    assert os.path.normpath(path) == path
    assert os.path.normpath(f"/projects/p/{path}").startswith("/projects/p/")
    assert all(is_allowed_name(name) for name in path.split("/"))


@given(st.text(min_size=1))
def test_the_name_while_saving_is_reserved(name: str) -> None:
    """No request can name a file that is being written."""
    try:
        check_file_path(name)
    except ValueError:
        return
    assert len(saving_name(name)) < 255
    assert not is_allowed_name(saving_name(os.path.basename(name)))
