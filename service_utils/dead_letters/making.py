"""LetterMaker: from what a caller gives to a letter that can be kept and sent, without credentials."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from types import EllipsisType, MappingProxyType
from typing import Any, Final

from service_utils.calls import CallRecord
from service_utils.clock import Clock
from service_utils.dead_letters.errors import DeadLetterQueueFull
from service_utils.dead_letters.ids import new_letter_id
from service_utils.dead_letters.letter import CALL, MESSAGE, DeadLetter
from service_utils.http.context import current_request_id, valid_request_id
from service_utils.http.headers import check_header
from service_utils.http.idempotency import IDEMPOTENCY_HEADER, checked_key, new_key
from service_utils.http.replays import may_be_kept
from service_utils.policies.checks import require_count
from service_utils.wording import describe_error

__all__ = ["LetterMaker"]

_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MOST_RETRIES: Final = 1_000_000


class LetterMaker:
    """Makes letters; :meth:`DeadLetterQueue.add` says what the arguments mean and what is raised.

    Args:
        max_body: The largest body in bytes.
        clock: Where the time comes from.
    """

    def __init__(self, max_body: int, clock: Clock) -> None:
        self._max_body = max_body
        self._clock = clock

    def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        json: Any = ...,
        body: Any = None,
        headers: Mapping[str, str | bytes] | None = None,
        error: BaseException | str | None = None,
        idempotency_key: str | None = None,
        request_id: str | None = None,
        max_retries: int = 5,
    ) -> DeadLetter:
        """A call to be made."""
        _check_name("service", service)
        _check_target(method, path)
        if idempotency_key is not None:
            checked_key(idempotency_key)
        if request_id is not None and not valid_request_id(request_id):
            raise ValueError(f"request_id={request_id!r}: cannot travel in a header")
        data, kept = self._body_of(json, body), _kept_headers(headers)
        if not isinstance(json, EllipsisType) and "content-type" not in map(str.lower, kept):
            kept["Content-Type"] = "application/json"
        return self._letter(
            kind=CALL,
            service=service,
            method=method.upper(),
            path=path,
            body=data,
            headers=MappingProxyType(kept),
            idempotency_key=idempotency_key or _key_in(headers) or new_key(),
            request_id=request_id or _request_id_of(error) or current_request_id(),
            error=error,
            max_retries=max_retries,
        )

    def message(
        self,
        type: str,
        payload: Any,
        *,
        error: BaseException | str | None = None,
        max_retries: int = 5,
    ) -> DeadLetter:
        """A message to be processed."""
        _check_name("type", type)
        return self._letter(
            kind=MESSAGE,
            service=type,
            body=self._bounded(_as_json(payload, "payload")),
            request_id=current_request_id(),
            error=error,
            max_retries=max_retries,
        )

    def _letter(self, *, error: BaseException | str | None, max_retries: int, **fields: Any) -> DeadLetter:
        require_count("max_retries", max_retries)
        if max_retries > _MOST_RETRIES:
            raise ValueError(f"max_retries={max_retries!r}: must be at most {_MOST_RETRIES}")
        now = self._clock.now().timestamp()
        return DeadLetter(
            id=new_letter_id(now),
            max_retries=max_retries,
            created_at=now,
            next_attempt_at=now,
            last_error=describe_error(error),
            last_status=_status_of(error),
            **fields,
        )

    def _body_of(self, json: Any, body: Any) -> bytes | None:
        if not isinstance(json, EllipsisType):
            if body is not None:
                raise ValueError("json and body are both given: a letter has one body")
            return self._bounded(_as_json(json, "json"))
        if body is None:
            return None
        if isinstance(body, str):
            return self._bounded(body.encode())
        if isinstance(body, bytes | bytearray | memoryview):
            return self._bounded(bytes(body))
        raise TypeError(f"body of type {type(body).__name__}: must be bytes or a string")

    def _bounded(self, data: bytes) -> bytes:
        if len(data) > self._max_body:
            message = f"max_body={self._max_body}: the body has {len(data)} bytes"
            raise DeadLetterQueueFull(message, "max_body")
        return data


def _check_name(what: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 200:
        raise ValueError(f"{what}={value!r}: must be a printable name of at most 200 characters")


def _check_target(method: object, path: object) -> None:
    if not isinstance(method, str) or method.upper() not in _METHODS:
        known = ", ".join(sorted(_METHODS))
        raise ValueError(f"method={method!r}: must be one of {known}")
    if not isinstance(path, str) or not path.startswith("/") or path.startswith("//"):
        raise ValueError(f"path={path!r}: must begin with one slash, below the client's base URL")
    if any(each < " " or each == "\x7f" or "\ud800" <= each <= "\udfff" for each in path):
        raise ValueError(f"path={path!r}: must hold no control characters")


def _as_json(value: Any, what: str) -> bytes:
    try:
        return json_module.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{what} of type {type(value).__name__}: cannot be JSON: {error}") from None


def _kept_headers(headers: Mapping[str, str | bytes] | None) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers of type {type(headers).__name__}: must be a mapping of names to values")
    kept = {}
    for name, value in headers.items():
        if not isinstance(name, str):
            raise TypeError(f"headers: {name!r}: must be a string")
        check_header(name, value)
        if name.lower() != IDEMPOTENCY_HEADER.lower() and may_be_kept(name, value):
            kept[name] = _text(value)
    return kept


def _key_in(headers: Mapping[str, str | bytes] | None) -> str | None:
    for name, value in (headers or {}).items():
        if name.lower() == IDEMPOTENCY_HEADER.lower():
            return checked_key(_text(value))
    return None


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _request_id_of(error: object) -> str | None:
    record = getattr(error, "call", None)
    return record.request_id if isinstance(record, CallRecord) else None


def _status_of(error: object) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
