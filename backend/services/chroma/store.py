"""Chunks of text and their vectors in SQLite, searched by similarity."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backend.services.chroma.cache import CachedCollection, CollectionCache, Segment
from backend.services.chroma.embedding import Vector, embed
from backend.services.chroma.index import VectorIndex, pack
from backend.services.chroma.where import Metadata, matches
from backend.services.common import open_database

__all__ = ["Chunk", "Match", "VectorStore", "content_id"]

# `version` counts every change of the collection, `rewritten` is the version of the last change that was more
# than new rows at the end. Sequence numbers are never used twice, and grow in the order of commits.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL DEFAULT 0,
    rewritten INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS chunks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    collection INTEGER NOT NULL REFERENCES collections (id),
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    metadata TEXT,
    vector BLOB NOT NULL,
    UNIQUE (collection, id)
);
CREATE INDEX IF NOT EXISTS chunks_in_order ON chunks (collection, seq);
"""

_INSERT: Final = "INSERT INTO chunks (collection, id, document, metadata, vector) VALUES (?, ?, ?, ?, ?)"
_UPDATE: Final = "UPDATE chunks SET document = ?, metadata = ?, vector = ? WHERE seq = ?"
_COUNTS: Final = """
SELECT name, (SELECT count(*) FROM chunks WHERE collection = collections.id) FROM collections ORDER BY name
"""
_VARIABLES_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Chunk:
    """A text to keep.

    Attributes:
        id: What it is called in its collection; an empty one is replaced by :func:`content_id`.
        document: The text.
        metadata: What a filter can ask for, or None.
    """

    document: str
    metadata: Metadata | None = None
    id: str = field(default="")

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.document, self.metadata))


@dataclass(frozen=True, slots=True)
class Match:
    """A chunk found, and its distance: 1 - cosine, so 0 for the same text, 1 for nothing in common."""

    id: str
    document: str
    metadata: Metadata | None
    distance: float


def content_id(document: str, metadata: Metadata | None = None) -> str:
    """The id of a chunk that was given none: the same text with the same metadata is the same chunk."""
    content = f"{document}\0{_to_json(metadata)}"
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


class VectorStore:
    """Collections of chunks; may be used from any thread, and by several processes at once.

    A collection exists once something was added to it; one that does not is like an empty one.

    Args:
        path: The SQLite file.

    Raises:
        sqlite3.OperationalError: The file is no database, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._database = open_database(path, "chroma", _SCHEMA)
        self._cache = CollectionCache()

    def close(self) -> None:
        """Close the idle connections."""
        self._database.close()

    def ping(self) -> None:
        """Ask the database something small.

        Raises:
            sqlite3.Error: It cannot be read.
        """
        with self._database.read() as connection:
            connection.execute("SELECT count(*) FROM collections").fetchone()

    def collections(self) -> dict[str, int]:
        """The name of each collection and how many chunks it has, in the order of their names."""
        with self._database.read() as connection:
            return dict(connection.execute(_COUNTS).fetchall())

    def upsert(self, collection: str, chunks: Sequence[Chunk]) -> None:
        """Add the chunks, all or none; one whose id is there already replaces it, in its old place."""
        vectors = [
            pack(embed(chunk.document)) for chunk in chunks
        ]  # the slow part, before anything is locked
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO collections (name) VALUES (?) ON CONFLICT DO NOTHING", (collection,)
            )
            row = connection.execute("SELECT id FROM collections WHERE name = ?", (collection,)).fetchone()
            changes = [
                _put(connection, row[0], chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True)
            ]
            if "replaced" in changes:
                _mark_rewritten(connection, row[0])
            elif "added" in changes:
                connection.execute("UPDATE collections SET version = version + 1 WHERE id = ?", row)

    def delete(
        self, collection: str, *, ids: Sequence[str] | None = None, where: Mapping[str, object] | None = None
    ) -> list[str]:
        """Delete the chunks with one of the ids, where given, that satisfy the filter, where given.

        Returns:
            Their ids.

        Raises:
            ValueError: Neither is given: that would be everything.
        """
        if ids is None and where is None:
            raise ValueError("ids=None, where=None: one of them must say what to delete")
        wanted = None if ids is None else frozenset(ids)
        with self._database.write() as connection:
            row = connection.execute("SELECT id FROM collections WHERE name = ?", (collection,)).fetchone()
            if row is None:
                return []
            found = connection.execute(
                "SELECT seq, id, metadata FROM chunks WHERE collection = ? ORDER BY seq", row
            ).fetchall()
            doomed = [
                (seq, chunk_id)
                for seq, chunk_id, metadata in found
                if (wanted is None or chunk_id in wanted)
                and (where is None or matches(_from_json(metadata) or {}, where))
            ]
            connection.executemany("DELETE FROM chunks WHERE seq = ?", [(seq,) for seq, _ in doomed])
            if doomed:
                _mark_rewritten(connection, row[0])
        return [chunk_id for _, chunk_id in doomed]

    def query(
        self, collection: str, texts: Sequence[str], limit: int, where: Mapping[str, object] | None = None
    ) -> list[list[Match]]:
        """For each text at most ``limit`` chunks, nearest first, equally near ones in order of age."""
        vectors = [embed(text) for text in texts]
        with self._database.read() as connection:
            known = connection.execute(
                "SELECT id, version, rewritten FROM collections WHERE name = ?", (collection,)
            ).fetchone()
            if known is None:
                return [[] for _ in texts]
            cached = self._current(connection, *known)
            allowed = None if where is None else _satisfying(connection, known[0], where)
            return [_nearest(connection, cached, vector, limit, allowed) for vector in vectors]

    def _current(
        self, connection: sqlite3.Connection, collection: int, version: int, rewritten: int
    ) -> CachedCollection:
        """The collection's vectors as this connection sees them: cached, extended, or loaded."""
        cached = self._cache.get(collection)
        if cached is not None and cached.version == version:
            return cached
        # A cached copy newer than this reader's moment is of no use to it.
        extendable = cached is not None and rewritten <= cached.version < version
        segments = cached.lasting() if cached is not None and extendable else ()
        after = segments[-1].seqs[-1] if segments else 0
        rows = connection.execute(
            "SELECT seq, vector FROM chunks WHERE collection = ? AND seq > ? ORDER BY seq",
            (collection, int(after)),
        ).fetchall()
        if rows:
            seqs = np.fromiter((seq for seq, _ in rows), np.int64, len(rows))
            segments = (*segments, Segment(seqs, VectorIndex([vector for _, vector in rows])))
        current = CachedCollection(version, segments)
        self._cache.put(collection, current)
        return current


