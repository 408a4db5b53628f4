"""The transport: prepared request in, complete answer out, on a real ``requests.Session``.

What is built here on :class:`~service_utils.http.fast.FastSession` is what a client shared by many users'
threads needs: an attempt ends in time, cookies are not kept, the environment of the machine is read once,
redirects stay within the origin, no body grows beyond its bound, and forked children have connections of
their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Protocol
from urllib.parse import urljoin

import requests
from requests import PreparedRequest, Response
from requests import exceptions as rex
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from service_utils import forks
from service_utils.clock import SYSTEM
from service_utils.http.body import CallerBody, read_body, read_quietly
from service_utils.http.connection import BoundedConnection
from service_utils.http.fast import (
    IDLE_TIMEOUT,
    MAX_CONNECTION_AGE,
    FastAdapter,
    FastSession,
    adopt,
    renew_pools,
    send_with_repeat,
)
from service_utils.http.options import (
    Cert,
    SendOptions,
    SessionSettings,
    Timeout,
    checked_cert,
    checked_verify,
    resolve_verify,
)
from service_utils.http.response import FastResponse
from service_utils.http.sending import Sending
from service_utils.http.urls import BaseURL

__all__ = [
    "Cert",
    "FastAdapter",
    "FastSession",
    "SendOptions",
    "SessionTransport",
    "Timeout",
    "Transport",
    "checked_cert",
    "checked_verify",
    "resolve_verify",
]


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


class SessionTransport:
    """The transport on a session; for any number of threads.

    Args:
        base: The address whose origin redirects must not leave.
        service: Display name, for errors.
        session: A session to use as it is; None makes one.
        pool_maxsize: Connections kept for use again, when the session is ours.
        max_response_bytes: The longest body, decoded.
        verify: See :func:`resolve_verify`.
        cert: Client certificate file, or a pair of certificate and key.
        trust_env: Whether proxies and ``.netrc`` of the machine count.
        idle_timeout: Seconds an unused connection is kept, or None.
        max_connection_age: Seconds after which a connection is used no more, or None.
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
        idle_timeout: float | None = IDLE_TIMEOUT,
        max_connection_age: float | None = MAX_CONNECTION_AGE,
    ) -> None:
        self._base = base
        self._service = service
        self._limit = max_response_bytes
        self._ages = idle_timeout, max_connection_age
        self._own: _OriginSession | None = None
        if session is None:
            session = self._own = _OriginSession(base, pool_maxsize, *self._ages, trust_env)
        else:
            adopt(session, *self._ages)
            forks.in_child(self._renew_in_child)
        self._session = session
        # A cookie that one user's call brings must not travel with another's; cookies put in by hand still
        # do.
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # A session that was given keeps its own settings unless the client's arguments say otherwise.
        self._verify = None if self._own is None and verify is True else resolve_verify(verify)
        # What True means for one call of a client that does not verify otherwise.
        self._trusted = resolve_verify(True) if verify is False or self._own is None else True
        self._cert = checked_cert(cert)
        self._headers: dict[str, tuple[str, str]] = {}
        self._headers_seen = -1

    def prepare(self, request: requests.Request) -> PreparedRequest:
        """See :meth:`Transport.prepare`."""
        return self._session.prepare_request(request)

    def default_headers(self) -> dict[str, tuple[str, str]] | None:
        """Name and value of the headers that :meth:`prepare` would begin with, by their lower-case names.

        As long as nothing has changed it is the same object. None where preparing takes more than that: a
        session that was given, or one to which somebody has added credentials, cookies or the like.
        """
        session = self._own
        if (
            session is None
            or session.trust_env
            or session.auth
            or session.params
            or session.hooks["response"]
        ):
            return None
        headers = session.headers
        if type(headers) is not _CountedHeaders or next(iter(session.cookies), None) is not None:
            return None
        changes = headers.changes
        if changes != self._headers_seen:
            self._headers = {name.lower(): (name, value) for name, value in headers.items()}
            self._headers_seen = changes  # last: another thread takes it for a promise
        return self._headers

    def send(self, prepared: PreparedRequest, timeout: Timeout, options: SendOptions) -> Response:
        """See :meth:`Transport.send`."""
        attempt = _Attempt(timeout, options, self._limit)
        response = self._send_once(prepared, attempt)
        if options.allow_redirects and response.is_redirect:
            response = self._follow(response, attempt)
        if not options.stream:
            read_body(response, self._limit, self._service, attempt.moment)
        else:
            attempt.leave_to_caller(response)
        if type(response) is Response:  # of a session that was given
            response.__class__ = FastResponse
        return response

    def session_settings(self) -> SessionSettings:
        """Whom the session speaks as and how, where a call does not say so itself."""
        session = self._session
        client = None if self._own is None else (self._verify, self._cert)
        return SessionSettings(session.verify, session.cert, tuple(sorted(session.proxies.items())), client)

    def close(self) -> None:
        """Close idle connections; a session that was given is its owner's to close."""
        if self._own is not None:
            self._own.close()

    def _follow(self, response: Response, attempt: _Attempt) -> Response:
        """Go where redirects within the origin lead."""
        history: list[Response] = []
        while (following := self._next(response)) is not None:
            history.append(response)
            if len(history) > self._session.max_redirects:
                response.close()
                raise rex.TooManyRedirects(
                    f"more than {self._session.max_redirects} redirects", response=response
                )
            try:
                response = self._send_once(following, attempt)
            except rex.RequestException as error:
                # Whatever became of this one, the request that was redirected has reached the service.
                error.after_redirect = True  # type: ignore[attr-defined]
                raise
        response.history = history
        return response

    def _send_once(self, prepared: PreparedRequest, attempt: _Attempt) -> Response:
        sending, options = attempt.next_sending(), attempt.options
        verify = self._verify_of(options)
        cert = self._cert if options.cert is None else options.cert
        began = SYSTEM.monotonic()
        if self._own is not None and not options.stream and not options.proxies:
            response = self._own.fast(prepared, sending, attempt.timeout, verify, cert)
            if response is not None:
                return response
        settings: dict[str, Any] = dict(
            self._session.merge_environment_settings(
                prepared.url, dict(options.proxies or {}), True, verify, cert
            )
        )
        if verify is not None:
            settings["verify"] = verify  # requests lets REQUESTS_CA_BUNDLE of the moment override it
        settings |= {"timeout": attempt.timeout, "allow_redirects": False}
        if self._own is not None:
            send = functools.partial(self._own.ordinary, sending=sending, began=began)
        else:
            send = functools.partial(send_with_repeat, self._session.send, sending=sending)
        return self._send_bounded(send, prepared, attempt.moment, **settings)

    def _verify_of(self, options: SendOptions) -> bool | str | None:
        """Whether and by what certificates the service is verified; None leaves it to the session."""
        if options.verify is None:
            return self._verify
        if options.verify is True:
            return self._verify or self._trusted
        return options.verify

    def _send_bounded(
        self,
        send: Callable[..., Response],
        prepared: PreparedRequest,
        moment: float | None,
        **settings: Any,
    ) -> Response:
        """Send, the body of a redirect read within bounds before requests reads it without any."""
        seen: list[Response] = []

        def read(response: Response, *_args: Any, **_kwargs: Any) -> None:
            seen.append(response)
            if response.is_redirect and self._session.get_redirect_target(response) is not None:
                read_body(response, self._limit, self._service, moment)

        hooks: dict[str, Any] = prepared.hooks
        prepared.hooks = {**hooks, "response": [*hooks.get("response", ()), read]}
        try:
            response = send(prepared, **settings)
        except rex.HTTPError as error:
            if error.response is not None:
                read_quietly(error.response, self._limit, self._service, moment)
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

    def _renew_in_child(self) -> None:
        """After a fork: connections of our own for a session that was given."""
        for adapter in self._session.adapters.values():
            if isinstance(adapter, HTTPAdapter) and not isinstance(adapter, FastAdapter):
                renew_pools(adapter)


