"""The vector service over HTTP: ``/add``, ``/add_chunks``, ``/query``, ``/delete``, ``/collections``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final

from flask import Flask, Response, jsonify
from pydantic import AfterValidator, Field, StringConstraints

from backend.services.chroma.store import Chunk, Match, VectorStore
from backend.services.chroma.where import Scalar, check_where
from backend.services.common import Refusal, RequestModel, make_service_app, parse
from backend.services.openapi import INTERNAL, Operation, mount_openapi
from backend.services.serving import serve, service_parser, starting

__all__ = ["DEFAULT_PORT", "create_app", "main"]

DEFAULT_PORT: Final = 6003

_MOST_CHUNKS: Final = 5000
_MOST_TEXTS: Final = 100
_MOST_RESULTS: Final = 1000

CollectionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
ChunkId = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Text = Annotated[str, StringConstraints(max_length=200_000)]
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(min_length=1, max_length=256)], Scalar], Field(max_length=100)
]


def _checked_where(where: dict[str, object]) -> dict[str, object]:
    check_where(where)
    return where


Where = Annotated[dict[str, object], AfterValidator(_checked_where)]


class Add(RequestModel):
    """Body of ``/add``: documents, with ids and metadata in the same order."""

    collection_name: CollectionName
    documents: Annotated[list[Text], Field(min_length=1, max_length=_MOST_CHUNKS)]
    ids: Annotated[list[ChunkId], Field(max_length=_MOST_CHUNKS)] | None = None
    metadatas: Annotated[list[Metadata | None], Field(max_length=_MOST_CHUNKS)] | None = None


class ChunkGiven(RequestModel):
    """One element of ``/add_chunks``."""

    text: Text
    id: ChunkId | None = None
    metadata: Metadata | None = None


class AddChunks(RequestModel):
    """Body of ``/add_chunks``."""

    collection_name: CollectionName
    chunks: Annotated[list[ChunkGiven], Field(min_length=1, max_length=_MOST_CHUNKS)]


class Query(RequestModel):
    """Body of ``/query``."""

    collection_name: CollectionName
    query_texts: Annotated[list[Text], Field(min_length=1, max_length=_MOST_TEXTS)]
    n_results: Annotated[int, Field(ge=1, le=_MOST_RESULTS)] = 10
    where: Where | None = None


class Delete(RequestModel):
    """Body of ``/delete``: what has one of the ids and satisfies the filter; one of the two must be given."""

    collection_name: CollectionName
    ids: list[ChunkId] | None = None
    where: Where | None = None


_OPERATIONS = {
    "/add": Operation(
        summary="Add documents to a collection", answer="Their ids", body=Add, security=INTERNAL
    ),
    "/add_chunks": Operation(
        summary="Add chunks to a collection", answer="Their ids", body=AddChunks, security=INTERNAL
    ),
    "/query": Operation(
        summary="Find what is nearest in meaning",
        answer="Ids, documents, metadata and distances, one list per text",
        body=Query,
        security=INTERNAL,
    ),
    "/delete": Operation(
        summary="Delete by ids, by a filter, or by both",
        answer="The ids that were deleted",
        body=Delete,
        security=INTERNAL,
    ),
    "/collections": Operation(summary="All collections", answer="Names and counts", security=INTERNAL),
}


def create_app(data: Path) -> Flask:
    """The service's app. Its store is ``app.extensions["chroma"]``, which the caller closes.

    Args:
        data: Folder for its database; made when missing.

    Raises:
        ValueError: Profile ``production`` has no internal token.
        OSError, sqlite3.Error: The database cannot be opened.
    """
    store = VectorStore(data / "chroma.db")
    app = make_service_app("chroma", ready=store.ping)
    app.extensions["chroma"] = store
    routes: dict[str, Callable[[VectorStore], Response]] = {
        "/add": _add,
        "/add_chunks": _add_chunks,
        "/query": _query,
        "/delete": _delete,
    }
    for path, view in routes.items():
        app.add_url_rule(path, path, _bound(view, store), methods=["POST"])
    app.add_url_rule("/collections", "/collections", _bound(_collections, store))
    mount_openapi(app, "/openapi.json", title="chroma service", version="1", operations=_OPERATIONS)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run the service as the command line says, until it is told to stop."""
    arguments = service_parser("chroma", DEFAULT_PORT).parse_args(argv)
    with starting("chroma"):
        app = create_app(arguments.data)
    with closing(app.extensions["chroma"]):
        serve(app, host=arguments.host, port=arguments.port, name="chroma", threads=arguments.threads)


def _bound(view: Callable[[VectorStore], Response], store: VectorStore) -> Callable[[], Response]:
    return lambda: view(store)


def _add(store: VectorStore) -> Response:
    body = parse(Add)
    _refuse_other_length("ids", body.ids, body.documents)
    _refuse_other_length("metadatas", body.metadatas, body.documents)
    ids = body.ids or [""] * len(body.documents)
    metadatas = body.metadatas or [None] * len(body.documents)
    _refuse_repeated_ids("ids", body.ids or [])
    return _upserted(store, body.collection_name, [*map(Chunk, body.documents, metadatas, ids)])


def _add_chunks(store: VectorStore) -> Response:
    body = parse(AddChunks)
    _refuse_repeated_ids("chunks", [chunk.id for chunk in body.chunks if chunk.id is not None])
    chunks = [Chunk(chunk.text, chunk.metadata, chunk.id or "") for chunk in body.chunks]
    return _upserted(store, body.collection_name, chunks)


def _upserted(store: VectorStore, collection: str, chunks: list[Chunk]) -> Response:
    store.upsert(collection, chunks)
    ids = [chunk.id for chunk in chunks]
    return jsonify(collection_name=collection, ids=ids, count=len(ids))


def _query(store: VectorStore) -> Response:
    body = parse(Query)
    found = store.query(body.collection_name, body.query_texts, body.n_results, body.where)

    def column(value_of: Callable[[Match], object]) -> list[list[object]]:
        return [[value_of(match) for match in matches] for matches in found]

    return jsonify(
        ids=column(lambda match: match.id),
        documents=column(lambda match: match.document),
        metadatas=column(lambda match: match.metadata),
        distances=column(lambda match: match.distance),
    )


def _delete(store: VectorStore) -> Response:
    body = parse(Delete)
    if body.ids is None and body.where is None:
        raise Refusal(400, "ids: give ids, where, or both", field="ids")
    deleted = store.delete(body.collection_name, ids=body.ids, where=body.where)
    return jsonify(collection_name=body.collection_name, ids=deleted, count=len(deleted))


def _collections(store: VectorStore) -> Response:
    return jsonify(
        collections=[{"name": name, "count": count} for name, count in store.collections().items()]
    )


def _refuse_other_length(field: str, given: Sequence[object] | None, documents: Sequence[object]) -> None:
    if given is not None and len(given) != len(documents):
        raise Refusal(400, f"{field}: {len(given)} given for {len(documents)} documents", field=field)


def _refuse_repeated_ids(field: str, ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        raise Refusal(400, f"{field}: the same id is given more than once", field=field)