def _put(connection: sqlite3.Connection, collection: int, chunk: Chunk, vector: bytes) -> str:
    metadata = _to_json(chunk.metadata)
    known = connection.execute(
        "SELECT seq, document, metadata FROM chunks WHERE collection = ? AND id = ?", (collection, chunk.id)
    ).fetchone()
    if known is None:
        connection.execute(_INSERT, (collection, chunk.id, chunk.document, metadata, vector))
        return "added"
    if known[1:] == (chunk.document, metadata):
        return "unchanged"
    connection.execute(_UPDATE, (chunk.document, metadata, vector, known[0]))
    return "replaced"


def _mark_rewritten(connection: sqlite3.Connection, collection: int) -> None:
    connection.execute(
        "UPDATE collections SET version = version + 1, rewritten = version + 1 WHERE id = ?", (collection,)
    )


def _satisfying(
    connection: sqlite3.Connection, collection: int, where: Mapping[str, object]
) -> NDArray[np.int64]:
    rows = connection.execute("SELECT seq, metadata FROM chunks WHERE collection = ?", (collection,))
    return np.array(
        [seq for seq, metadata in rows if matches(_from_json(metadata) or {}, where)], dtype=np.int64
    )


def _nearest(
    connection: sqlite3.Connection,
    cached: CachedCollection,
    vector: Vector,
    limit: int,
    allowed: NDArray[np.int64] | None,
) -> list[Match]:
    nearest = cached.nearest(vector, limit, allowed)
    rows = dict(_documents(connection, [seq for seq, _ in nearest]))
    return [Match(*rows[seq], distance=round(1.0 - similarity, 6)) for seq, similarity in nearest]


def _documents(
    connection: sqlite3.Connection, seqs: Sequence[int]
) -> Iterable[tuple[int, tuple[str, str, Metadata | None]]]:
    for start in range(0, len(seqs), _VARIABLES_AT_ONCE):
        some = seqs[start : start + _VARIABLES_AT_ONCE]
        marks = ", ".join("?" * len(some))
        for seq, chunk_id, document, metadata in connection.execute(
            f"SELECT seq, id, document, metadata FROM chunks WHERE seq IN ({marks})",  # noqa: S608  only ?
            some,
        ):
            yield seq, (chunk_id, document, _from_json(metadata))


def _to_json(metadata: Metadata | None) -> str | None:
    return None if metadata is None else json.dumps(metadata, ensure_ascii=False, sort_keys=True)


def _from_json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
