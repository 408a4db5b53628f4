"""A project's folder as git objects.

Only regular files go in. Everything is opened relative to the folder that is already open and without
following links, so that a link planted at the last moment leads nowhere. Each file is read at one moment, the
folder as a whole is not: a snapshot holds every file as it was at some time while it ran.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dulwich.objects import Blob, ObjectID, ShaFile, Tree

from backend.services.filesystem.paths import is_allowed_name
from backend.services.git.errors import UnknownProjectError

__all__ = ["MAX_FILE_BYTES", "Skipped", "TreeWriter", "opened"]

T = TypeVar("T")

MAX_FILE_BYTES = 64 * 2**20
"""Larger files are left out: each is in memory as a whole while it is hashed."""

_MAX_DEPTH = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder.

    Raises:
        UnknownProjectError: There is no such folder, or it is a link.
    """
    try:
        descriptor = os.open(folder, _DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise UnknownProjectError(f"project {folder.name} has no files") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in the folder that did not go into the snapshot.

    Attributes:
        path: Where it is, relative to the project.
        reason: ``symlink``, ``special`` (a device, a socket…), ``name`` (one that the filesystem service
            refuses or keeps for itself, among them all that git would refuse), ``too large``, ``too deep``,
            ``unreadable``, or ``changed`` (while it was looked at).
    """

    path: str
    reason: str


@dataclass(slots=True)
class TreeWriter:
    """Turns a folder into a tree; made anew for each snapshot.

    Args:
        store: Writes one object and returns when it is there.
    """

    store: Callable[[ShaFile], None]
    files: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def write(self, folder: int) -> ObjectID:
        """Store all files and trees of an open folder and return the id of the topmost tree.

        Raises:
            OSError: It cannot be read.
        """
        return self._stored(self._tree(folder, b"", depth=1))

    def _tree(self, directory: int, path: bytes, depth: int) -> Tree:
        tree = Tree()
        with os.scandir(directory) as found:
            names = sorted(entry.name for entry in found)
        for name in names:
            self._add(tree, directory, name, path, depth)
        return tree

    def _add(self, tree: Tree, directory: int, name: str, parent: bytes, depth: int) -> None:
        path = parent + os.fsencode(name)
        found = self._tried(path, lambda: os.stat(name, dir_fd=directory, follow_symlinks=False))
        if found is None:
            return
        reason = _unfit(name, found.st_mode, depth)
        if reason is not None:
            self._skip(path, reason)
        elif stat.S_ISDIR(found.st_mode):
            self._add_directory(tree, directory, name, path, depth)
        else:
            self._add_file(tree, directory, name, path)

    def _add_directory(self, tree: Tree, directory: int, name: str, path: bytes, depth: int) -> None:
        descriptor = self._tried(path, lambda: os.open(name, _DIRECTORY, dir_fd=directory))
        if descriptor is None:
            return
        try:
            subtree = self._tree(descriptor, path + b"/", depth + 1)
        finally:
            os.close(descriptor)
        if len(subtree) > 0:  # git knows no empty folders
            tree.add(os.fsencode(name), stat.S_IFDIR, self._stored(subtree))

    def _add_file(self, tree: Tree, directory: int, name: str, path: bytes) -> None:
        descriptor = self._tried(path, lambda: os.open(name, _FILE, dir_fd=directory))
        if descriptor is None:
            return
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            content = file.read(MAX_FILE_BYTES + 1) if stat.S_ISREG(mode) else None
        if content is None:
            self._skip(path, "changed")
        elif len(content) > MAX_FILE_BYTES:
            self._skip(path, "too large")
        else:
            permissions = 0o755 if mode & stat.S_IXUSR else 0o644
            tree.add(os.fsencode(name), stat.S_IFREG | permissions, self._stored(Blob.from_string(content)))
            self.files += 1

    def _tried(self, path: bytes, look: Callable[[], T]) -> T | None:
        """What looking at a path gives; None if there is nothing to be had, which is noted."""
        try:
            return look()
        except FileNotFoundError:
            return None  # deleted since the folder was listed, as if a moment earlier
        except PermissionError:
            self._skip(path, "unreadable")
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            self._skip(path, "changed")
        return None

    def _stored(self, item: ShaFile) -> ObjectID:
        self.store(item)
        return item.id

    def _skip(self, path: bytes, reason: str) -> None:
        self.skipped.append(Skipped(path.decode("utf-8", "replace"), reason))


def _unfit(name: str, mode: int, depth: int) -> str | None:
    """Why something cannot go into a snapshot, or None."""
    if stat.S_ISLNK(mode):
        return "symlink"
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "special"
    if not is_allowed_name(name):
        return "name"
    if stat.S_ISDIR(mode) and depth >= _MAX_DEPTH:
        return "too deep"
    return None
