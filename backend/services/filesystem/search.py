"""Full-text search in the files of a project, with SQLite's FTS5.

The index is a copy that can be made again: each save updates it, and before a search the project's folder is
compared with it (at most every few seconds), so that edits by other hands, and saves whose process was killed
before it came to the index, are found too.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from backend.services.common import Refusal, open_database
from backend.services.filesystem.folders import FileInfo, ProjectFolders, StoredFile
from service_utils.clock import SYSTEM, Clock
from service_utils.storage import Database, Durability, StorageError

__all__ = ["Found", "SearchIndex"]

_COMPARED_EVERY: Final = 5.0
_COMPARISONS_REMEMBERED: Final = 10_000
_MOST_WORDS: Final = 64
_INDEXED_CHARACTERS: Final = 1_000_000
_FILES_AT_ONCE: Final = 100
_WHOLE_TEXT: Final = 2000  # characters up to which a file is given whole

_WORD: Final = re.compile(r"[^\W_]+")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY,
    project_id TEXT NOT NULL,
    file_path TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    UNIQUE (project_id, file_path)
);
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5 (
    project, path, content, tokenize = "porter unicode61 remove_diacritics 2"
);
"""

# The weights are those of the columns: the project must match and says nothing, a word in the path says more.
_SEARCH: Final = """
SELECT file_path,
       snippet(texts, 2, '', '', '…', 24),
       iif(length(content) <= ?, content, snippet(texts, 2, '', '', '…', 64)),
       -bm25(texts, 0.0, 2.0, 1.0) AS score
FROM texts JOIN files ON files.id = texts.rowid
WHERE texts MATCH ? AND project_id = ?
ORDER BY score DESC, file_path
LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that has some of the words.

    Attributes:
        file_path: Its path in the project.
        snippet: A line from the place where they are.
        text: The whole content of a short file, a longer piece from that place of another.
        score: BM25; higher is better, and only comparable within one search.
    """

    file_path: str
    snippet: str
    text: str
    score: float


