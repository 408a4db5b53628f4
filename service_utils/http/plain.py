"""Plain calls: what those of one method and path have in common is prepared once, by ``requests`` itself.

A call is plain if all that ``requests`` would do with it is known beforehand: its arguments are of the usual
kinds, and the session has nothing to add but headers. What goes out is the same to the byte as what the
ordinary way (:mod:`service_utils.http.ordinary`) would send. Everything else takes that way: whatever is not
plain is not looked at closely here, and whatever cannot be sent is refused there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import requests
from requests import PreparedRequest, Session
from requests.utils import super_len

from service_utils.calls import Replay
from service_utils.http.body import CallerCode
from service_utils.http.context import BoundContext, new_request_id
from service_utils.http.exchange import headers_of
from service_utils.http.headers import REQUEST_ID_HEADER, TIME_LEFT_HEADER, check_header
from service_utils.http.idempotency import IDEMPOTENCY_HEADER, KEYED_METHODS, checked_key, new_key
from service_utils.http.options import SendOptions
from service_utils.http.preparation import PLAIN_QUERY, prepare, require_plain
from service_utils.http.replays import replay_of
from service_utils.http.urls import BaseURL
from service_utils.policies.deadline import Deadline

__all__ = ["Fields", "PlainCalls", "PlainRequest"]

Fields: TypeAlias = dict[str, tuple[str, str]]
"""Name and value of headers by the name in lower case, in their order."""

# What requests itself encodes with; it is looked up at each call, since others put theirs in its place.
_requests: Any = requests.models

_REQUEST_ID: Final = REQUEST_ID_HEADER.lower()
_KEY: Final = IDEMPOTENCY_HEADER.lower()
_TIME_LEFT: Final = TIME_LEFT_HEADER.lower()
_LENGTH: Final = "content-length"
_TYPE: Final = "content-type"
_KEPT = 256
_PLAIN_ARGUMENTS = frozenset({"params", "data", "json", "headers", "stream", "allow_redirects"})
_WITHOUT_BODY = ("GET", "HEAD")


@dataclass(slots=True, repr=False)
class PlainRequest:
    """A call whose parts are ready; each attempt puts them together.

    It is an :class:`~service_utils.http.outgoing.Outgoing`, whose attributes are explained there.
    """

    method: str
    label: str
    idempotency_key: str | None
    request_id: str
    options: SendOptions
    _url: str
    _body: str | bytes | None
    _session: Fields
    _callers: Fields
    _of_body: Fields
    _base_path: str

    @property
    def code(self) -> CallerCode:
        """Nothing of the caller's own code runs in a plain call."""
        return CallerCode()

    def replayable(self) -> bool:
        """Whether the body can be sent once more."""
        return True

    def next_request(self, credentials: Mapping[str, str], time_left: float | None) -> PreparedRequest:
        """The request for the next sending, with credentials and time left of its own."""
        callers = self._callers
        fields = {**self._session, **callers, **self._of_body}
        for name, value in credentials.items():
            lower = name.lower()
            if lower not in callers:
                fields[lower] = (name, value)
        if time_left is not None and _TIME_LEFT not in callers:
            fields[_TIME_LEFT] = (TIME_LEFT_HEADER, str(int(time_left * 1000)))
        request = PreparedRequest()
        request.method = self.method
        request.url = self._url
        request.headers = headers_of(fields)
        request.body = self._body
        return request

    def replay(self) -> Replay | None:
        """What a dead letter needs to send this call again; None for reads."""
        request = self.next_request({}, None)
        path = request.path_url.removeprefix(self._base_path)
        headers = request.headers.items()
        return replay_of(self.method, path, self._body, headers, self._callers, self.idempotency_key)


