"""Flask's answers as they are kept, and answers made again of what is kept."""

from __future__ import annotations

from itertools import chain

from flask import Response, current_app
from werkzeug.datastructures import Headers

from service_utils.idempotency.record import Answer

__all__ = ["REPLAYED_HEADER", "answer_again", "to_keep"]

REPLAYED_HEADER = "Idempotency-Replayed"

# What belongs to one connection, one moment or one user's session, and what is worked out anew.
_NOT_KEPT = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "authentication-info",
        "set-cookie",
        "age",
        "date",
        "server",
        "content-length",
        "x-request-id",
        "x-degraded",
        REPLAYED_HEADER.lower(),
    }
)


def to_keep(response: Response, max_body: int) -> Answer:
    """What is kept of an answer that is about to be sent.

    A streamed body is read on until it ends or is too long to be kept; then what was read is sent first, and
    the rest flows as it comes.

    Args:
        response: The answer. It can still be sent afterwards.
        max_body: Bytes of the longest body to keep.
    """
    body = _streamed(response, max_body) if _is_streamed(response) else response.get_data()
    if body is not None and len(body) > max_body:
        body = None
    return Answer(response.status_code, _kept_headers(response.headers), body)


def answer_again(answer: Answer) -> Response:
    """The response made of a kept answer, which must have a body.

    Raises:
        ValueError: It has none.
    """
    if answer.body is None:
        raise ValueError("the body was too long to be kept")
    headers = Headers(list(answer.headers))
    response = current_app.response_class(answer.body, answer.status, headers)
    if not any(name.lower() == "content-type" for name, _ in answer.headers):
        response.headers.pop("Content-Type", None)  # Flask's own guess
    response.headers[REPLAYED_HEADER] = "true"
    return response


def _kept_headers(headers: Headers) -> tuple[tuple[str, str], ...]:
    named = {name.strip().lower() for line in headers.getlist("Connection") for name in line.split(",")}
    return tuple((name, value) for name, value in headers if name.lower() not in _NOT_KEPT | named)


def _is_streamed(response: Response) -> bool:
    return response.is_streamed or response.direct_passthrough


def _streamed(response: Response, max_body: int) -> bytes | None:
    source = response.response
    chunks = iter(response.iter_encoded())
    read: list[bytes] = []
    size = 0
    for chunk in chunks:
        read.append(chunk)
        size += len(chunk)
        if size > max_body:
            break
    whole = size <= max_body
    response.direct_passthrough = False
    response.response = read if whole else chain(read, chunks)
    close = getattr(source, "close", None)
    if close is not None:
        response.call_on_close(close)
    return b"".join(read) if whole else None
