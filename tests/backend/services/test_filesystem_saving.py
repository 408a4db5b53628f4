"""Saving: whole or not at all, and once for each key, wherever the process is killed."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backend.services.common import Refusal
from backend.services.filesystem.folders import LARGEST_FILE, ProjectFolders
from backend.services.filesystem.locks import NamedLocks
from backend.services.filesystem.receipts import Receipts
from backend.services.filesystem.saving import Save, Saver
from service_utils.testing import FakeClock


class Killed(BaseException):
    """The process ends here; nothing after it runs."""


class Disk:
    """A folder, and savers on it as a process has after each start."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.projects = folder / "projects"
        self._folder = folder

    def receipts(self) -> Receipts:
        return Receipts(self._folder / "receipts.db", clock=self.clock)

    def saver(self) -> Saver:
        return Saver(ProjectFolders(self.projects), NamedLocks(self._folder / "locks"), self.receipts())

    def append(self, text: str, key: str | None = None, path: str = "log.md") -> dict[str, Any]:
        return self.saver().save(Save("p", path, text, append=True), key).answer

    def text(self, path: str = "log.md") -> str:
        return (self.projects / "p" / path).read_text()

    def names(self) -> list[str]:
        return sorted(os.listdir(self.projects / "p"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_saving_and_appending(disk: Disk) -> None:
    """A save replaces the file, an append goes on where it ends; the answer says size and novelty."""
    assert disk.append("one\n") == {"project_id": "p", "file_path": "log.md", "size": 4, "created": True}
    assert disk.append("zwölf\n")["size"] == 11
    assert disk.text() == "one\nzwölf\n"
    replaced = disk.saver().save(Save("p", "log.md", "new"))
    assert (disk.text(), replaced.answer["created"]) == ("new", False)
    assert disk.names() == ["log.md"]


def test_folders_are_made(disk: Disk) -> None:
    """A file in folders that do not exist makes them."""
    disk.saver().save(Save("p", "a/b/c/d.md", "deep"))
    assert disk.text("a/b/c/d.md") == "deep"


def test_the_longest_name(disk: Disk) -> None:
    """A name of 255 bytes can be saved, though it has another name while it is written."""
    disk.saver().save(Save("p", "é" * 127 + "a", "long"))
    assert disk.text("é" * 127 + "a") == "long"


def test_appending_to_bytes(disk: Disk) -> None:
    """An append keeps bytes that are no text as they are."""
    disk.append("x")
    (disk.projects / "p" / "log.md").write_bytes(b"\xff\xfe")
    disk.append("x")
    assert (disk.projects / "p" / "log.md").read_bytes() == b"\xff\xfex"


def test_the_mode_stays(disk: Disk) -> None:
    """A file that may be executed still may after it was saved."""
    disk.append("#!/bin/sh\n")
    os.chmod(disk.projects / "p" / "log.md", 0o750)
    disk.append("true\n")
    assert (disk.projects / "p" / "log.md").stat().st_mode & 0o777 == 0o750


def test_a_file_cannot_grow_without_end(disk: Disk) -> None:
    """An append that would make the file too large is refused, and the file stays."""
    disk.append("x" * LARGEST_FILE)
    with pytest.raises(Refusal) as refused:
        disk.append("y", "key")
    assert (refused.value.status, refused.value.field) == (413, "content")
    assert len(disk.text()) == LARGEST_FILE
    assert disk.names() == ["log.md"]


def test_the_same_key_again(disk: Disk) -> None:
    """A repeated save does nothing and gets the first answer, whatever has happened to the file since."""
    first = disk.append("one\n", "key")
    disk.append("two\n", "other")
    again = disk.saver().save(Save("p", "log.md", "one\n", append=True), "key")
    assert (again.answer, again.written) == (first, None)
    assert disk.text() == "one\ntwo\n"


def test_a_late_repeat_does_not_undo_a_newer_save(disk: Disk) -> None:
    """A repeated save without append does not bring back an old content."""
    disk.saver().save(Save("p", "log.md", "old"), "key")
    disk.saver().save(Save("p", "log.md", "new"), "other")
    disk.saver().save(Save("p", "log.md", "old"), "key")
    assert disk.text() == "new"


@pytest.mark.parametrize(
    "other",
    [
        Save("p", "log.md", "two\n", append=True),
        Save("p", "log.md", "one\n"),
        Save("p", "other.md", "one\n", append=True),
        Save("q", "log.md", "one\n", append=True),
    ],
)
def test_the_same_key_for_something_else(disk: Disk, other: Save) -> None:
    """A key that was used for another save is refused, and nothing is saved."""
    disk.append("one\n", "key")
    with pytest.raises(Refusal) as refused:
        disk.saver().save(other, "key")
    assert refused.value.status == 422
    assert disk.text() == "one\n"
    assert disk.names() == ["log.md"]


def test_a_refused_save_leaves_the_key_free(disk: Disk) -> None:
    """A key whose save was refused can be used again."""
    (disk.projects / "p" / "log.md").mkdir(parents=True)
    with pytest.raises(Refusal):
        disk.append("one\n", "key")
    (disk.projects / "p" / "log.md").rmdir()
    disk.append("two\n", "key")
    assert disk.text() == "two\n"


def test_keys_are_kept_for_thirty_days(disk: Disk) -> None:
    """After 30 days, and not before, a key is forgotten."""
    disk.append("one\n", "key")
    disk.clock.advance(timedelta(days=29).total_seconds())
    disk.append("two\n", "other")
    disk.append("one\n", "key")
    assert disk.text() == "one\ntwo\n"
    disk.clock.advance(timedelta(days=2).total_seconds())
    disk.append("three\n", "third")
    disk.append("one\n", "key")
    assert disk.text() == "one\ntwo\nthree\none\n"


def test_many_threads_append(disk: Disk) -> None:
    """Of many appends at once none is lost and none is mixed with another."""
    lines = [f"line {number} " + "x" * number + "\n" for number in range(120)]
    saver = disk.saver()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda line: saver.save(Save("p", "log.md", line, append=True)), lines))
    assert sorted(disk.text().splitlines(keepends=True)) == sorted(lines)


