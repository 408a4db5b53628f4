"""The ordinary way to make a call's request: ``requests`` prepares it, whatever its arguments are."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.structures import CaseInsensitiveDict

from service_utils.calls import Replay
from service_utils.http.body import CallerBody, CallerCode
from service_utils.http.context import BoundContext, new_request_id
from service_utils.http.headers import REQUEST_ID_HEADER, TIME_LEFT_HEADER, check_header
from service_utils.http.idempotency import IDEMPOTENCY_HEADER, KEYED_METHODS, checked_key, new_key
from service_utils.http.options import SendOptions, checked_cert, checked_verify
from service_utils.http.replays import replay_of
from service_utils.http.transport import Transport
from service_utils.http.urls import BaseURL, fill_path, label_of
from service_utils.policies.deadline import Deadline

__all__ = ["CallDefaults", "OrdinaryRequest", "build", "checked_auth"]

_REQUEST_ARGUMENTS = frozenset({"params", "data", "json", "headers", "cookies", "files", "auth", "hooks"})
_SEND_ARGUMENTS = frozenset({"stream", "allow_redirects", "proxies", "verify", "cert"})
_MAPPINGS = frozenset({"path_params", "headers", "hooks", "proxies"})


@dataclass(frozen=True, slots=True)
class CallDefaults:
    """What a client adds to every call.

    Attributes:
        base: The service's address.
        headers: Headers of every request.
        auth: As ``requests`` takes it.
        idempotency_keys: Whether POST and PATCH get a key of their own accord.
    """

    base: BaseURL
    headers: Mapping[str, str] = field(repr=False)
    auth: Any = field(repr=False)
    idempotency_keys: bool


@dataclass(slots=True)
class OrdinaryRequest:
    """A prepared call; an :class:`~service_utils.http.outgoing.Outgoing`.

    Attributes:
        method: See there.
        label: See there.
        idempotency_key: See there.
        request_id: See there.
        options: See there.
        code: See there.
        prepared: The request without credentials of a token provider.
        fixed: Names, in lower case, of the headers that the caller set: a token provider leaves them alone.
    """

    method: str
    label: str
    idempotency_key: str | None
    request_id: str
    options: SendOptions
    code: CallerCode
    prepared: requests.PreparedRequest
    fixed: frozenset[str]
    _base_path: str
    _sent: int = field(default=0)

    def replayable(self) -> bool:
        """Whether the body can be sent once more."""
        body: Any = self.prepared.body
        return not isinstance(body, CallerBody) or body.replayable()

    def next_request(
        self, credentials: Mapping[str, str], time_left: float | None
    ) -> requests.PreparedRequest:
        """The request for the next sending: a copy with credentials and time left of its own."""
        body: Any = self.prepared.body
        if self._sent and isinstance(body, CallerBody) and not body.rewind():
            raise requests.exceptions.UnrewindableBodyError(
                f"{self.method} {self.label}: the body cannot be rewound"
            )
        self._sent += 1
        request = self.prepared.copy()
        for name, value in credentials.items():
            if name.lower() not in self.fixed:
                request.headers[name] = value
        if time_left is not None and TIME_LEFT_HEADER.lower() not in self.fixed:
            request.headers[TIME_LEFT_HEADER] = str(max(int(time_left * 1000), 0))
        return request

    def replay(self) -> Replay | None:
        """What a dead letter needs to send this call again, or None."""
        prepared = self.prepared
        path = prepared.path_url.removeprefix(self._base_path)
        headers = prepared.headers.items()
        return replay_of(self.method, path, prepared.body, headers, self.fixed, self.idempotency_key)


def build(
    defaults: CallDefaults,
    transport: Transport,
    method: str,
    path: str,
    *,
    path_params: Mapping[str, object] | None,
    idempotency_key: str | None,
    deadline: Deadline | None,
    inbound: BoundContext,
    arguments: Mapping[str, Any],
) -> OrdinaryRequest:
    """Check a call's arguments and prepare its request.

    Raises:
        TypeError: An argument is unknown or of the wrong type.
        ValueError: The path, a header or the body cannot be sent; see also :meth:`BaseURL.join`.
    """
    _check_arguments({"path_params": path_params, **arguments})
    if not isinstance(method, str) or not method.isalpha():
        raise ValueError(f"method={method!r}: must be an HTTP method such as GET")
    method = method.upper()
    url = defaults.base.join(path if path_params is None else fill_path(path, path_params))
    headers = _merged(defaults.headers, arguments.get("headers"))
    key = _key_for(defaults, method, headers, idempotency_key)
    request_id = _request_id_for(headers, inbound)
    code = CallerCode()
    prepared = transport.prepare(
        requests.Request(
            method,
            url,
            headers=headers,
            data=_data(arguments.get("data")),
            **{name: arguments.get(name) for name in ("params", "json", "files", "cookies")},
            auth=checked_auth(arguments.get("auth")) or defaults.auth,
            hooks=_noted_hooks(arguments.get("hooks"), code),
        )
    )
    if not defaults.base.contains(str(prepared.url)):
        raise ValueError(f"path={label_of(path)!r}: leads to another origin than {defaults.base.url}")
    body: Any = prepared.body
    if body is not None and not isinstance(body, str | bytes | bytearray):
        prepared.body = CallerBody(body, code)  # type: ignore[assignment]
    return OrdinaryRequest(
        method=method,
        label=label_of(path),
        idempotency_key=key,
        request_id=request_id,
        options=_options(method, arguments, deadline),
        code=code,
        prepared=prepared,
        fixed=frozenset(name.lower() for name in headers),
        _base_path=urlsplit(defaults.base.url).path,
    )


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    if unknown := arguments.keys() - _REQUEST_ARGUMENTS - _SEND_ARGUMENTS - {"path_params"}:
        raise TypeError(f"request() got an unexpected keyword argument {min(unknown)!r}")
    for name, given in arguments.items():
        if name in _MAPPINGS and given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{name}: must be a mapping, not of type {type(given).__name__}")


def checked_auth(auth: Any) -> Any:
    """``auth=`` as ``requests`` takes it: a callable, or user and password.

    Raises:
        TypeError: It is neither. The error does not show it.
    """
    pair = isinstance(auth, tuple | list) and len(auth) == 2
    if auth is None or pair or callable(auth):
        return auth
    raise TypeError(f"auth of type {type(auth).__name__}: must be (user, password) or a callable")


def _data(data: Any) -> Any:
    if isinstance(data, memoryview):
        return bytes(data)  # requests would send it, but could not send it again
    # requests takes the length of a StringIO in characters and then sends its bytes.
    return data.read().encode() if isinstance(data, io.StringIO) else data


def _merged(defaults: Mapping[str, str], given: Mapping[str, str | None] | None) -> CaseInsensitiveDict[Any]:
    """The client's headers under those of the call; a value of None takes one away."""
    merged: CaseInsensitiveDict[Any] = CaseInsensitiveDict(defaults)
    for name, value in (given or {}).items():
        check_header(name, "" if value is None else value)
        merged[name] = value
    return merged