class SearchIndex:
    """The index of all projects; may be used from any thread, and by several processes at once.

    Args:
        path: The SQLite file; made anew when it is missing or no database.
        folders: The files.
        clock: Says when to compare again.

    Raises:
        OSError, sqlite3.OperationalError: The file cannot be opened.
    """

    def __init__(self, path: Path, folders: ProjectFolders, *, clock: Clock = SYSTEM) -> None:
        self._folders = folders
        self._clock = clock
        self._database = _opened(path)
        self._lock = threading.Lock()
        self._compared: dict[str, float] = {}

    def close(self) -> None:
        """Close the idle connections."""
        self._database.close()

    def search(self, project_id: str, query: str, limit: int) -> list[Found]:
        """The project's files with any of the query's words, best first; no word of it has a special meaning.

        Raises:
            sqlite3.OperationalError: The index stays locked.
        """
        words = list(dict.fromkeys(_WORD.findall(query.casefold())))[:_MOST_WORDS]
        if not words:
            return []
        self._compare_if_due(project_id)
        alternatives = " OR ".join(f'"{word}"' for word in words)
        match = f'project : "{_project_word(project_id)}" AND {{path content}} : ({alternatives})'
        with self._database.read() as connection:
            rows = connection.execute(_SEARCH, (_WHOLE_TEXT, match, project_id, limit)).fetchall()
        return [Found(*row) for row in rows]

    def update(self, project_id: str, file_path: str, stored: StoredFile) -> None:
        """Index what was just saved, unless the file has changed again since.

        Raises:
            OSError, sqlite3.OperationalError: The next comparison will make up for it.
        """
        with self._database.write() as connection:
            # Asked while nobody else can write to the index: of two saves in a row the later one stays.
            if self._folders.info(project_id, file_path) == stored.info:
                _put(connection, project_id, file_path, stored)

    def _compare_if_due(self, project_id: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            compared = self._compared.get(project_id)
            if compared is not None and now - compared < _COMPARED_EVERY:
                return
        self._compare(project_id)
        with self._lock:
            self._compared[project_id] = now
            if len(self._compared) > _COMPARISONS_REMEMBERED:
                del self._compared[next(iter(self._compared))]

    def _compare(self, project_id: str) -> None:
        # First the index, then the folder: what is saved in between is never taken for deleted.
        with self._database.read() as connection:
            indexed = _indexed(connection, project_id)
        present = dict(self._folders.files(project_id))
        changed = [path for path, info in present.items() if indexed.get(path) != info]
        for some in _batches(changed):
            read = [(path, self._read(project_id, path)) for path in some]
            with self._database.write() as connection:
                for path, stored in read:
                    if stored is not None and _info(connection, project_id, path) == indexed.get(path):
                        _put(connection, project_id, path, stored)
        gone = [path for path in indexed if path not in present]
        with self._database.write() if gone else self._database.read() as connection:
            for path in gone:
                if _info(connection, project_id, path) == indexed[path]:
                    _drop(connection, project_id, path)

    def _read(self, project_id: str, file_path: str) -> StoredFile | None:
        try:
            return self._folders.read(project_id, file_path)
        except (Refusal, OSError):
            return None  # gone, changed or unreadable by now: the next comparison sees it again


def _opened(path: Path) -> Database:
    try:
        return open_database(path, "search", _SCHEMA, durability=Durability.NORMAL)
    except StorageError as error:
        if not _is_damaged(error):
            raise
    for suffix in ("", "-wal", "-shm"):  # everything in it is in the files
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return open_database(path, "search", _SCHEMA, durability=Durability.NORMAL)


def _is_damaged(error: StorageError) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _project_word(project_id: str) -> str:
    """The project as one word of the index, whatever characters its id has."""
    return "p" + hashlib.blake2b(project_id.encode(), digest_size=10).hexdigest()


def _batches(paths: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(paths)
    return iter(lambda: list(islice(rest, _FILES_AT_ONCE)), [])


def _indexed(connection: sqlite3.Connection, project_id: str) -> dict[str, FileInfo]:
    rows = connection.execute(
        "SELECT file_path, size, modified_ns, inode FROM files WHERE project_id = ?", (project_id,)
    )
    return {path: FileInfo(*rest) for path, *rest in rows}


def _info(connection: sqlite3.Connection, project_id: str, file_path: str) -> FileInfo | None:
    row = connection.execute(
        "SELECT size, modified_ns, inode FROM files WHERE project_id = ? AND file_path = ?",
        (project_id, file_path),
    ).fetchone()
    return None if row is None else FileInfo(*row)


def _put(connection: sqlite3.Connection, project_id: str, file_path: str, stored: StoredFile) -> None:
    _drop(connection, project_id, file_path)
    info = stored.info
    row = connection.execute(
        "INSERT INTO files (project_id, file_path, size, modified_ns, inode) VALUES (?, ?, ?, ?, ?)",
        (project_id, file_path, info.size, info.modified_ns, info.inode),
    )
    connection.execute(
        "INSERT INTO texts (rowid, project, path, content) VALUES (?, ?, ?, ?)",
        (row.lastrowid, _project_word(project_id), file_path, _text(stored.data)),
    )


def _drop(connection: sqlite3.Connection, project_id: str, file_path: str) -> None:
    row = connection.execute(
        "SELECT id FROM files WHERE project_id = ? AND file_path = ?", (project_id, file_path)
    ).fetchone()
    if row is not None:
        connection.execute("DELETE FROM texts WHERE rowid = ?", row)
        connection.execute("DELETE FROM files WHERE id = ?", row)


def _text(data: bytes) -> str:
    """What is searched of a file: its text; nothing of one that is no UTF-8, though its path is found."""
    try:
        return data.decode()[:_INDEXED_CHARACTERS]
    except UnicodeDecodeError:
        return ""
