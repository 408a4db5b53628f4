"""How a request is sent, beyond what is written in it, and what the sides of a TLS connection verify."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from service_utils.policies.deadline import Deadline

__all__ = [
    "Cert",
    "SendOptions",
    "SessionSettings",
    "Timeout",
    "checked_cert",
    "checked_verify",
    "resolve_verify",
]

Timeout: TypeAlias = "float | tuple[float | None, float | None] | None"
Cert: TypeAlias = "str | tuple[str, str]"


@dataclass(slots=True)  # not frozen: making one for each call would take four times as long
class SendOptions:
    """How one request is sent, beyond what is written in it. Never changed.

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


class SessionSettings(NamedTuple):
    """Whom a session speaks as and how, where a call does not say so itself.

    Attributes:
        verify: Its TLS verification.
        cert: Its client certificate.
        proxies: Its proxies.
        client: The client's own verification and certificate; None for a session that was given to it, whose
            adapters may speak as anybody.
    """

    verify: object
    cert: object
    proxies: tuple[tuple[object, object], ...]
    client: tuple[object, object] | None


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
