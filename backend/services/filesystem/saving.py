"""Saving a file: whole or not at all, one writer at a time, and once for each ``Idempotency-Key``.

The content is written beside its place under a name of its own, then renamed. A save with a key is noted in
the receipts just before the rename and marked as finished just after it. A process killed in between leaves
an unfinished note; the next save of that file, whoever asks for it, settles it first: is the file beside
still there, the rename has not happened and the key is free again; is it gone, the save was done.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from typing import Any, Final

from backend.services.common import Refusal
from backend.services.filesystem.folders import (
    LARGEST_FILE,
    FileInfo,
    ProjectFolders,
    StoredFile,
    open_file,
    read_open_file,
)
from backend.services.filesystem.locks import NamedLocks
from backend.services.filesystem.paths import saving_name
from backend.services.filesystem.receipts import Receipt, Receipts

__all__ = ["Save", "Saved", "Saver"]

_NEW_FILE_MODE: Final = 0o666  # less what the umask takes
_CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Save:
    """What is to be saved, and where; ``append`` puts it after what the file has already."""

    project_id: str
    file_path: str
    content: str
    append: bool = False

    @property
    def target(self) -> str:
        """The file, among all projects."""
        return f"{self.project_id}/{self.file_path}"

    def fingerprint(self) -> bytes:
        """The same for the same save only."""
        fields = json.dumps([self.project_id, self.file_path, self.append, self.content])
        return hashlib.blake2b(fields.encode(), digest_size=32).digest()


@dataclass(frozen=True, slots=True)
class Saved:
    """What came of a save.

    Attributes:
        answer: JSON-ready.
        written: What is now in the file; None when an earlier save's answer was given again.
    """

    answer: dict[str, Any]
    written: StoredFile | None


class Saver:
    """Saves files into the projects' folders.

    Args:
        folders: Where the files go.
        locks: Shared by all processes that save there.
        receipts: Shared likewise.
    """

    def __init__(self, folders: ProjectFolders, locks: NamedLocks, receipts: Receipts) -> None:
        self._folders = folders
        self._locks = locks
        self._receipts = receipts

    def save(self, save: Save, key: str | None = None) -> Saved:
        """Save it, or give the first answer again when the key has been used for the same save.

        Raises:
            Refusal: 422 for a key used for another save; 400 or 409 for a path that leads to or through what
                it must not; 413 for a file that would be too large; 503 when the file stays locked.
            OSError: It cannot be written; what was there before still is.
            sqlite3.Error: The receipts cannot be read or written; the same save may be tried again.
        """
        with self._locks.holding(save.target):
            known = None if key is None else self._receipts.find(key)
            if known is not None and (known.finished or known.fingerprint != save.fingerprint()):
                return _again(known, save)
            *folders, name = save.file_path.split("/")
            with self._folders.made_folder([save.project_id, *folders]) as parent:
                self._settle(save.target, parent, name)
                known = None if key is None else self._receipts.find(key)
                return _again(known, save) if known is not None else self._write(save, key, parent, name)

    def _settle(self, target: str, parent: int, name: str) -> None:
        """Find out what became of a save that was broken off; see the module's docstring."""
        for key in self._receipts.unfinished(target):
            if _exists(parent, saving_name(name)):
                self._receipts.forget(key)
            else:
                self._receipts.finish(key)

    def _write(self, save: Save, key: str | None, parent: int, name: str) -> Saved:
        before = _current(parent, name)
        data = save.content.encode()
        if save.append and before is not None:
            data = before.data + data
        if len(data) > LARGEST_FILE:
            raise Refusal(413, f"content: the file would be over {LARGEST_FILE} bytes", field="content")
        written = _write_beside(parent, name, data, before)
        answer = {
            "project_id": save.project_id,
            "file_path": save.file_path,
            "size": len(data),
            "created": before is None,
        }
        self._put_in_place(save, key, parent, name, answer)
        return Saved(answer, written)

    def _put_in_place(
        self, save: Save, key: str | None, parent: int, name: str, answer: dict[str, Any]
    ) -> None:
        # A database that fails here leaves the file beside where it is: should the note be there after all,
        # that says that the rename has not happened.
        if key is not None and not self._receipts.begin(key, save.fingerprint(), save.target, answer):
            _remove(parent, saving_name(name))
            raise _other_save()  # taken since it was looked up, so by a save of another file
        try:
            os.replace(saving_name(name), name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            if key is not None:
                self._receipts.forget(key)
            _remove(parent, saving_name(name))
            raise
        os.fsync(parent)
        if key is not None:
            self._receipts.finish(key)


def _again(known: Receipt, save: Save) -> Saved:
    if known.fingerprint != save.fingerprint():
        raise _other_save()
    return Saved(known.answer, None)


def _other_save() -> Refusal:
    return Refusal(422, "Idempotency-Key: was used for another save", field="Idempotency-Key")


def _current(parent: int, name: str) -> StoredFile | None:
    try:
        return read_open_file(open_file(parent, name))
    except Refusal as refusal:
        if refusal.status == 404:
            return None
        raise


def _write_beside(parent: int, name: str, data: bytes, before: StoredFile | None) -> StoredFile:
    beside = saving_name(name)
    _remove(parent, beside)  # a killed process may have left one
    try:
        descriptor = os.open(beside, _CREATE_FLAGS, _NEW_FILE_MODE, dir_fd=parent)
        with os.fdopen(descriptor, "wb") as file:
            if before is not None:
                os.fchmod(descriptor, before.mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            status = os.fstat(descriptor)
    except OSError:
        _remove(parent, beside)
        raise
    return StoredFile(data, FileInfo.of(status), stat.S_IMODE(status.st_mode))


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
