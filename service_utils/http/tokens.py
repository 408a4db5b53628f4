"""Credentials for calls between services, and who may be given them.

A token provider is anything with ``headers(name) -> dict`` and, where it can get fresh credentials,
``refresh(name)``; ``name`` is the short name of the client that asks. Both may be called from any thread.
``refresh`` may return False to say that there is nothing newer, so that repeating the call is of no use.
"""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from service_utils.clock import Clock
from service_utils.errors import TokenError
from service_utils.forks import guard
from service_utils.policies.checks import checked_clock
from service_utils.profiles import current_profile

__all__ = [
    "INTERNAL_TOKEN_HEADER",
    "BearerToken",
    "EnvToken",
    "StaticToken",
    "TokenProvider",
    "get_internal_headers",
    "internal_tokens",
    "is_internal_host",
]

INTERNAL_TOKEN_HEADER = "X-INTERNAL-TOKEN"

_TOKEN = "INTERNAL_SERVICE_TOKEN"
_TOKEN_FILE = "INTERNAL_SERVICE_TOKEN_FILE"
_TOKEN_PREVIOUS = "INTERNAL_SERVICE_TOKEN_PREVIOUS"
_HOSTS = "INTERNAL_TOKEN_HOSTS"

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"[a-z0-9._-]+")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NUMERIC_HOST = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
_INTERNAL_SUFFIXES = (".internal", ".local", ".svc", ".svc.cluster.local", ".localhost")
_INTERNAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
_DECLARED = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*")
_FILE_CHECK_SECONDS = 1.0


@runtime_checkable
class TokenProvider(Protocol):
    """What ``token_provider=`` takes; ``refresh(name)`` is optional."""

    def headers(self, name: str) -> Mapping[str, str]:
        """The headers that prove who we are to the service ``name``.

        Raises:
            TokenError: There are no credentials to be had.
        """
        ...


def checked_token(what: str, token: str) -> str:
    """A token that can travel in a header; the error never shows it.

    Raises:
        TypeError: It is no string.
        ValueError: It is empty or holds anything but visible ASCII.
    """
    if not isinstance(token, str):
        raise TypeError(f"{what}: must be a string, not {type(token).__name__}")
    if not _VISIBLE.fullmatch(token):
        raise ValueError(f"{what}: must be one or more visible ASCII characters (the value is not shown)")
    return token


class StaticToken:
    """The same internal token for ever.

    Args:
        token: The secret.
        header: The header it travels in.

    Raises:
        TypeError: One of them is no string.
        ValueError: One of them cannot be sent.
    """

    __slots__ = ("_headers",)

    def __init__(self, token: str, header: str = INTERNAL_TOKEN_HEADER) -> None:
        if not isinstance(header, str):
            raise TypeError(f"header={header!r}: must be a string")
        if not _HEADER_NAME.fullmatch(header):
            raise ValueError(f"header={header!r}: must be the name of a header")
        self._headers = {header: checked_token("token", token)}

    def headers(self, name: str) -> dict[str, str]:
        """The header with the token."""
        return dict(self._headers)

    def __repr__(self) -> str:
        return "StaticToken(***)"


class BearerToken:
    """``Authorization: Bearer …``, as public APIs ask for it.

    Args:
        token: The secret.
    """

    __slots__ = ("_value",)

    def __init__(self, token: str) -> None:
        self._value = "Bearer " + checked_token("token", token)

    def headers(self, name: str) -> dict[str, str]:
        """The header with the token."""
        return {"Authorization": self._value}

    def __repr__(self) -> str:
        return "BearerToken(***)"


