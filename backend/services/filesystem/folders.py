"""The projects' folders, entered one name at a time and never through a symbolic link.

Each folder on the way is opened relative to the one before it, with ``O_NOFOLLOW``: whatever somebody swaps
for a link between two steps, the open descriptors stay inside the project. Needs a system with ``openat``
(Linux, macOS).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from backend.services.common import Refusal
from backend.services.filesystem.paths import MOST_FOLDERS, is_allowed_name

__all__ = ["LARGEST_FILE", "FileInfo", "ProjectFolders", "StoredFile", "open_file", "read_open_file"]

LARGEST_FILE: Final = 16 * 2**20
"""Bytes; files are read and written in one piece."""

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a named pipe would wait for somebody to write into it.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_Enter = Callable[[int, str], int]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file without reading it; a file with the same values has the same content.

    Attributes:
        size: In bytes.
        modified_ns: Nanoseconds since 1970.
        inode: Its number; each save makes a new one.
    """

    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileInfo:
        """From what ``stat`` says."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file's content and what is known of it."""

    data: bytes
    info: FileInfo
    mode: int


class ProjectFolders:
    """All projects below one folder, each in a folder of its own.

    Args:
        root: The folder; made when missing. It may be a symbolic link: that is the operator's choice.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root

    @contextmanager
    def folder(self, names: Sequence[str]) -> Iterator[int]:
        """A descriptor of an existing folder, given by its names below the root.

        Raises:
            Refusal: 404 when there is none, 400 for a symbolic link on the way, 409 for a file on the way.
        """
        with self._entered(names, _open_folder) as descriptor:
            yield descriptor

    @contextmanager
    def made_folder(self, names: Sequence[str]) -> Iterator[int]:
        """The same, with folders made where they are missing.

        Raises:
            Refusal: 400 for a symbolic link on the way, 409 for a file on the way.
        """
        with self._entered(names, _make_folder) as descriptor:
            yield descriptor

    def read(self, project_id: str, file_path: str) -> StoredFile:
        """The file as it is now; a save that happens meanwhile is seen whole or not at all.

        Raises:
            Refusal: 404 when there is none, 409 for a folder, 400 for a link or device, 422 for a file over
                :data:`LARGEST_FILE`.
        """
        *folders, name = file_path.split("/")
        with self.folder([project_id, *folders]) as parent:
            return read_open_file(open_file(parent, name))

    def files(self, project_id: str) -> Generator[tuple[str, FileInfo]]:
        """Each file of the project, its path and what is known of it; none for an unknown project.

        Links, devices and names that no request could ask for are left out.

        Raises:
            Refusal: 400 when the project's folder is a symbolic link.
        """
        try:
            with self.folder([project_id]) as top:
                yield from _walk(top, "", MOST_FOLDERS)
        except Refusal as refusal:
            if refusal.status != 404:
                raise

    def info(self, project_id: str, file_path: str) -> FileInfo | None:
        """What is known of the file without reading it; None when there is none that could be read."""
        *folders, name = file_path.split("/")
        try:
            with self.folder([project_id, *folders]) as parent:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except (Refusal, FileNotFoundError):
            return None
        return FileInfo.of(status) if stat.S_ISREG(status.st_mode) else None

    @contextmanager
    def _entered(self, names: Sequence[str], enter: _Enter) -> Iterator[int]:
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                inner = enter(descriptor, name)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


def open_file(parent: int, name: str) -> int:
    """A descriptor for reading the regular file ``name`` in an open folder.

    Raises:
        Refusal: 404 when there is none, 409 for a folder, 400 for anything else.
    """
    try:
        descriptor = os.open(name, _FILE_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        raise _missing() from None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO}:  # a link, or a socket
            raise _no_file() from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise Refusal(409, "file_path: is a folder", field="file_path") if stat.S_ISDIR(mode) else _no_file()


def read_open_file(descriptor: int) -> StoredFile:
    """Read the whole file, and close the descriptor.

    Raises:
        Refusal: 422 for a file over :data:`LARGEST_FILE`.
    """
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_size > LARGEST_FILE:
            raise Refusal(422, f"file_path: the file is over {LARGEST_FILE} bytes", field="file_path")
        return StoredFile(file.read(LARGEST_FILE), FileInfo.of(status), stat.S_IMODE(status.st_mode))


def _open_folder(parent: int, name: str) -> int:
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        raise _missing() from None
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP, errno.EMLINK}:
            raise
        _refuse_non_folder(parent, name)


def _make_folder(parent: int, name: str) -> int:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return _open_folder(parent, name)
    os.fsync(parent)
    return _open_folder(parent, name)


def _refuse_non_folder(parent: int, name: str) -> NoReturn:
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        raise _missing() from None
    if stat.S_ISREG(mode):
        raise Refusal(409, "file_path: leads through a file", field="file_path")
    raise Refusal(400, "file_path: leads through a symbolic link or a device", field="file_path")


def _missing() -> Refusal:
    return Refusal(404, "file_path: there is no such file", field="file_path")


def _no_file() -> Refusal:
    return Refusal(400, "file_path: is a symbolic link or a device", field="file_path")


def _walk(folder: int, prefix: str, depth: int) -> Iterator[tuple[str, FileInfo]]:
    with os.scandir(folder) as entries:
        found = sorted(
            (entry for entry in entries if is_allowed_name(entry.name)), key=lambda entry: entry.name
        )
    for entry in found:
        try:
            status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield prefix + entry.name, FileInfo.of(status)
            elif stat.S_ISDIR(status.st_mode) and depth:
                inner = os.open(entry.name, _FOLDER_FLAGS, dir_fd=folder)
                try:
                    yield from _walk(inner, f"{prefix}{entry.name}/", depth - 1)
                finally:
                    os.close(inner)
        except (FileNotFoundError, NotADirectoryError):
            continue  # gone or changed since the folder was listed
