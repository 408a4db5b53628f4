"""The bodies of requests.

No silent conversions, and a field nobody knows is refused: a mistyped ``curency`` must not charge dollars.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, Field, StringConstraints, field_validator

from backend.services.common import RequestModel
from backend.services.filesystem.paths import check_file_path

__all__ = [
    "HISTORY_PATH",
    "BalanceQuery",
    "ChatRequest",
    "DeductRequest",
    "Document",
    "DocumentsRequest",
    "HistoryQuery",
    "ProjectId",
    "SearchRequest",
]

HISTORY_PATH = "chat_history.jsonl"
"""Where a project's chat history lies in its folder; no document may take its place."""

_MOST_DOCUMENTS = 100
_LONGEST_DOCUMENT = 200_000
_MOST_METADATA = 50
_MOST_MONEY = 10**15

ProjectId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A project: also the name of its folder and, with ``project_`` before it, of its collection."""

_Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
_DocumentId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
_Prose = StringConstraints(strip_whitespace=True, min_length=1)
_Scalar = str | int | float | bool | None
_MetadataName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class SearchRequest(RequestModel):
    """``POST /v1/api/search``."""

    query: Annotated[str, _Prose, Field(max_length=4_000)]
    project_id: ProjectId
    n_results: Annotated[int, Field(ge=1, le=50)] = 5


class ChatRequest(RequestModel):
    """``POST /v1/api/chat``."""

    message: Annotated[str, _Prose, Field(max_length=20_000)]
    project_id: ProjectId


class Document(RequestModel):
    """One document: its text (also called ``content``), and how it is to be known and kept."""

    text: Annotated[
        str,
        Field(min_length=1, max_length=_LONGEST_DOCUMENT, validation_alias=AliasChoices("text", "content")),
    ]
    id: _DocumentId | None = None
    file_path: Annotated[str, AfterValidator(check_file_path)] | None = None
    metadata: Annotated[dict[_MetadataName, _Scalar], Field(max_length=_MOST_METADATA)] = Field(
        default_factory=dict
    )

    @field_validator("text")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank")
        return text

    @field_validator("file_path")
    @classmethod
    def _leaves_history_alone(cls, path: str | None) -> str | None:
        # Nor as a folder: the history could then never be written or read again.
        if path is not None and path.partition("/")[0].casefold() == HISTORY_PATH:
            raise ValueError(f"{HISTORY_PATH} is where the chat history lies")
        return path

    @property
    def key(self) -> str:
        """Its id; one without is known by its path or its text, so that sending it again replaces it."""
        return self.id or "doc-" + hashlib.sha256((self.file_path or self.text).encode()).hexdigest()[:16]

    @property
    def path(self) -> str:
        """Where it is kept in the project's folder."""
        return self.file_path or f"documents/{self.key}.txt"


class DocumentsRequest(RequestModel):
    """``POST /v1/api/documents``."""

    project_id: ProjectId
    documents: Annotated[list[Document], Field(min_length=1, max_length=_MOST_DOCUMENTS)]

    @field_validator("documents")
    @classmethod
    def _each_once(cls, documents: list[Document]) -> list[Document]:
        for what, names in (
            ("document", [document.key for document in documents]),
            ("file_path", [document.path for document in documents]),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} {twice!r} is there twice")
        return documents


class DeductRequest(RequestModel):
    """``POST /v1/api/billing/deduct``; ``amount`` in micro-units of the currency."""

    amount: Annotated[int, Field(gt=0, le=_MOST_MONEY)]
    currency: _Currency = "USD"
    description: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""


class BalanceQuery(RequestModel):
    """Query string of ``GET /v1/api/billing/balance``."""

    currency: _Currency = "USD"


class HistoryQuery(RequestModel):
    """Query string of ``GET /v1/api/projects/<id>/history``."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 50