class _Attempt:
    """One attempt while it is sent: request after request, where there are redirects, within one time.

    Args:
        timeout: Of the whole attempt; a pair is for connecting and for each piece that is read.
        options: How it is sent.
        limit: Bytes of the longest body.
    """

    __slots__ = ("_limit", "moment", "options", "timeout")

    def __init__(self, timeout: Timeout, options: SendOptions, limit: int) -> None:
        self.timeout = timeout
        self.options = options
        self._limit = limit
        self.moment = self._deadline()
        if timeout is not None and not isinstance(timeout, tuple):
            moment = SYSTEM.monotonic() + timeout
            self.moment = moment if self.moment is None else min(moment, self.moment)

    def next_sending(self) -> Sending:
        """The bounds of its next request."""
        return Sending(self.moment, self._limit)

    def leave_to_caller(self, response: Response) -> None:
        """From now on the body is bounded by the call's deadline, and each piece of it by the time-out."""
        holder: object = getattr(response.raw, "connection", None)  # None once it is back in its pool
        if isinstance(holder, BoundedConnection):
            holder.moment = self._deadline()

    def _deadline(self) -> float | None:
        """The deadline in real time, whatever clock the client goes by: sockets know no other."""
        deadline = self.options.deadline
        return None if deadline is None else SYSTEM.monotonic() + deadline.remaining()


class _CountedHeaders(CaseInsensitiveDict[str]):
    """Default headers that know whether somebody has changed them."""

    changes = 0

    def __setitem__(self, key: str, value: str) -> None:
        super().__setitem__(key, value)
        self.changes += 1

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.changes += 1


class _OriginSession(FastSession):
    """A session to which a redirect that leads elsewhere, or nowhere, is no redirect."""

    def __init__(
        self,
        base: BaseURL,
        pool_maxsize: int,
        idle_timeout: float | None,
        max_connection_age: float | None,
        trust_env: bool,
    ) -> None:
        super().__init__(
            pool_maxsize=pool_maxsize,
            idle_timeout=idle_timeout,
            max_connection_age=max_connection_age,
            trust_env=trust_env,
        )
        self._base = base
        defaults: Any = self.headers
        self.headers = _CountedHeaders(defaults)  # type: ignore[assignment]

    def get_redirect_target(self, resp: Response) -> str | None:
        try:
            target = super().get_redirect_target(resp)
            following = None if target is None else urljoin(str(resp.url), target)
        except ValueError:  # also of text that is no UTF-8
            return None
        return None if following is None or not self._base.contains(following) else target
