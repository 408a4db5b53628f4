"""Unified diffs between two trees, bounded in size and in effort."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Literal

from dulwich.diff_tree import TreeChange, tree_changes
from dulwich.object_store import BaseObjectStore
from dulwich.objects import Blob, ObjectID, TreeEntry

__all__ = ["MAX_DIFF_BYTES", "Diff", "FileChange", "diff_trees"]

MAX_DIFF_BYTES = 2**20
_MAX_FILES = 1000
_MAX_TEXT_BYTES = 8 * 2**20  # of one version of a file, to be split into lines
_MAX_EFFORT = 25_000_000  # pairs of lines that a whole diff compares: some tenths of a second
_CONTEXT = 3
_BINARY_PROBE = 8000  # bytes in which git looks for a NUL
_ABBREVIATED = 7
_ESCAPES = {
    7: b"\\a",
    8: b"\\b",
    9: b"\\t",
    10: b"\\n",
    11: b"\\v",
    12: b"\\f",
    13: b"\\r",
    34: b'\\"',
    92: b"\\\\",
}

_Tag = Literal["replace", "delete", "insert", "equal"]
_Opcode = tuple[_Tag, int, int, int, int]


@dataclass(frozen=True, slots=True)
class FileChange:
    """What happened to a file: ``add``, ``delete`` or ``modify``."""

    path: str
    change: str


@dataclass(slots=True)
class Diff:
    """A diff as people read it and ``git apply`` takes it.

    Attributes:
        text: The unified diff; a file that is binary, or very large, is named but not shown.
        files: The changed files, at most 1000.
        truncated: Whether the text or the files end before the changes do.
    """

    text: str = ""
    files: list[FileChange] = field(default_factory=list)
    truncated: bool = False


def diff_trees(
    store: BaseObjectStore, old: ObjectID | None, new: ObjectID, *, max_bytes: int = MAX_DIFF_BYTES
) -> Diff:
    """The changes from one tree to another; ``None`` stands for an empty tree.

    Args:
        store: Where both are.
        old: The tree before.
        new: The tree after.
        max_bytes: Where the text ends, with the line before.
    """
    return _Writer(store, max_bytes).write(old, new)


class _Writer:
    def __init__(self, store: BaseObjectStore, max_bytes: int) -> None:
        self._store = store
        self._room = max_bytes
        self._effort = _MAX_EFFORT
        self._lines: list[bytes] = []
        self._diff = Diff()

    def write(self, old: ObjectID | None, new: ObjectID) -> Diff:
        for change in tree_changes(self._store, old, new):
            if len(self._diff.files) == _MAX_FILES:
                self._diff.truncated = True
                break
            self._diff.files.append(FileChange(_path(change).decode("utf-8", "replace"), change.type))
            if not self._diff.truncated:
                self._append(self._file(change))
        self._diff.text = b"".join(self._lines).decode("utf-8", "replace")
        return self._diff

    def _append(self, lines: Iterator[bytes]) -> None:
        for line in lines:
            self._room -= len(line)
            if self._room < 0:
                self._diff.truncated = True
                return
            self._lines.append(line)

    def _file(self, change: TreeChange) -> Iterator[bytes]:
        path = _path(change)
        yield b"diff --git " + _quoted(b"a/" + path) + b" " + _quoted(b"b/" + path) + b"\n"
        yield from _mode_lines(change.old, change.new)
        before, after = self._content(change.old), self._content(change.new)
        if before == after:
            return
        yield _index_line(change.old, change.new)
        old_name = b"/dev/null" if change.old is None else _quoted(b"a/" + path)
        new_name = b"/dev/null" if change.new is None else _quoted(b"b/" + path)
        if _is_binary(before) or _is_binary(after):
            yield b"Binary files " + old_name + b" and " + new_name + b" differ\n"
        elif max(len(before), len(after)) > _MAX_TEXT_BYTES:
            yield b"Files " + old_name + b" and " + new_name + b" differ (too large to show)\n"
        elif before or after:
            yield b"--- " + _ended(old_name) + b"\n"
            yield b"+++ " + _ended(new_name) + b"\n"
            yield from self._hunks(_lines(before), _lines(after))

    def _content(self, entry: TreeEntry | None) -> bytes:
        if entry is None or entry.sha is None:
            return b""
        blob = self._store[entry.sha]
        return blob.data if isinstance(blob, Blob) else b""

    def _hunks(self, before: list[bytes], after: list[bytes]) -> Iterator[bytes]:
        for group in self._matcher(before, after).get_grouped_opcodes(_CONTEXT):
            first, last = group[0], group[-1]
            old_range, new_range = _range(first[1], last[2]), _range(first[3], last[4])
            yield b"@@ -%s +%s @@\n" % (old_range, new_range)
            for tag, old_start, old_end, new_start, new_end in group:
                if tag == "equal":
                    yield from _marked(b" ", before[old_start:old_end])
                else:
                    yield from _marked(b"-", before[old_start:old_end])
                    yield from _marked(b"+", after[new_start:new_end])

    def _matcher(self, before: list[bytes], after: list[bytes]) -> _Matcher:
        matcher = _Matcher(before, after)
        self._effort -= matcher.effort
        if self._effort < 0:
            matcher.give_up()
        return matcher


class _Matcher(SequenceMatcher[bytes]):
    """Compares only what lies between the common beginning and the common end.

    A file that grew at its end, as a chat history does, then costs no more than what was added. Where even
    the rest is too much, ``give_up`` makes it one replacement: longer to read, and still right.
    """

    def __init__(self, before: list[bytes], after: list[bytes]) -> None:
        self._head = head = _common(before, after)
        self._tail = tail = _common(before[head:][::-1], after[head:][::-1])
        self._old = before[head : len(before) - tail]
        self._new = after[head : len(after) - tail]
        self._gave_up = False
        super().__init__(a=self._old, b=self._new)

    @property
    def effort(self) -> int:
        """How many pairs of lines there are to compare."""
        return len(self._old) * len(self._new)

    def give_up(self) -> None:
        """Call all that is not common replaced."""
        self._gave_up = True

    def get_opcodes(self) -> list[_Opcode]:
        """The steps from the whole of one text to the whole of the other."""
        head, tail = self._head, self._tail
        old_end, new_end = head + len(self._old), head + len(self._new)
        return [
            *_step("equal", 0, head, 0, head),
            *self._middle(),
            *_step("equal", old_end, old_end + tail, new_end, new_end + tail),
        ]

    def _middle(self) -> Iterator[_Opcode]:
        head = self._head
        if self._gave_up:
            return _step("replace", head, head + len(self._old), head, head + len(self._new))
        found = super().get_opcodes()
        return ((tag, i1 + head, i2 + head, j1 + head, j2 + head) for tag, i1, i2, j1, j2 in found)


def _step(tag: _Tag, old_start: int, old_end: int, new_start: int, new_end: int) -> Iterator[_Opcode]:
    if old_end > old_start or new_end > new_start:
        yield tag, old_start, old_end, new_start, new_end


def _common(before: list[bytes], after: list[bytes]) -> int:
    """How many lines are the same from the start on."""
    for number, (old, new) in enumerate(zip(before, after, strict=False)):
        if old != new:
            return number
    return min(len(before), len(after))


def _path(change: TreeChange) -> bytes:
    entry = change.new or change.old
    assert entry is not None  # one of them is there
    assert entry.path is not None
    return entry.path


def _mode_lines(old: TreeEntry | None, new: TreeEntry | None) -> Iterator[bytes]:
    if old is None and new is not None:
        yield b"new file mode %o\n" % new.mode
    elif old is not None and new is None:
        yield b"deleted file mode %o\n" % old.mode
    elif old is not None and new is not None and old.mode != new.mode:
        yield b"old mode %o\nnew mode %o\n" % (old.mode, new.mode)


def _index_line(old: TreeEntry | None, new: TreeEntry | None) -> bytes:
    nothing = b"0" * _ABBREVIATED
    old_sha = nothing if old is None else old.sha[:_ABBREVIATED]
    new_sha = nothing if new is None else new.sha[:_ABBREVIATED]
    kept_mode = b" %o" % new.mode if old is not None and new is not None and old.mode == new.mode else b""
    return b"index " + old_sha + b".." + new_sha + kept_mode + b"\n"


def _is_binary(content: bytes) -> bool:
    return b"\0" in content[:_BINARY_PROBE]


def _lines(content: bytes) -> list[bytes]:
    """Lines with their ends; only a line feed ends one."""
    *whole, rest = content.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def _marked(mark: bytes, lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield mark + line if line.endswith(b"\n") else mark + line + b"\n\\ No newline at end of file\n"


def _range(start: int, end: int) -> bytes:
    count = end - start
    first = start + 1 if count else start  # of an empty range the line before it is given
    return b"%d" % first if count == 1 else b"%d,%d" % (first, count)


def _quoted(name: bytes) -> bytes:
    """A name that would break a line, or is no UTF-8, in double quotes with C's escapes, as git writes it."""
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        plain = False
    else:
        plain = all(byte >= 0x20 and byte not in (0x22, 0x5C, 0x7F) for byte in name)
    if plain:
        return name
    return b'"' + b"".join(_ESCAPES.get(byte) or _escaped(byte) for byte in name) + b'"'


def _escaped(byte: int) -> bytes:
    return bytes((byte,)) if 0x20 <= byte < 0x7F else b"\\%03o" % byte


def _ended(name: bytes) -> bytes:
    """A name with a space is followed by a tab, so that readers see where it ends."""
    return name + b"\t" if b" " in name else name