def test_many_threads_repeat_one_append(disk: Disk) -> None:
    """An append that is sent many times at once with one key happens once; all get the same answer."""
    saver = disk.saver()
    save = Save("p", "log.md", "once\n", append=True)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: saver.save(save, "key"), range(48)))
    assert disk.text() == "once\n"
    assert {str(saved.answer) for saved in answers} == {str(answers[0].answer)}
    assert sum(saved.written is not None for saved in answers) == 1


def test_many_threads_use_one_key_for_different_files(disk: Disk) -> None:
    """One key for several files at once: one of them is saved, the others are refused."""
    saver = disk.saver()

    def save(number: int) -> int:
        try:
            saver.save(Save("p", f"{number}.md", "text"), "key")
        except Refusal as refusal:
            return refusal.status
        return 200

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(save, range(24)))
    assert sorted(statuses) == [200] + [422] * 23
    assert len(disk.names()) == 1


def kill_before(target: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_args: Any, **_options: Any) -> None:
        raise Killed

    monkeypatch.setattr(target, name, killed)


def kill_after(target: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(target, name)

    def killed(*args: Any, **options: Any) -> None:
        original(*args, **options)
        raise Killed

    monkeypatch.setattr(target, name, killed)


MOMENTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before the note": lambda patch: kill_before(Receipts, "begin", patch),
    "after the note": lambda patch: kill_after(Receipts, "begin", patch),
    "before the rename": lambda patch: kill_before(os, "replace", patch),
    "after the rename": lambda patch: kill_after(os, "replace", patch),
    "before the end is noted": lambda patch: kill_before(Receipts, "finish", patch),
    "after the end is noted": lambda patch: kill_after(Receipts, "finish", patch),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("between", ["nothing", "another append", "an append without a key", "another file"])
def test_killed_and_repeated(disk: Disk, monkeypatch: pytest.MonkeyPatch, moment: str, between: str) -> None:
    """Wherever a process is killed, and whatever is saved before the repeat, the append happens once."""
    disk.append("before\n")
    with monkeypatch.context() as patch:
        MOMENTS[moment](patch)
        with pytest.raises(Killed):
            disk.append("once\n", "key")
    assert disk.text() in {"before\n", "before\nonce\n"}
    if between == "another append":
        disk.append("between\n", "other")
    elif between == "an append without a key":
        disk.append("between\n")
    elif between == "another file":
        disk.append("between\n", "other", "other.md")
    answer = disk.append("once\n", "key")
    assert sorted(disk.text().splitlines()).count("once") == 1
    assert disk.text().startswith("before\n")
    assert answer["created"] is False
    assert not [name for name in disk.names() if name.startswith(".")]
    assert disk.append("once\n", "key") == answer


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_settling(disk: Disk, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """A process that is killed while it makes up for an earlier kill does no harm either."""
    with monkeypatch.context() as patch:
        MOMENTS[moment](patch)
        with pytest.raises(Killed):
            disk.append("once\n", "key")
    with monkeypatch.context() as patch, suppress(Killed):
        kill_after(Receipts, "finish", patch)
        kill_after(Receipts, "forget", patch)
        disk.append("between\n")
    disk.append("once\n", "key")
    disk.append("between\n", "other")
    assert disk.text().splitlines().count("once") == 1
    assert [name for name in disk.names() if name.startswith(".")] == []


def refuse_rename(*_args: Any, **_options: Any) -> None:
    raise OSError(errno.EIO, "no")


def test_a_rename_that_fails(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file cannot be put in its place, the old one stays, and the key is free."""
    disk.append("before\n")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse_rename)
        with pytest.raises(OSError, match="no"):
            disk.append("once\n", "key")
    assert (disk.text(), disk.names()) == ("before\n", ["log.md"])
    disk.append("once\n", "key")
    assert disk.text() == "before\nonce\n"


def test_a_full_disk(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the content cannot be written, the old file stays and nothing lies about."""
    disk.append("before\n")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="full"):
            disk.append("once\n", "key")
    assert (disk.text(), disk.names()) == ("before\n", ["log.md"])


@pytest.mark.parametrize("name", ["begin", "finish", "forget"])
def test_receipts_that_fail(disk: Disk, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """When the receipts fail, at whatever step, a repeat makes the append happen once."""
    disk.append("before\n")

    def fail(*_args: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Receipts, name, fail)
        if name == "forget":
            patch.setattr(os, "replace", refuse_rename)
        with pytest.raises(sqlite3.OperationalError):
            disk.append("once\n", "key")
    disk.append("once\n", "key")
    assert disk.text() == "before\nonce\n"
    assert disk.names() == ["log.md"]
