"""The transport: prepared request in, complete response out, on a real ``requests.Session``.

The seam for a faster one is :class:`Transport`: ``send(prepared, timeout) -> Response``. What this one adds
to the session is what a client shared by many users' threads needs: cookies are not kept, the environment of
the machine is read once, redirects stay within the origin, and no body grows beyond its bound.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Protocol, TypeAlias
from urllib.parse import urljoin

import requests
from requests import PreparedRequest, Response
from requests import exceptions as rex
from requests.adapters import HTTPAdapter

from service_utils.http.body import CallerBody, read_body, read_quietly
from service_utils.http.urls import BaseURL
from service_utils.policies.deadline import Deadline

__all__ = [
    "Cert",
    "SendOptions",
    "SessionTransport",
    "Timeout",
    "Transport",
    "checked_cert",
    "checked_verify",
    "resolve_verify",
]

Timeout: TypeAlias = "float | tuple[float | None, float | None] | None"
Cert: TypeAlias = "str | tuple[str, str]"


@dataclass(frozen=True, slots=True)
class SendOptions:
    """How one request is sent, beyond what is written in it.

    Attributes:
        stream: Whether the body is left to the caller.
        allow_redirects: Whether redirects within the origin are followed.
        proxies: Proxies by scheme, as ``requests`` takes them.
        verify: TLS verification of this call, or None for the client's.
        cert: Client certificate of this call, or None for the client's.
        deadline: When the whole call must have ended, or None.
    """

    stream: bool = False
    allow_redirects: bool = True
    proxies: Mapping[str, str] | None = field(default=None, repr=False)
    verify: bool | str | None = None
    cert: Cert | None = None
    deadline: Deadline | None = None


class Transport(Protocol):
    """What a client needs of the wire."""

    def prepare(self, request: requests.Request) -> PreparedRequest:
        """Fill in the session's headers and credentials, encode the body."""
        ...

    def send(self, prepared: PreparedRequest, timeout: Timeout, options: SendOptions) -> Response:
        """Send it and bring the whole answer.

        Raises:
            requests.RequestException: No complete answer came.
        """
        ...

    def close(self) -> None:
        """Close all idle connections."""
        ...


def checked_verify(verify: Any) -> bool | str | None:
    """``verify`` as it may be handed on: True, False, None, or the path of something that exists.

    Raises:
        TypeError: It is neither a bool nor a path.
        ValueError: It names a file or folder that is not there.
    """
    if isinstance(verify, os.PathLike):
        verify = os.fspath(verify)
    if verify is not None and not isinstance(verify, bool | str):
        raise TypeError(f"verify={verify!r}: must be True, False or the path of a CA bundle")
    return _existing("verify", verify) if isinstance(verify, str) else verify


def checked_cert(cert: Any) -> Cert | None:
    """A client certificate as it may be handed on: None, a file, or a pair of certificate and key.

    Raises:
        TypeError: It is none of these.
        ValueError: It names a file that is not there.
    """
    if cert is None:
        return None
    parts = tuple(cert) if isinstance(cert, tuple | list) else (cert,)
    if len(parts) > 2 or not all(isinstance(part, str | os.PathLike) for part in parts):
        raise TypeError(f"cert={cert!r}: must be the path of a certificate, or a pair of certificate and key")
    paths = [_existing("cert", os.fspath(part)) for part in parts]
    return (paths[0], paths[1]) if len(paths) == 2 else paths[0]


def resolve_verify(verify: Any) -> bool | str:
    """What ``verify=`` of a client comes to: a path or False as it is, True after a look at the environment.

    ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` and ``SSL_CERT_FILE`` are honoured in this order.

    Raises:
        TypeError: It is neither a bool nor a path.
        ValueError: It, or a variable, names a file or folder that is not there.
    """
    given = checked_verify(verify)
    if given is None:
        raise TypeError("verify=None: must be True, False or the path of a CA bundle")
    if given is True:
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            if found := os.environ.get(variable):
                return _existing(variable, found)
    return given


def _existing(what: str, path: str) -> str:
    if not os.path.exists(path):
        raise ValueError(f"{what}={path!r}: there is no such file or folder")
    return path


