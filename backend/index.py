"""The backend's own full-text index of what it ingested: the search of last resort."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from backend.models import Document
from backend.text import match_expression
from service_utils.storage import Database

__all__ = ["DocumentIndex"]

_SCHEMA = """
CREATE VIRTUAL TABLE IF NOT EXISTS documents USING fts5(
    text, project UNINDEXED, id UNINDEXED, file_path UNINDEXED, metadata UNINDEXED,
    tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TABLE IF NOT EXISTS places (
    project TEXT NOT NULL, id TEXT NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (project, id)
) WITHOUT ROWID;
"""
_LOCK_WAIT = 5.0


class DocumentIndex:
    """Documents per project in one SQLite file, which several processes may share.

    Args:
        path: The file; it and its folder are made when they are not there.

    Raises:
        sqlite3.Error: The file cannot be made or is no database.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, busy_timeout=_LOCK_WAIT)
        self._database.migrate("documents", [_SCHEMA])
        self._database.close()  # with --preload this is the parent, which has no further use for the file

    def put(self, project_id: str, documents: list[Document]) -> None:
        """Add documents; one with an id that is there already takes its place. All of them, or none."""
        with self._database.write() as db:
            for document in documents:
                _put(db, project_id, document)

    def search(self, query: str, project_id: str, n_results: int) -> list[dict[str, Any]]:
        """The project's best matches: ``id, text, score, metadata, file_path``; high scores are good."""
        expression = match_expression(query)
        if not expression:
            return []
        with self._database.read() as db:
            rows = db.execute(
                "SELECT id, text, -bm25(documents), metadata, file_path FROM documents"
                " WHERE documents MATCH ? AND project = ? ORDER BY bm25(documents), id LIMIT ?",
                (expression, project_id, n_results),
            ).fetchall()
        return [
            {"id": key, "text": text, "score": score, "metadata": json.loads(metadata), "file_path": path}
            for key, text, score, metadata, path in rows
        ]

    def check(self) -> None:
        """Read the file once.

        Raises:
            sqlite3.Error: It cannot be read.
        """
        with self._database.read() as db:
            db.execute("SELECT 1 FROM places LIMIT 1").fetchone()


def _put(db: sqlite3.Connection, project_id: str, document: Document) -> None:
    known = db.execute(
        "DELETE FROM places WHERE project = ? AND id = ? RETURNING place", (project_id, document.key)
    ).fetchone()
    if known is not None:
        db.execute("DELETE FROM documents WHERE rowid = ?", known)
    added = db.execute(
        "INSERT INTO documents (text, project, id, file_path, metadata) VALUES (?, ?, ?, ?, ?)",
        (document.text, project_id, document.key, document.path, json.dumps(document.metadata)),
    )
    db.execute("INSERT INTO places VALUES (?, ?, ?)", (project_id, document.key, added.lastrowid))
