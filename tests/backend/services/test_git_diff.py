"""The diffs of the git service: right whatever the files are, and bounded."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from dulwich.object_store import MemoryObjectStore
from dulwich.objects import Blob, ObjectID, Tree
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.services.git import diff
from backend.services.git.diff import diff_trees

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git on this machine")


def tree_of(store: MemoryObjectStore, files: dict[str, bytes], *, executable: bool = False) -> ObjectID:
    """The id of a tree with these files."""
    tree = Tree()
    for name, content in files.items():
        blob = Blob.from_string(content)
        store.add_object(blob)
        tree.add(
            name.encode("utf-8", "surrogateescape"), stat.S_IFREG | (0o755 if executable else 0o644), blob.id
        )
    store.add_object(tree)
    return tree.id


def diff_of(before: dict[str, bytes], after: dict[str, bytes], **more: int) -> diff.Diff:
    """The diff from one set of files to another."""
    store = MemoryObjectStore()
    return diff_trees(store, tree_of(store, before), tree_of(store, after), **more)


def applied(files: dict[str, bytes], patch: str) -> dict[str, bytes]:
    """What a stock ``git apply`` makes of the files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in files.items():
            (folder / path).write_bytes(content)
        if patch:
            command = ["git", "apply", "--unidiff-zero", "--whitespace=nowarn", "-"]
            subprocess.run(command, cwd=folder, input=patch.encode(), check=True, capture_output=True)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


lines = st.sampled_from([b"", b"a", b"b", b"c", b" ", b"-", b"+x", b"\r", b"@@ -1 +1 @@", b"\\ No newline"])
texts = st.builds(
    lambda parts, end: b"\n".join(parts) + end, st.lists(lines, max_size=12), st.sampled_from([b"", b"\n"])
)
names = st.sampled_from(["a.txt", "sp ace", 'quo"te', "back\\slash", "tab\tbed", "üml", "line\nfeed"])
trees = st.dictionaries(names, texts, max_size=4)


@needs_git
@settings(max_examples=60)
@given(before=trees, after=trees)
def test_a_stock_git_can_apply_every_diff(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Applied to the files before, a diff gives the files after, whatever their names and lines."""
    assert applied(before, diff_of(before, after).text) == after


@needs_git
@settings(max_examples=20)
@given(before=trees, after=trees)
def test_a_diff_without_effort_is_still_right(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """When comparing would take too long the diff is longer, but it still leads to the files after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diff, "_MAX_EFFORT", 0)
        assert applied(before, diff_of(before, after).text) == after


def test_a_long_file_that_grew_is_compared_at_its_end_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """An addition to a long chat history is shown as an addition, with three lines before it."""
    monkeypatch.setattr(diff, "_MAX_EFFORT", 10)
    history = b"".join(b"message %d\n" % number for number in range(50_000))
    text = diff_of({"chat": history}, {"chat": history + b"one more\n"}).text
    assert text.endswith(
        "@@ -49998,3 +49998,4 @@\n message 49997\n message 49998\n message 49999\n+one more\n"
    )


def test_a_diff_ends_where_it_would_grow_too_long() -> None:
    """A long diff is cut after a line and says so; all changed files are still named."""
    found = diff_of({}, {"a": b"line\n" * 1000, "b": b"line\n"}, max_bytes=500)
    assert found.truncated is True
    assert len(found.text) <= 500
    assert found.text.endswith("+line\n")
    assert [each.path for each in found.files] == ["a", "b"]


def test_a_diff_of_very_many_files_names_a_thousand() -> None:
    """Not even the list of changed files grows without end."""
    found = diff_of({}, {f"{number:04}": b"x" for number in range(1200)})
    assert (len(found.files), found.truncated) == (1000, True)


def test_a_very_large_text_is_named_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text too large to compare is named as changed, not shown."""
    monkeypatch.setattr(diff, "_MAX_TEXT_BYTES", 100)
    text = diff_of({"a": b"x\n" * 51}, {"a": b"y\n"}).text
    assert text.endswith("Files a/a and b/a differ (too large to show)\n")


def test_a_file_made_executable_is_a_change_of_its_mode() -> None:
    """A change of nothing but the mode shows both modes and no lines."""
    store = MemoryObjectStore()
    before, after = tree_of(store, {"a": b"x\n"}), tree_of(store, {"a": b"x\n"}, executable=True)
    text = diff_trees(store, before, after).text
    assert text == "diff --git a/a b/a\nold mode 100644\nnew mode 100755\n"


def test_names_that_are_no_text_are_quoted() -> None:
    """A name of any bytes comes out readable, in the manner of git."""
    found = diff_of({}, {"caf\udce9": b"x\n"})
    assert '+++ "b/caf\\351"\n' in found.text
    assert found.files[0].path == "caf\ufffd"


def test_lines_that_are_no_text_are_shown_as_far_as_possible() -> None:
    """Bytes that are no UTF-8 become replacement characters; the diff as a whole stays text."""
    assert "+caf\ufffd\n" in diff_of({}, {"a": b"caf\xe9\n"}).text


def test_files_that_are_hard_to_compare_stay_cheap() -> None:
    """Many files made to be hard to compare are shown in bounded time: later ones as replaced altogether."""
    hard = [b"%d\n" % (number * 7919 % 130) for number in range(5000)]
    before = {f"{number:02}": b"first\n" + b"".join(hard[number:]) for number in range(20)}
    after = {name: b"other\n" + content[6:][::-1] for name, content in before.items()}
    started = time.process_time()
    found = diff_of(before, after)
    assert time.process_time() - started < 5
    assert len(found.files) == 20
