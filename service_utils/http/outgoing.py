"""One call on its way out: everything about it that does not change from attempt to attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import requests

from service_utils.calls import Replay
from service_utils.http.body import CallerCode
from service_utils.http.context import BoundContext
from service_utils.http.options import SendOptions
from service_utils.http.ordinary import CallDefaults, build
from service_utils.http.plain import PlainCalls
from service_utils.http.transport import Transport
from service_utils.policies.deadline import Deadline

__all__ = ["Outgoing", "RequestMaker"]


class Outgoing(Protocol):
    """A call that is ready to be sent.

    Attributes:
        method: Upper case.
        label: The path as the caller gave it, without its query: for logs and metrics.
        idempotency_key: What all attempts carry, or None.
        request_id: What all attempts carry.
        options: How it is sent.
        code: Notes exceptions of the caller's own functions and bodies. For reading only.
    """

    method: str
    label: str
    idempotency_key: str | None
    request_id: str
    options: SendOptions

    @property
    def code(self) -> CallerCode:
        """See above."""
        ...

    def replayable(self) -> bool:
        """Whether the body can be sent once more."""
        ...

    def next_request(
        self, credentials: Mapping[str, str], time_left: float | None
    ) -> requests.PreparedRequest:
        """The request for the next sending, with its own credentials and time left.

        Args:
            credentials: Headers of the token provider.
            time_left: Seconds to tell the service, or None to say nothing.

        Raises:
            requests.exceptions.UnrewindableBodyError: The body was sent before and cannot be sent again.
        """
        ...

    def replay(self) -> Replay | None:
        """What a dead letter needs to send this call again; None for reads and bodies that are gone."""
        ...


class RequestMaker:
    """Makes the requests of one client's calls: plain ones of parts prepared before, others from the ground.

    Args:
        defaults: What the client adds to every call.
        transport: Prepares what is not plain.

    Attributes:
        plain: Makes the plain ones. It is there from the first call on, since it takes more memory than many
            a client that is never used should.
    """

    __slots__ = ("_defaults", "_transport", "plain")

    plain: PlainCalls

    def __init__(self, defaults: CallDefaults, transport: Transport) -> None:
        self._defaults = defaults
        self._transport = transport

    def __getattr__(self, name: str) -> PlainCalls:  # called for what is not there
        if name != "plain":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.plain = plain = _plain_calls(self._defaults, self._transport)
        return plain

    def make(
        self,
        method: str,
        path: str,
        path_params: Mapping[str, object] | None,
        idempotency_key: str | None,
        deadline: Deadline | None,
        inbound: BoundContext,
        arguments: Mapping[str, Any],
    ) -> Outgoing:
        """Check a call's arguments and prepare its request.

        Raises:
            TypeError: An argument is unknown or of the wrong type.
            ValueError: The path, a header or the body cannot be sent; see also :meth:`BaseURL.join`.
        """
        plain = self.plain.build(method, path, path_params, idempotency_key, deadline, inbound, arguments)
        if plain is not None:
            return plain
        return build(
            self._defaults,
            self._transport,
            method,
            path,
            path_params=path_params,
            idempotency_key=idempotency_key,
            deadline=deadline,
            inbound=inbound,
            arguments=arguments,
        )


def _plain_calls(defaults: CallDefaults, transport: Transport) -> PlainCalls:
    session_headers = getattr(transport, "default_headers", None)
    if defaults.auth is not None or session_headers is None:
        session_headers = _more_than_headers
    return PlainCalls(
        defaults.base, defaults.headers, session_headers, idempotency_keys=defaults.idempotency_keys
    )


def _more_than_headers() -> None:
    """Tells of a session that adds more than headers to each request."""
