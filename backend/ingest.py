"""Ingestion: save each document (best effort), index it (fail closed), take a snapshot (best effort).

Our own index is a copy for the time when Chroma is away: a copy that fails is no reason to fail.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

import requests

from backend.answers import accepted
from backend.index import DocumentIndex
from backend.models import Document, DocumentsRequest
from backend.search import PATH_IN_METADATA, collection_of
from backend.snapshots import Snapshots
from backend.timing import within
from service_utils import ResilientServiceClient, best_effort, fail_closed

__all__ = ["IndexingFailed", "Ingested", "Ingestion"]

_SAVE_ALL_WITHIN = 8.0
_KEEP_FOR_SNAPSHOT = 3.0


class IndexingFailed(Exception):
    """A document could not be indexed, and the job ended there.

    Attributes:
        cause: Why.
        indexed: The ids of the documents that can be found now.
        not_indexed: Those of the others; the first is the one that failed. Sending them again does no harm.
        saved: The ids of the documents that the Filesystem service has.
    """

    def __init__(
        self, cause: requests.RequestException, indexed: list[str], not_indexed: list[str], saved: list[str]
    ) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.indexed = indexed
        self.not_indexed = not_indexed
        self.saved = saved

    def members(self) -> dict[str, Any]:
        """What the problem object says besides the cause."""
        return {"indexed": self.indexed, "not_indexed": self.not_indexed, "saved": self.saved}


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a job that went well.

    Attributes:
        indexed: The ids of the documents, in the order in which they came.
        saved: Those that the Filesystem service has.
        copied: Whether our own index has them, too, for the time when Chroma is away.
        snapshot: The commit, or None when Git was away.
    """

    indexed: list[str]
    saved: list[str]
    copied: bool
    snapshot: str | None


class Ingestion:
    """Takes documents into a project.

    Args:
        chroma: The client of the Chroma service.
        filesystem: The client of the Filesystem service.
        index: Our own index, which gets what Chroma has got.
        snapshots: Git.
    """

    def __init__(
        self,
        chroma: ResilientServiceClient,
        filesystem: ResilientServiceClient,
        index: DocumentIndex,
        snapshots: Snapshots,
    ) -> None:
        self._chroma = chroma
        self._filesystem = filesystem
        self._index = index
        self._snapshots = snapshots

    def run(self, user: str, job: DocumentsRequest) -> Ingested:
        """Save, index and snapshot the documents.

        Args:
            user: In whose name.
            job: The documents and their project.

        Raises:
            IndexingFailed: Chroma did not take one of them.
        """
        with within(most=_SAVE_ALL_WITHIN):
            saved = [each.key for each in job.documents if self._save(job.project_id, each)]
        try:
            with within(keep=_KEEP_FOR_SNAPSHOT):
                indexed = self._index_all(job, saved)
        except IndexingFailed as failure:
            self._copy(job, failure.indexed)
            raise
        copied = self._copy(job, indexed)
        message = f"Ingest {len(indexed)} documents"
        return Ingested(indexed, saved, copied, self._snapshots.take(job.project_id, message, user))

    def _save(self, project_id: str, document: Document) -> bool:
        body = {"project_id": project_id, "file_path": document.path, "content": document.text}
        with best_effort("save document") as effort:
            accepted(self._filesystem.post("/save_file", json=body))
        return effort.ok

    def _index_all(self, job: DocumentsRequest, saved: list[str]) -> list[str]:
        indexed: list[str] = []
        for position, document in enumerate(job.documents):
            try:
                self._add(job.project_id, document)
            except requests.RequestException as error:
                left = [each.key for each in job.documents[position:]]
                raise IndexingFailed(error, indexed, left, saved) from error
            indexed.append(document.key)
        return indexed

    def _copy(self, job: DocumentsRequest, indexed: list[str]) -> bool:
        """Put what Chroma has got into our own index, too. Returns whether that went well."""
        taken = job.documents[: len(indexed)]
        with best_effort("copy to own index", catch=sqlite3.Error) as effort:
            self._index.put(job.project_id, taken)
        return effort.ok

    @fail_closed(name="index document")
    def _add(self, project_id: str, document: Document) -> None:
        body = {
            "collection_name": collection_of(project_id),
            "ids": [document.key],
            "documents": [document.text],
            "metadatas": [{**document.metadata, PATH_IN_METADATA: document.path}],
        }
        accepted(self._chroma.post("/add", json=body))