class SessionTransport:
    """The transport on the stock machinery of ``requests``; for any number of threads.

    Args:
        base: The address whose origin redirects must not leave.
        service: Display name, for errors.
        session: A session to use as it is; None makes one.
        pool_maxsize: Connections kept for use again, when the session is ours.
        max_response_bytes: The longest body, decoded.
        verify: See :func:`resolve_verify`.
        cert: Client certificate file, or a pair of certificate and key.
        trust_env: Whether proxies and ``.netrc`` of the machine count.
    """

    def __init__(
        self,
        base: BaseURL,
        service: str,
        *,
        session: requests.Session | None,
        pool_maxsize: int,
        max_response_bytes: int,
        verify: bool | str,
        cert: Cert | None,
        trust_env: bool,
    ) -> None:
        self._base = base
        self._service = service
        self._limit = max_response_bytes
        self._owned = session is None
        self._session = _new_session(base, pool_maxsize, trust_env) if session is None else session
        # A cookie that one user's call brings must not travel with another's; cookies put in by hand still
        # do.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # A session that was given keeps its own settings unless the client's arguments say otherwise.
        self._verify = None if session is not None and verify is True else resolve_verify(verify)
        # What True means for one call of a client that does not verify otherwise.
        self._trusted = resolve_verify(True) if verify is False or session is not None else True
        self._cert = checked_cert(cert)

    def prepare(self, request: requests.Request) -> PreparedRequest:
        """See :meth:`Transport.prepare`."""
        return self._session.prepare_request(request)

    def send(self, prepared: PreparedRequest, timeout: Timeout, options: SendOptions) -> Response:
        """See :meth:`Transport.send`."""
        response = self._send_once(prepared, timeout, options)
        history: list[Response] = []
        while options.allow_redirects and (following := self._next(response)) is not None:
            history.append(response)
            if len(history) > self._session.max_redirects:
                response.close()
                raise rex.TooManyRedirects(
                    f"more than {self._session.max_redirects} redirects", response=response
                )
            try:
                response = self._send_once(following, timeout, options)
            except rex.RequestException as error:
                # Whatever became of this one, the request that was redirected has reached the service.
                error.after_redirect = True  # type: ignore[attr-defined]
                raise
        response.history = history
        if not options.stream:
            read_body(response, self._limit, self._service, options.deadline)
        return response

    def close(self) -> None:
        """Close idle connections; a session that was given is its owner's to close."""
        if self._owned:
            self._session.close()

    def _send_once(self, prepared: PreparedRequest, timeout: Timeout, options: SendOptions) -> Response:
        verify = self._verify_of(options)
        cert = self._cert if options.cert is None else options.cert
        settings: dict[str, Any] = dict(
            self._session.merge_environment_settings(
                prepared.url, dict(options.proxies or {}), True, verify, cert
            )
        )
        if verify is not None:
            settings["verify"] = verify  # requests lets REQUESTS_CA_BUNDLE of the moment override it
        return self._send_bounded(prepared, options, timeout=timeout, allow_redirects=False, **settings)

    def _verify_of(self, options: SendOptions) -> bool | str | None:
        """Whether and by what certificates the service is verified; None leaves it to the session."""
        if options.verify is None:
            return self._verify
        if options.verify is True:
            return self._verify or self._trusted
        return options.verify

    def _send_bounded(self, prepared: PreparedRequest, options: SendOptions, **settings: Any) -> Response:
        """Send, the body of a redirect read within bounds before requests reads it without any."""
        seen: list[Response] = []

        def read(response: Response, *_args: Any, **_kwargs: Any) -> None:
            seen.append(response)
            if response.is_redirect and self._session.get_redirect_target(response) is not None:
                read_body(response, self._limit, self._service, options.deadline)

        hooks: dict[str, Any] = prepared.hooks
        prepared.hooks = {**hooks, "response": [*hooks.get("response", ()), read]}
        try:
            response = self._session.send(prepared, **settings)
        except rex.HTTPError as error:
            if error.response is not None:
                read_quietly(error.response, self._limit, self._service, options.deadline)
            raise
        except ValueError:
            # A session that was given raises on a redirect to what is no address: that leads nowhere, then.
            if not (seen and seen[-1].is_redirect):
                raise
            response = seen[-1]
        finally:
            prepared.hooks = hooks
        # A local function would keep answers and errors from being pickled, and following requests have
        # their own.
        for each in (response, response.next, *response.history):
            if each is not None:
                request: Any = each.request if isinstance(each, Response) else each
                request.hooks = hooks
        return response

    def _next(self, response: Response) -> PreparedRequest | None:
        """The request that a redirect asks for, if it stays within the origin and its body is still there."""
        following: PreparedRequest | None = response.next
        if following is None or not self._base.contains(str(following.url)):
            return None
        body: Any = following.body
        return None if isinstance(body, CallerBody) and not body.replayable() else following


class _OriginSession(requests.Session):
    """A session to which a redirect that leads elsewhere, or nowhere, is no redirect."""

    def __init__(self, base: BaseURL) -> None:
        super().__init__()
        self._base = base

    def get_redirect_target(self, resp: Response) -> str | None:
        try:
            target = super().get_redirect_target(resp)
            following = None if target is None else urljoin(str(resp.url), target)
        except ValueError:  # also of text that is no UTF-8
            return None
        return None if following is None or not self._base.contains(following) else target


def _new_session(base: BaseURL, pool_maxsize: int, trust_env: bool) -> requests.Session:
    session = _OriginSession(base)
    session.trust_env = trust_env
    for prefix in ("http://", "https://"):
        session.mount(prefix, HTTPAdapter(pool_connections=4, pool_maxsize=pool_maxsize))
    return session