class EnvToken:
    """The internal token of the environment, read again at each call so that a rotation needs no restart.

    ``INTERNAL_SERVICE_TOKEN_FILE`` names a file with the token and wins over ``INTERNAL_SERVICE_TOKEN``; the
    file is looked at once a second at most. With neither set there is no token, which profile ``production``
    refuses.

    Args:
        clock: Where the time between two looks at the file comes from.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = checked_clock(clock)
        self._lock = threading.RLock()
        self._file: tuple[str, float, str] | None = None  # path, when it was read, token
        self._seen: tuple[str | None, str | None] = (None, None)  # the variable's text, the token in it
        guard(self)

    def token(self) -> str | None:
        """The token now, or None when none is set.

        Raises:
            TokenError: The file cannot be read, or the value cannot travel in a header.
        """
        path = os.environ.get(_TOKEN_FILE)
        if path:
            return self._from_file(path)
        text = os.environ.get(_TOKEN)
        seen = self._seen
        if text != seen[0]:
            self._seen = seen = text, _usable(_TOKEN, text)
        return seen[1]

    def headers(self, name: str) -> dict[str, str]:
        """The internal token's header; empty when no token is set.

        Raises:
            TokenError: The token cannot be read, or profile ``production`` has none.
        """
        token = self.token()
        if token is not None:
            return {INTERNAL_TOKEN_HEADER: token}
        if current_profile().secrets_required:
            raise TokenError(f"{_TOKEN} is not set, and profile production sends no call without it")
        return {}

    def refresh(self, name: str) -> bool:
        """Read the file anew. Returns whether the token is another one than before."""
        path = os.environ.get(_TOKEN_FILE)
        if not path:
            return False
        with self._lock:
            before, self._file = self._file, None
        return before is None or self._from_file(path) != before[2]

    def _from_file(self, path: str) -> str | None:
        now = self._clock.monotonic()
        seen = self._file
        if seen is not None and seen[0] == path and 0 <= now - seen[1] < _FILE_CHECK_SECONDS:
            return seen[2]
        token = _read_token_file(path)
        with self._lock:
            self._file = (path, now, token)
        return token

    def __repr__(self) -> str:
        return "EnvToken()"


def _read_token_file(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(65536)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise TokenError(f"{_TOKEN_FILE}={path!r}: cannot be read ({cause})") from None
    token = _usable(_TOKEN_FILE, text)
    if token is None:
        raise TokenError(f"{_TOKEN_FILE}={path!r}: is empty")
    return token


def _usable(variable: str, text: str | None) -> str | None:
    token = (text or "").strip()
    if not token:
        return None
    if not _VISIBLE.fullmatch(token):
        raise TokenError(f"{variable}: must be visible ASCII without spaces (the value is not shown)")
    return token


_environment = EnvToken()


def get_internal_headers() -> dict[str, str]:
    """The headers our own clients send to internal hosts, for other code that calls one.

    Raises:
        TokenError: See :meth:`EnvToken.headers`.
    """
    return _environment.headers("")


def internal_tokens() -> tuple[str, ...]:
    """The tokens that callers may show us: the current one and, during a rotation, the previous one.

    Raises:
        TokenError: A token cannot be read.
    """
    known = (_environment.token(), _usable(_TOKEN_PREVIOUS, os.environ.get(_TOKEN_PREVIOUS)))
    return tuple(token for token in known if token is not None)


def is_internal_host(host: str) -> bool:
    """Whether a host is one of ours: loopback, private, a name without a dot, a cluster name, or declared so.

    ``INTERNAL_TOKEN_HOSTS`` declares further ones: names separated by commas, ``.example.com`` for all below
    it.
    """
    host = host.strip("[]").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _is_internal_name(host) or _is_declared(host)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in network for network in _INTERNAL_NETWORKS) or _is_declared(host)


def _is_internal_name(host: str) -> bool:
    if not _NAME.fullmatch(host):
        # Full-width digits and dots, for one, become plain ones on the way to the resolver.
        return False
    if "." not in host:
        # A bare number is an address in disguise: "134744072" is 8.8.8.8.
        return not _NUMERIC_HOST.fullmatch(host)
    return host.endswith(_INTERNAL_SUFFIXES)


def check_declared_hosts() -> None:
    """Require ``INTERNAL_TOKEN_HOSTS`` to hold names and addresses alone.

    Raises:
        ValueError: An entry is something else, such as a URL.
    """
    for name in _declared():
        if not _DECLARED.fullmatch(name):
            raise ValueError(f"{_HOSTS}: {name!r} must be a host name, .domain or address, no URL")


def _declared() -> list[str]:
    entries = (entry.strip() for entry in os.environ.get(_HOSTS, "").lower().split(","))
    return [entry.removeprefix("*").strip("[]").rstrip(".") for entry in entries if entry]


def _is_declared(host: str) -> bool:
    names = (name for name in _declared() if name)
    return any(host.endswith(name) if name.startswith(".") else host == name for name in names)
