"""Search that always answers: by meaning at Chroma, by words at Filesystem, by words in our own index."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import requests

from backend.answers import accepted, bad_answer, members
from backend.index import DocumentIndex
from backend.models import HISTORY_PATH
from backend.text import valid_text
from service_utils import FallbackChain, ResilientServiceClient
from service_utils.policies.fallback import Strategy

__all__ = ["PATH_IN_METADATA", "Found", "Search", "collection_of"]

PATH_IN_METADATA = "backend:file_path"
"""Under which name a document's path stands beside its own metadata at Chroma."""

_LONGEST_FILE_QUERY = 2_000


@dataclass(frozen=True, slots=True)
class Found:
    """What a search brought.

    Attributes:
        results: Best first: ``id, text, score, metadata`` and where known ``file_path``. Scores compare
            within one answer only.
        source: ``chroma``, ``filesystem`` or ``index``.
    """

    results: list[dict[str, Any]]
    source: str

    @property
    def degraded(self) -> bool:
        """Whether the first choice was away."""
        return self.source != "chroma"

    @property
    def texts(self) -> list[str]:
        """The texts alone."""
        return [result["text"] for result in self.results]


def collection_of(project_id: str) -> str:
    """The name of a project's collection at Chroma."""
    return f"project_{project_id}"


class Search:
    """The chain of those who can search, best first.

    Args:
        chroma: The client of the Chroma service.
        filesystem: The client of the Filesystem service.
        index: Our own index.
    """

    def __init__(
        self, chroma: ResilientServiceClient, filesystem: ResilientServiceClient, index: DocumentIndex
    ) -> None:
        self._chroma = chroma
        self._filesystem = filesystem
        self._chain = FallbackChain(
            "search",
            [
                Strategy("chroma", self._by_meaning),
                Strategy("filesystem", self._in_files),
                Strategy("index", index.search),
            ],
        )

    def run(self, query: str, project_id: str, n_results: int) -> Found:
        """Search a project.

        Raises:
            sqlite3.Error: All have failed, our own index last.
        """
        results, source = self._chain.run(query, project_id, n_results)
        return Found(results, source)

    def _by_meaning(self, query: str, project_id: str, n_results: int) -> list[dict[str, Any]]:
        body = {
            "collection_name": collection_of(project_id),
            "query_texts": [query],
            "n_results": n_results,
        }
        return _chroma_results(accepted(self._chroma.post("/query", json=body)))

    def _in_files(self, query: str, project_id: str, n_results: int) -> list[dict[str, Any]]:
        response = self._filesystem.get(
            "/projects/{project_id}/search",
            path_params={"project_id": project_id},
            params={"q": query[:_LONGEST_FILE_QUERY], "limit": n_results + 1},
        )
        return _file_results(accepted(response))[:n_results]


def _chroma_results(response: requests.Response) -> list[dict[str, Any]]:
    """The parallel lists of the first (only) query as one list."""
    answer = members(response)
    try:
        columns = [answer[name][0] for name in ("ids", "documents", "metadatas", "distances")]
        return [
            _chroma_result(key, _text(text), 1.0 - _number(distance), dict(metadata or {}))
            for key, text, metadata, distance in zip(*columns, strict=True)
        ]
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise bad_answer(response, "the answer is no query result") from error


def _chroma_result(key: str, text: str, score: float, metadata: dict[str, Any]) -> dict[str, Any]:
    path = metadata.pop(PATH_IN_METADATA, None)
    found = {"id": key, "text": text, "score": score, "metadata": metadata}
    return found if path is None else {**found, "file_path": path}


def _file_results(response: requests.Response) -> list[dict[str, Any]]:
    """The files found, without the chat history: nobody looks for his own questions."""
    try:
        return [
            {
                "id": found["file_path"],
                "text": _text(found["text"]),
                "score": _number(found["score"]),
                "metadata": {},
                "file_path": found["file_path"],
            }
            for found in members(response)["results"]
            if found["file_path"] != HISTORY_PATH
        ]
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise bad_answer(response, "the answer is no list of files found") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is none")
    return valid_text(value)


def _number(value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a number is none that JSON has")
    return number