class PlainCalls:
    """Makes the requests of one client's plain calls. For any number of threads.

    Args:
        base: The service's address.
        headers: Headers of every request.
        session_headers: Tells the headers that the session adds, or None while it adds more than that.
        idempotency_keys: Whether POST and PATCH get a key of their own accord.

    Attributes:
        prepared: ``prepared(method, path, is_template)`` gives what is kept of a method and a path without
            query; a ValueError or TypeError means that such calls are not plain.
    """

    __slots__ = ("_base_path", "_checked", "_headers", "_idempotency_keys", "_session_headers", "prepared")

    def __init__(
        self,
        base: BaseURL,
        headers: Mapping[str, str],
        session_headers: Callable[[], Fields | None],
        *,
        idempotency_keys: bool,
    ) -> None:
        self._base_path = urlsplit(base.url).path
        self._headers: Fields = {name.lower(): (name, value) for name, value in headers.items()}
        self._session_headers = session_headers
        self._checked: Fields = {}
        self._idempotency_keys = idempotency_keys
        # A partial, not a method: the cache would keep its owner alive.
        self.prepared = functools.lru_cache(_KEPT)(functools.partial(prepare, base))

    def build(
        self,
        method: str,
        path: str,
        path_params: Mapping[str, object] | None,
        idempotency_key: str | None,
        deadline: Deadline | None,
        inbound: BoundContext,
        arguments: Mapping[str, Any],
    ) -> PlainRequest | None:
        """The request of a call, or None when it must be made in the ordinary way."""
        session = self._session_headers()
        if session is None or type(method) is not str or type(path) is not str:
            return None
        if arguments and not arguments.keys() <= _PLAIN_ARGUMENTS:
            return None
        if not _prepared_as_known():
            return None
        try:
            if session is not self._checked:
                for name, value in session.values():
                    _check_plain_header(name, value)
                self._checked = session
            path, mark, query = path.partition("?")
            if mark:
                require_plain(PLAIN_QUERY.fullmatch(query) is not None)
            prepared = self.prepared(method, path, path_params is not None)
            url = prepared.url_with(path_params, query, arguments.get("params"))
            headers = self._headers_with(arguments.get("headers"))
            key = self._key_for(prepared.method, headers, idempotency_key)
            request_id = _request_id_for(headers, inbound)
            body, of_body = _body_of(prepared.method, arguments, session, headers)
        except (LookupError, TypeError, ValueError):
            return None  # the ordinary way will say what is wrong, if anything is
        return PlainRequest(
            prepared.method,
            prepared.label,
            key,
            request_id,
            _options(prepared.method, arguments, deadline),
            url,
            body,
            session,
            headers,
            of_body,
            self._base_path,
        )

    def _headers_with(self, given: Mapping[str, str] | None) -> Fields:
        headers = self._headers.copy()
        if given is not None:
            require_plain(isinstance(given, Mapping))
            for name, value in given.items():
                _check_plain_header(name, value)
                headers[name.lower()] = (name, value)
        return headers

    def _key_for(self, method: str, headers: Fields, given: str | None) -> str | None:
        key = given
        if key is None and _KEY in headers:
            key = headers[_KEY][1]
        if key is not None:
            checked_key(key)
        elif self._idempotency_keys and method in KEYED_METHODS:
            key = new_key()
        else:
            return None
        headers[_KEY] = (IDEMPOTENCY_HEADER, key)
        return key


def _check_plain_header(name: object, value: object) -> None:
    require_plain(type(name) is str and type(value) is str)
    check_header(name, value)


def _as_written(function: object, module: Any) -> object:
    """The function, if it lives in that module of requests; a stand-in is never what it stands for."""
    return function if getattr(function, "__globals__", None) is vars(module) else object()


_DUMPS, _JSONEncoder = _as_written(json.dumps, json), json.JSONEncoder
_encode = json.JSONEncoder(allow_nan=False).encode  # what dumps(allow_nan=False) makes anew each time
_PREPARE_REQUEST = _as_written(Session.prepare_request, requests.sessions)
_PREPARE = _as_written(PreparedRequest.prepare, requests.models)
_PREPARE_URL = _as_written(PreparedRequest.prepare_url, requests.models)
_PREPARE_BODY = _as_written(PreparedRequest.prepare_body, requests.models)


def _prepared_as_known() -> bool:
    """Whether requests would prepare a request in the way that is known here: nobody has replaced it."""
    return (
        Session.prepare_request is _PREPARE_REQUEST
        and PreparedRequest.prepare is _PREPARE
        and PreparedRequest.prepare_url is _PREPARE_URL
        and PreparedRequest.prepare_body is _PREPARE_BODY
    )


def _request_id_for(headers: Fields, inbound: BoundContext) -> str:
    given = headers.get(_REQUEST_ID)
    request_id = (given[1] if given else None) or inbound.request_id or new_request_id()
    headers[_REQUEST_ID] = (REQUEST_ID_HEADER, request_id)
    if inbound.trace:
        for name, value in inbound.trace.items():
            headers.setdefault(name.lower(), (name, value))
    return request_id


def _body_of(
    method: str, arguments: Mapping[str, Any], session: Fields, headers: Fields
) -> tuple[str | bytes | None, Fields]:
    """The body and the headers that speak of it, as ``requests`` makes them."""
    data, value = arguments.get("data"), arguments.get("json")
    if data is not None:
        require_plain(type(data) is bytes or type(data) is str)
    of_body: Fields = {}
    if not data and value is None:
        if method not in _WITHOUT_BODY and _LENGTH not in headers and _LENGTH not in session:
            of_body[_LENGTH] = ("Content-Length", "0")
        return None, of_body
    body = data or _json_of(value)
    length = len(body) if type(body) is bytes else super_len(body)  # type: ignore[no-untyped-call]
    of_body[_LENGTH] = ("Content-Length", str(length))
    if not data and _TYPE not in headers and _TYPE not in session:
        of_body[_TYPE] = ("Content-Type", "application/json")
    return body, of_body


def _json_of(value: Any) -> bytes:
    dumps = _requests.complexjson.dumps
    if dumps is _DUMPS and json.JSONEncoder is _JSONEncoder:
        return _encode(value).encode()
    text = dumps(value, allow_nan=False)
    return text if isinstance(text, bytes) else text.encode()


def _options(method: str, arguments: Mapping[str, Any], deadline: Deadline | None) -> SendOptions:
    stream, redirects = False, method != "HEAD"
    if arguments:
        stream = bool(arguments.get("stream"))
        redirects = bool(arguments.get("allow_redirects", redirects))
    if deadline is None:
        return _OPTIONS[stream, redirects]
    return SendOptions(stream, redirects, None, None, None, deadline)


_OPTIONS = {
    (stream, redirects): SendOptions(stream, redirects)
    for stream in (False, True)
    for redirects in (False, True)
}