def _key_for(
    defaults: CallDefaults, method: str, headers: CaseInsensitiveDict[Any], given: str | None
) -> str | None:
    key = given if given is not None else headers.get(IDEMPOTENCY_HEADER)
    if key is None and defaults.idempotency_keys and method in KEYED_METHODS:
        key = new_key()
    if key is not None:
        headers[IDEMPOTENCY_HEADER] = checked_key(key)
    return key


def _request_id_for(headers: CaseInsensitiveDict[Any], inbound: BoundContext) -> str:
    request_id = headers.get(REQUEST_ID_HEADER) or inbound.request_id or new_request_id()
    headers[REQUEST_ID_HEADER] = request_id
    for name, value in (inbound.trace or {}).items():
        headers.setdefault(name, value)
    return str(request_id)


def _noted_hooks(hooks: Mapping[str, Any] | None, code: CallerCode) -> dict[str, Any] | None:
    if not hooks:
        return None
    noted = {}
    for event, given in hooks.items():
        several: Iterable[Any] = given if isinstance(given, list | tuple) else (given,)
        noted[event] = [code.wrap_hook(hook) for hook in several]
    return noted


def _options(method: str, arguments: Mapping[str, Any], deadline: Deadline | None) -> SendOptions:
    return SendOptions(
        stream=bool(arguments.get("stream")),
        allow_redirects=bool(arguments.get("allow_redirects", method != "HEAD")),
        proxies=arguments.get("proxies"),
        verify=checked_verify(arguments.get("verify")),
        cert=checked_cert(arguments.get("cert")),
        deadline=deadline,
    )
