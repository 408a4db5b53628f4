"""Which executions are alive, on the word of the operating system: no clock, no lease that could run out.

An execution holds one byte of a file locked, the byte whose number is its token. When it ends it lets go;
when its process dies, however it dies, the system does. A process that hangs or is suspended still holds, so
that nobody takes its work for broken off however long it lasts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import weakref
from pathlib import Path
from typing import ClassVar

from service_utils.forks import guard, in_child

__all__ = ["Holds"]


class Holds:
    """The held bytes of one file; the executions of this process are remembered here as well.

    POSIX takes all of a process's locks on a file away when it closes *any* descriptor of it. Hence there is
    one of these per file and process, see :meth:`of`, with one descriptor, which is open while anything is
    held. Children do not inherit such locks, which is what is wanted: what the parent runs, only it can end.

    Its lock is held over system calls; none of them waits.
    """

    _all: ClassVar[weakref.WeakValueDictionary[Path, Holds]] = weakref.WeakValueDictionary()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: set[int] = set()
        self._file: int | None = None
        self._lock = threading.RLock()
        guard(self)

    @classmethod
    def of(cls, path: Path) -> Holds:
        """The one for this file: a second one would take the first one's locks away when it closes."""
        with _making.lock:
            found = cls._all.get(path)
            if found is None:
                found = cls._all[path] = cls(path)
            return found

    def hold(self, token: int) -> None:
        """Lock the token's byte.

        Raises:
            OSError: The file cannot be had.
        """
        with self._lock:
            self._held.add(token)  # first: whatever interrupts us here, letting go puts it right
            fcntl.lockf(self._open_locked(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, token)

    def let_go(self, token: int) -> None:
        """Unlock it; nothing happens when it is not held."""
        with self._lock:
            if token not in self._held:
                return
            if self._file is not None and len(self._held) > 1:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, token)
            self._held.discard(token)
            self._close_unused_locked()

    def is_held(self, token: int) -> bool:
        """Whether any living process holds it.

        Raises:
            OSError: The file cannot be had.
        """
        with self._lock:
            if token in self._held:
                return True
            try:
                file = self._open_locked()
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, token)  # shared: lookers do not collide
            except (BlockingIOError, PermissionError):
                return True
            else:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, token)
                return False
            finally:
                self._close_unused_locked()

    def _open_locked(self) -> int:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._file

    def _close_unused_locked(self) -> None:
        if not self._held and self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _renew_in_child(self) -> None:
        # Closing takes nothing away from the parent: its locks are its own.
        self._held.clear()
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                os.close(file)


class _Making:
    """The lock under which they are made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def renew(self) -> None:
        """In a child another thread of the parent cannot let it go."""
        self.lock = threading.RLock()


_making = _Making()
in_child(_making.renew)
