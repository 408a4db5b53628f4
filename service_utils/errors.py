"""The error tree.

::

    requests.RequestException
    └── ServiceError                 any failure this package adds its own words to
        ├── ServiceUnavailable       refused by us before anything was sent; also a requests.ConnectionError
        │   ├── CircuitOpenError     the circuit breaker is open (or its probes are all in use)
        │   ├── BulkheadFullError    too many calls of this client are under way
        │   └── RateLimitedError     the rate limit leaves no room in the time there is
        ├── DeadlineExceeded         the time of the whole call is up; also a requests.Timeout
        ├── TokenError               no credentials could be had
        └── ResponseTooLarge         the answer is longer than ``max_response_bytes``

Code moved over from ``requests`` that catches ``requests.RequestException`` still catches all of these, and
``except ServiceUnavailable`` before it still means "it was never sent". Wrong use of the package is a plain
``ValueError`` or ``TypeError``.

Every error survives ``pickle`` and ``copy`` with its fields. What it drops on the way are ``request`` and
``response``: they may hold open files and credentials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import requests
from requests import RequestException
from requests import exceptions as _rex

if TYPE_CHECKING:
    from service_utils.calls import CallRecord

__all__ = [
    "BulkheadFullError",
    "CircuitOpenError",
    "DeadlineExceeded",
    "LazyCall",
    "RateLimitedError",
    "RequestException",
    "ResponseTooLarge",
    "ServiceError",
    "ServiceUnavailable",
    "TokenError",
    "is_caller_error",
]

E = TypeVar("E", bound="ServiceError")

_NOT_FOR_TRAVELLING = ("request", "response", "_call_source")


class LazyCall:
    """The attribute ``call`` of errors and responses whose record is made when it is first read.

    Most are never read. Until then the source of the record is kept in the carrier's ``_call_source``
    (:func:`service_utils.calls.attach_call` puts it there); a carrier that has none has None as its ``call``.
    """

    def __get__(self, carrier: Any, owner: type | None = None) -> CallRecord | None:
        if carrier is None:
            return self  # type: ignore[return-value]
        source = getattr(carrier, "_call_source", None)
        return None if source is None else carrier.__dict__.setdefault("call", source.record())


class ServiceError(RequestException):
    """A call to a service failed, and this package says why.

    Args:
        message: The sentence for the operator; the only thing handed to the base classes.
        service: Display name of the service that was called.
        retry_after: Seconds after which another try may make sense, or None when nobody can say.

    Attributes:
        service: See above.
        retry_after: See above.
        call: The record of the call (:class:`service_utils.calls.CallRecord`), once it has left a client.
    """

    call = LazyCall()

    def __init__(self, message: str = "", *, service: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.service = service
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        message = str(self)
        kept = {**self.__dict__, "call": self.call}
        fields = {key: value for key, value in kept.items() if key not in _NOT_FOR_TRAVELLING}
        # The fields travel as state, not as arguments: one of them may refer back to this very error.
        return _rebuild, (type(self), message), fields


def _rebuild(kind: type[E], message: str) -> E:
    """Make an error again from its message, whatever its constructor looks like."""
    error = kind.__new__(kind, message)
    RequestException.__init__(error, message)
    return error


class ServiceUnavailable(ServiceError, requests.ConnectionError):
    """The call was refused on our side: nothing of it has reached the service."""


class CircuitOpenError(ServiceUnavailable):
    """The circuit of this service does not let calls through.

    Args:
        service: Display name of the service.
        cooldown_remaining: Seconds until the circuit lets a probe through; 0.0 while probes are under way or
            when only an operator can open the way again.
        message: Another sentence than the usual one.
        retry_after: Defaults to ``cooldown_remaining``.
    """

    def __init__(
        self,
        service: str = "",
        cooldown_remaining: float = 0.0,
        *,
        message: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        if message is not None:
            super().__init__(message)
        else:
            self._untold = (_usual_message,)
        self.service = service
        self.retry_after = cooldown_remaining if retry_after is None else retry_after
        self.cooldown_remaining = cooldown_remaining

    # While a circuit is open its errors are made by the thousand and looked at by nobody. So they are made
    # with what is at hand. When somebody does look, a function fills in the rest and returns the message; it
    # waits in ``_untold``, with the arguments that it takes after the error.
    _untold: tuple[Any, ...]

    def _tell(self) -> None:
        untold = self.__dict__.get("_untold")
        if untold is not None:
            tell, *about = untold
            BaseException.args.__set__(self, (tell(self, *about),))  # type: ignore[attr-defined]
            for name in ("request", "response"):
                self.__dict__.setdefault(name, None)
            self.__dict__.pop("_untold", None)

    def __getattr__(self, name: str) -> Any:  # called for what is not there
        if "_untold" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._tell()
        return getattr(self, name)

    @property
    def args(self) -> tuple[Any, ...]:
        """The message, in a tuple."""
        self._tell()
        return super().args

    @args.setter
    def args(self, args: tuple[Any, ...]) -> None:
        self._tell()
        BaseException.args.__set__(self, args)  # type: ignore[attr-defined]

    def __str__(self) -> str:
        self._tell()
        return super().__str__()

    def __repr__(self) -> str:
        self._tell()
        return super().__repr__()


def _usual_message(error: CircuitOpenError) -> str:
    return f"{error.service}: circuit breaker is open, next try in {error.cooldown_remaining:.1f} s"


class BulkheadFullError(ServiceUnavailable):
    """As many calls of this client as it allows are under way, and none ended in the time there was."""


class RateLimitedError(ServiceUnavailable):
    """The client's own rate limit leaves no room for the call in the time there is."""


class DeadlineExceeded(ServiceError, requests.Timeout):
    """The time of the whole call is up.

    Args:
        message: The sentence for the operator.
        service: Display name of the service.
        retry_after: Seconds, or None.
        sent: Whether anything of the call may have reached the service.
    """

    def __init__(
        self,
        message: str = "",
        *,
        service: str = "",
        retry_after: float | None = None,
        sent: bool = False,
    ) -> None:
        super().__init__(message, service=service, retry_after=retry_after)
        self.sent = sent


class TokenError(ServiceError):
    """No credentials for the service could be had, so nothing was sent."""


class ResponseTooLarge(ServiceError):
    """The answer is longer than the client's ``max_response_bytes``; what was read of it is thrown away.

    Args:
        message: The sentence for the operator.
        service: Display name of the service.
        limit: The limit in bytes, counted after decoding.
    """

    def __init__(self, message: str = "", *, service: str = "", limit: int = 0) -> None:
        super().__init__(message, service=service)
        self.limit = limit


_CALLER_ERRORS = (
    _rex.MissingSchema,
    _rex.InvalidSchema,
    _rex.InvalidURL,
    _rex.InvalidHeader,
    _rex.InvalidJSONError,
    _rex.UnrewindableBodyError,
    _rex.StreamConsumedError,
    _rex.URLRequired,
)


def is_caller_error(error: BaseException) -> bool:
    """Tell whether a ``requests`` exception is the caller's own mistake, such as a bad URL or header.

    A ``JSONDecodeError`` is none: there the service sent something that is not JSON.
    """
    return isinstance(error, _CALLER_ERRORS) and not isinstance(error, _rex.JSONDecodeError)
