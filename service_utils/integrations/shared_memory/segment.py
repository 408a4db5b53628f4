"""The files behind a store: which one is mapped, and how a new one takes the place of a bad one.

Under the store's path is the *anchor*, a few bytes that name the mapped file next to it, ``<path>.<nonce>``.
What is mapped is never truncated or written over by anyone who means the path: a process that reads mapped
memory beyond the end of its file is killed by the system (SIGBUS). Whoever deletes, replaces or damages the
anchor does no harm; it is written anew, by rename.

``<path>.lock`` is locked by whoever makes new files.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from service_utils.integrations.shared_memory.layout import (
    FOLDED,
    NOTE,
    NOTE_COUNT,
    NOTES,
    RECORD,
    RECORDS,
    SERVICES,
    SIZE,
    Damaged,
    Header,
    Place,
)
from service_utils.integrations.shared_memory.locks import lock_file, unlock_file

__all__ = ["Files", "Segment", "boot_id"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PATIENCE = 0.5  # seconds for which another process may be making files
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def boot_id() -> str:
    """What tells one start of the machine from another.

    Raises:
        OSError: The system does not say.
    """
    return _BOOT_ID.read_text(encoding="ascii").strip()


class Segment:
    """A mapped file. Its memory lives as long as anybody refers to it, whatever becomes of the descriptor.

    Args:
        path: The file.
        header: What it says of itself.
        descriptor: This process's own opening of it.

    Attributes:
        memory: The mapped bytes.
        places: The records.
        notes: The notes.
    """

    def __init__(self, path: Path, header: Header, descriptor: int) -> None:
        self.path = path
        self.header = header
        self.descriptor = descriptor
        self._opened = _identity(descriptor)
        # Through an opening without locks, since mmap keeps one for itself as long as the memory lives.
        lockless = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.memory = mmap.mmap(lockless, SIZE)
        finally:
            os.close(lockless)
        self.places = [Place(self.memory, RECORDS + RECORD * each, header) for each in range(SERVICES)]
        notes = [NOTES + NOTE * each for each in range(NOTE_COUNT)]
        self.notes = [Place(self.memory, each, header, note=True) for each in notes]

    def is_whole(self) -> bool:
        """Whether the file is still there, of full length, and says what it said."""
        try:
            here, there = os.fstat(self.descriptor), os.stat(self.path)
        except OSError:
            return False
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) or here.st_size != SIZE:
            return False
        if here.st_mode & 0o077:
            return False
        return self.is_ours()

    def is_ours(self) -> bool:
        """Whether its memory says what it said; that it has its length is known."""
        with contextlib.suppress(Damaged):
            return Header.unpacked(self.memory[:128]) == self.header
        return False

    def close(self) -> None:
        """Give up the descriptor and its locks; not one that somebody has closed and others have now."""
        descriptor, self.descriptor = self.descriptor, -1
        with contextlib.suppress(OSError):
            if descriptor >= 0 and _identity(descriptor) == self._opened:
                os.close(descriptor)


class Files:
    """Finds or makes the mapped file of a store.

    Args:
        path: The anchor's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._ours = re.compile(re.escape(path.name) + r"\.([0-9a-f]{6})")
        self._seen: os.stat_result | None = None
        self._refused = 0

    def anchor_changed(self) -> bool:
        """Whether the anchor is another one, or another's, than it was when it was last read."""
        try:
            now, seen = os.lstat(self.path), self._seen
        except OSError:
            return True
        return seen is None or any(
            getattr(now, each) != getattr(seen, each)
            for each in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_mode", "st_uid")
        )

    def find(self) -> Segment:
        """Map the file that the anchor names.

        Raises:
            Damaged: There is none that can be trusted.
            OSError: It cannot be opened.
        """
        header, seen = self._anchor()
        segment = self._map(header)
        self._seen = seen
        return segment

    def anchored(self, segment: Segment) -> bool:
        """Whether the anchor names this mapped file."""
        try:
            header, seen = self._anchor()
        except (Damaged, OSError):
            return False
        if header != segment.header:
            return False  # until it has been followed it is a changed one
        self._seen = seen
        return True

    def find_or_make(self, keep: Segment | None = None, *, refused: int = 0) -> Segment:
        """Map the file that the anchor names, or a new one.

        Args:
            keep: The file mapped so far. If it is whole, a lost anchor is made to name it again, and it is
                what is returned.
            refused: The nonce of a file in which there is what cannot be ours.

        Raises:
            OSError: No file can be made.
            Damaged: What stands in the way cannot be replaced.
        """
        self._refused = refused
        with contextlib.suppress(Damaged, FileNotFoundError, PermissionError):
            return self._kept_or_found(keep)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._making():
            with contextlib.suppress(Damaged, FileNotFoundError, PermissionError):
                return self._kept_or_found(keep)
            if keep is not None and keep.is_whole():
                self._write_anchor(keep.header)
                return keep
            header = Header(secrets.randbelow(2**24 - 1) + 1, boot_id())
            segment = self._make(header)
            try:
                self._write_anchor(header)
            except BaseException:
                segment.close()
                with contextlib.suppress(OSError):
                    segment.path.unlink()
                raise
            self._tidy(header)
            return segment

    def _kept_or_found(self, keep: Segment | None) -> Segment:
        if keep is not None and keep.is_whole() and self.anchored(keep):
            return keep
        return self.find()

    @contextlib.contextmanager
    def _making(self) -> Iterator[None]:
        descriptor = self.open_lock()
        try:
            if not lock_file(descriptor, _PATIENCE):
                raise TimeoutError(f"another process has been making {self.path} for {_PATIENCE:g} s")
            yield
        finally:
            unlock_file(descriptor)  # a child that has been forked meanwhile has this opening, too
            os.close(descriptor)

    def open_lock(self) -> int:
        """A new opening of the file that is locked by those who make files.

        Raises:
            OSError: It cannot be opened, or it is another user's.
        """
        while True:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | _FLAGS, 0o600)
            try:
                _checked(os.fstat(descriptor))
            except Damaged:  # whoever may open it can hold us up
                os.close(descriptor)
                os.unlink(self._lock_path)
            except BaseException:
                os.close(descriptor)
                raise
            else:
                return descriptor

    def is_lock(self, descriptor: int) -> bool:
        """Whether that is an opening of the file that has the lock's name now."""
        try:
            here, there = os.fstat(descriptor), os.stat(self._lock_path)
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def _anchor(self) -> tuple[Header, os.stat_result]:
        descriptor = _opened(self.path, os.O_RDONLY)
        try:
            seen = _checked(os.fstat(descriptor))
            header = Header.unpacked(os.read(descriptor, 4096))
        finally:
            os.close(descriptor)
        if header.boot != boot_id():
            raise Damaged("it is from before the machine was started")
        if header.nonce == self._refused:
            raise Damaged("it has been found damaged")
        return header, seen

    def _map(self, header: Header) -> Segment:
        path = self.path.with_name(f"{self.path.name}.{header.nonce:06x}")
        descriptor = _opened(path, os.O_RDWR)
        try:
            if _checked(os.fstat(descriptor)).st_size != SIZE:
                raise Damaged(f"{path.name} is not of the right length")
            if Header.unpacked(os.pread(descriptor, 128, 0)) != header:
                raise Damaged(f"{path.name} is not what the anchor names")
            return Segment(path, header, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _make(self, header: Header) -> Segment:
        """Map a new file, all of its room taken on the disk: where there is none, that is said now."""
        path = self.path.with_name(f"{self.path.name}.{header.nonce:06x}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
            first = header.first.to_bytes(8, "little")
            for at in (
                *range(RECORDS, RECORDS + SERVICES * RECORD, RECORD),
                *range(NOTES, NOTES + NOTE_COUNT * NOTE, NOTE),
                FOLDED,
            ):
                os.pwrite(descriptor, first, at)
            os.pwrite(descriptor, header.packed(), 0)
            return self._map(header)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(descriptor)

    def _write_anchor(self, header: Header) -> None:
        new = self.path.with_name(f"{self.path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        try:
            os.write(descriptor, header.packed())
            self._seen = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        os.replace(new, self.path)

    def _tidy(self, header: Header) -> None:
        """Remove mapped files of the past; those who still use one keep it until they notice."""
        for each in self.path.parent.iterdir():
            match = self._ours.fullmatch(each.name)
            if match and int(match[1], 16) != header.nonce:
                with contextlib.suppress(OSError):
                    if each.lstat().st_size in (0, SIZE):  # whoever was killed may have got no further
                        each.unlink()


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NONBLOCK | _FLAGS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Damaged("it is a symbolic link") from None
        raise


def _checked(found: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise Damaged("it is no regular file")
    if found.st_uid != os.geteuid():
        raise Damaged("it belongs to another user")
    if found.st_mode & 0o077:
        raise Damaged("others may read or write it")
    return found


def _identity(descriptor: int) -> tuple[int, int]:
    """Which file a descriptor leads to."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
