"""The keys of a service, of which the newest active one signs and all that are not retired verify.

They come as a JSON Web Key Set (RFC 7517) with two members of our own, both optional times in ISO 8601::

    {"keys": [
      {"kid": "2026-11", "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": "…", "d": "…", "iss": "backend",
       "active_from": "2026-11-01T00:00:00Z"},
      {"kid": "2026-10", "kty": "oct", "alg": "HS256", "k": "…", "retired_from": "2026-11-08T00:00:00Z"}
    ]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from service_utils.errors import TokenError
from service_utils.integrations.jwt.keys import Key

__all__ = ["KeySet"]

_LONGEST_SET = 256 * 1024  # characters
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class KeySet:
    """The keys of a service: the newest active one signs, all that are not retired verify. Immutable.

    Args:
        keys: At least one, each with a ``kid`` of its own.

    Raises:
        TypeError: One of them is no :class:`Key`.
        ValueError: There is none, or two share a ``kid``.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys: dict[str, Key] = {}
        for key in keys:
            if not isinstance(key, Key):
                raise TypeError(f"keys: must be keys, not {type(key).__name__}")
            if key.kid in self._keys:
                raise ValueError(f"keys: two have the kid {key.kid!r}")
            self._keys[key.kid] = key
        if not self._keys:
            raise ValueError("keys: at least one is needed")

    @classmethod
    def from_jwks(cls, jwks: str | Mapping[str, Any]) -> Self:
        """The keys of a JSON Web Key Set, as text or as an object.

        Raises:
            ValueError: It is none, or has a key that is no good; no secret part is shown.
        """
        if isinstance(jwks, str):
            if len(jwks) > _LONGEST_SET:
                raise ValueError(f"the key set is longer than {_LONGEST_SET} characters")
            try:
                jwks = json.loads(jwks)
            except (ValueError, RecursionError):  # whose own words could show a part of it
                raise ValueError("the key set is no JSON") from None
        keys = jwks.get("keys") if isinstance(jwks, Mapping) else None
        if not isinstance(keys, list):
            raise ValueError('the key set must be a JSON object with a list "keys"')
        return cls([Key.from_jwk(each) for each in keys])

    def current(self) -> KeySet:
        """This set: it is a source of keys that never change."""
        return self

    def reload(self) -> KeySet:
        """This set: there is nothing newer."""
        return self

    def find(self, kid: str, now: datetime) -> Key | None:
        """The key of that name, unless it is retired."""
        key = self._keys.get(kid)
        return None if key is None or key.retired(now) else key

    def signing_key(self, issuer: str, now: datetime) -> Key:
        """The newest key that may sign for a service; of several equally new ones the last in the set.

        Raises:
            TokenError: There is none.
        """
        active = [
            key
            for key in self._keys.values()
            if key.can_sign
            and key.issuer in (None, issuer)
            and not key.retired(now)
            and (key.active_from or _LONG_AGO) <= now
        ]
        if not active:
            raise TokenError(f"there is no key with which {issuer!r} could sign now")
        return max(reversed(active), key=lambda key: key.active_from or _LONG_AGO)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeySet {', '.join(map(repr, self._keys.values()))}>"
