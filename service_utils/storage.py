"""SQLite files that outlive crashes: one place that knows how they are opened, written, shared and forked.

A :class:`Database` may be used from any thread and by several processes at once. A commit is on the disk when
the block of :meth:`Database.write` is left (``Durability.FULL``). Errors are :class:`StorageError` and name
the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sqlite3
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from service_utils.clock import SystemClock
from service_utils.forks import guard

__all__ = ["Database", "Durability", "StorageError", "StorageFull"]

# No room on the disk; more than RLIMIT_FSIZE lets us have, in the file itself or in the one beside it.
_FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)

# Wrong statements and broken constraints say nothing about the file.
_OF_THE_CALLER = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)

_BETWEEN_TRIES = 0.005  # seconds
_FORK_PATIENCE = 2.0  # seconds that a fork waits for blocks of other threads

_NO_FILE = (0, 0)

_VERSIONS = """
CREATE TABLE IF NOT EXISTS storage_versions (
    component TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID
"""


class StorageError(sqlite3.OperationalError):
    """A database cannot be used as it should; the message names the file.

    Attributes:
        path: The file.
        busy: Whether another writer held it for too long, so that trying again makes sense.
    """

    def __init__(self, message: str, path: Path | None = None, *, busy: bool = False) -> None:
        super().__init__(message)
        self.path = path
        self.busy = busy


class StorageFull(StorageError):
    """There is no room left: the disk, a quota or the process's limit of file sizes is reached.

    Nothing of the transaction was kept, and nothing that was there before is lost.
    """


class Durability(StrEnum):
    """What a commit survives."""

    FULL = "full"
    """A power failure: the disk has confirmed it."""
    NORMAL = "normal"
    """A crash of the process. Cheaper, and enough for what can be made again."""


class _Connection(sqlite3.Connection):
    """One that can be kept track of without being kept alive."""

    __slots__ = ("__weakref__", "inode", "pid")

    inode: tuple[int, int]
    pid: int


class Database:
    """A SQLite file in write-ahead mode, opened when it is needed and pooled within the process.

    Any thread may use it, also several at once: each block has a connection to itself. A thread that is in a
    block of :meth:`write` must not begin another one; it would wait for itself in vain. Nothing else in the
    process may open the file and close it again (no ``open(path)`` for a look): that would take SQLite's
    locks away, as POSIX has it.

    A forked child opens the file anew. A fork waits for blocks of other threads, two seconds at most; one
    that is open nevertheless belongs to the parent, and the child, in which SQLite would take itself to hold
    locks that it does not have, gets a :class:`StorageError` from then on.

    Args:
        path: The file. It is made when missing, readable by its owner only, and so is its folder.
        durability: What a commit survives.
        busy_timeout: Seconds a statement waits for another writer.

    Raises:
        StorageError: The file is no database, or cannot be opened.
        ValueError: ``busy_timeout`` is negative or no number.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Durability | str = Durability.FULL,
        busy_timeout: float = 5.0,
    ) -> None:
        if not isinstance(path, str | Path) or not str(path) or "\0" in str(path):
            raise ValueError(f"path={path!r}: must be the path of a file")
        if isinstance(busy_timeout, bool) or not 0 <= busy_timeout <= 3600:
            raise ValueError(f"busy_timeout={busy_timeout!r}: must be a number of seconds from 0 to 3600")
        self.path = Path(path).absolute()  # a later change of the working directory leads nowhere else
        self.durability = Durability(durability)
        self._busy_timeout = busy_timeout
        self._clock = SystemClock()  # other processes wait by the same one
        self._components: dict[str, tuple[str, ...]] = {}
        self._idle: deque[_Connection] = deque()
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._blocks: dict[object, int] = {}  # those under way, and the thread of each
        self._torn = False
        # One that is dropped without a word leaves no connection behind.
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        self._finalizer.atexit = False
        self._lock = threading.RLock()  # taken for a moment by every block that begins
        guard(self)
        with self._naming():
            self._give_back(self._connect())

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r})"

    def migrate(self, component: str, scripts: Sequence[str]) -> None:
        """Bring the tables of one component to the version this code knows.

        Several processes may do so at once; each script runs once, all of them in one transaction. A file
        that has disappeared meanwhile is made again, with the same tables.

        Args:
            component: Whose tables they are; several may live in one file.
            scripts: Script n brings version n to version n + 1; a new file begins at 0. They hold statements
                only, without ``BEGIN`` and ``COMMIT``.

        Raises:
            StorageError: The file was written by a newer version of this code, or cannot be written.
        """
        self._components[component] = tuple(scripts)
        with self.write() as connection:
            self._migrate(connection, component, tuple(scripts))

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment of the file for the whole block, and blocks no writer.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A connection that is the only writer: committed at the end of the block, undone when it raises.

        Raises:
            StorageFull: There is no room.
            StorageError: Another writer held the file for longer than ``busy_timeout`` (then ``busy`` is
                true), or it cannot be written.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def close(self) -> None:
        """Close what is open and not in use. The database may be used again afterwards."""
        _close_all(self._idle)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection, block = None, object()
        try:
            with self._lock:  # a fork that is about to happen lets nobody begin
                if self._torn:
                    raise StorageError(
                        f"{self.path}: was in use when this process was forked, which SQLite does not "
                        "survive; fork before, or when the other threads have ended their blocks",
                        self.path,
                    )
                self._blocks[block] = threading.get_ident()
            with self._naming():
                connection = self._take()
                connection.execute(begin)
                yield connection
                if connection.pid != os.getpid():
                    raise StorageError(
                        f"{self.path}: the transaction belongs to the process that began it", self.path
                    )
                connection.execute("COMMIT")
            self._give_back(connection)
        except BaseException:
            if connection is not None:
                self._drop(connection)
            raise
        finally:
            self._blocks.pop(block, None)

    def _take(self) -> _Connection:
        """A connection to the file that is there now: one whose file was removed would keep nothing."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
            if connection.inode == _inode(self.path):
                return connection
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        self._idle.append(connection)

    def _drop(self, connection: _Connection) -> None:
        """Close a connection, which rolls back: one that failed once is not trusted again."""
        if connection.pid == os.getpid():
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _connect(self) -> _Connection:
        try:
            if (inode := _inode(self.path)) == _NO_FILE:
                _make_private(self.path)
                inode = _inode(self.path)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = StorageFull if full else StorageError
            raise what(f"{self.path}: {error.strerror}", self.path) from error
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,  # used by one thread at a time, though not always by the same
            factory=_Connection,
        )
        try:
            connection.inode, connection.pid = inode, os.getpid()
            self._open.add(connection)  # without the lock, which a fork holds while it waits for our block
            self._write_ahead(connection)
            connection.execute(f"PRAGMA synchronous = {self.durability.value}")
            connection.execute("PRAGMA foreign_keys = ON")
            self._bring_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _write_ahead(self, connection: _Connection) -> None:
        """Switch to write-ahead mode. SQLite does not wait where others are just doing the same, so we do."""
        until = self._clock.monotonic() + self._busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or self._clock.monotonic() >= until:
                    raise
            self._clock.sleep(_BETWEEN_TRIES)

    def _bring_up(self, connection: _Connection) -> None:
        """Make the tables of a file that is new though we had them before: somebody removed the old one."""
        if not self._components or connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            return
        connection.execute("BEGIN IMMEDIATE")
        for component, scripts in self._components.items():
            self._migrate(connection, component, scripts)
        connection.execute("COMMIT")

    def _migrate(self, connection: sqlite3.Connection, component: str, scripts: tuple[str, ...]) -> None:
        connection.execute(_VERSIONS)
        row = connection.execute(
            "SELECT version FROM storage_versions WHERE component = ?", (component,)
        ).fetchone()
        version = row[0] if row else 0
        if version > len(scripts):
            raise StorageError(
                f"{self.path}: {component} has version {version}, written by a newer release; "
                f"this one knows versions up to {len(scripts)}",
                self.path,
            )
        for script in scripts[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute("INSERT OR REPLACE INTO storage_versions VALUES (?, ?)", (component, len(scripts)))

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Put the file's name before what SQLite says of it, which is only what is wrong."""
        try:
            yield
        except (StorageError, *_OF_THE_CALLER):
            raise
        except sqlite3.Error as error:
            raise self._error_of(error) from error

    def _error_of(self, error: sqlite3.Error) -> StorageError:
        if _code(error) in _FULL_CODES:
            return StorageFull(f"{self.path}: {error} (no room left)", self.path)
        return StorageError(f"{self.path}: {error}", self.path, busy=_is_busy(error))

    def _prepare_fork(self) -> None:
        """Have nothing open at the fork: what SQLite knows of its locks would be copied, and wrong there."""
        until = self._clock.monotonic() + _FORK_PATIENCE
        own = threading.get_ident()
        while any(thread != own for thread in list(self._blocks.values())):
            if self._clock.monotonic() >= until:
                return
            self._clock.sleep(_BETWEEN_TRIES)
        _close_all(self._idle)

    def _renew_in_child(self) -> None:
        # A block that was open during the fork, this thread's own or one that did not end in time, leaves
        # SQLite in this process with locks it does not have. It must not touch the file here, nor even close
        # it: the parent's connections stay as they are until the child ends.
        self._torn = self._torn or bool(self._blocks)
        for connection in list(self._open):
            _never_free(connection)
        self._open = weakref.WeakSet()
        self._blocks = {}
        self._idle = deque()
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _close_all, self._idle)
        self._finalizer.atexit = False


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended code; 0 for what Python says itself."""
    return getattr(error, "sqlite_errorcode", None) or 0


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _close_all(connections: deque[_Connection]) -> None:
    while connections:
        connections.pop().close()


def _inode(path: Path) -> tuple[int, int]:
    """Which file a path leads to now; no file's where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return _NO_FILE
    return (found.st_dev, found.st_ino)


def _make_private(path: Path) -> None:
    """Make an empty file for its owner only; SQLite gives its -wal and -shm files the same mode.

    It is linked to its name when it is closed already: closing a descriptor of a file that SQLite has open
    in another thread would take that thread's locks away.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.close(descriptor)
        with contextlib.suppress(FileExistsError):  # another process or thread was quicker
            os.link(name, path)
    finally:
        os.unlink(name)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, for ``executescript`` would commit before the first of them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _never_free(thing: object) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
