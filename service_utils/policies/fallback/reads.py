"""Reads of an HTTP client, as far as a cache has to know about them before they are made."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

__all__ = ["ReadKey", "Reader", "with_identity"]


class ReadKey(Protocol):
    """What a client tells of a read before it is made.

    Attributes:
        digest: The same for two reads only if the service cannot tell them apart.
        limits: What else must be the same for one to wait for the other: time-outs, retries.
    """

    digest: bytes
    limits: Hashable

    def patience(self) -> float | None:
        """Seconds until its deadline; None without one."""
        ...

    def bounded(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with the deadline that began when the key was made."""
        ...

    def lasting(self, secret: bytes, *, known: bool) -> bytes | None:
        """Like ``digest``, but the same in every process that has the secret.

        Args:
            secret: What it is hashed with.
            known: Whether the caller says otherwise whom the client speaks as.

        Returns:
            None where another client could look the same and speak as somebody else.
        """
        ...

    def copy(self, response: Any) -> Any:
        """A copy of a response that shares nothing with it which can be changed, and holds no credentials."""
        ...


class Reader(Protocol):
    """What :meth:`StaleCache.get` needs of a client; a ``ResilientServiceClient`` has it."""

    def get(self, path: str, **kwargs: Any) -> Any:
        """Make the call."""
        ...

    def read_key(self, path: str, arguments: Mapping[str, Any]) -> ReadKey | None:
        """The key of such a call; None when it cannot be known whose answer it will be."""
        ...


def with_identity(digest: bytes, identity: object) -> bytes:
    """A key for one user more precisely. The digest is of random bytes, and hides the identity."""
    if callable(identity):
        identity = identity()
    if isinstance(identity, str):
        text = b"s" + identity.encode("utf-8", "surrogatepass")
    elif isinstance(identity, bytes):
        text = b"b" + identity
    elif isinstance(identity, int):
        text = b"i%d" % identity
    elif identity is None:
        text = b"n"  # a callable that knows no user: all of those are one
    else:
        kind = type(identity).__name__
        raise TypeError(f"identity of type {kind}: must be a str, bytes or int, or a callable returning one")
    return hashlib.blake2b(text, key=digest, digest_size=32).digest()
