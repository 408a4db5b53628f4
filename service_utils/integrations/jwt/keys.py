"""Keys: each is bound to one algorithm, and known by its ``kid``. No error has any part of a key in it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NoReturn, Self

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from service_utils.errors import TokenError

__all__ = ["Algorithm", "Key"]

_KID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_LEAST_SECRET = 32  # bytes: RFC 7518, 3.2 asks for a key as long as the hash


class Algorithm(StrEnum):
    """How a key signs."""

    HS256 = "HS256"
    """A secret that signers and verifiers share: whoever can verify can sign, too."""
    EDDSA = "EdDSA"
    """Ed25519: verifiers hold the public part only."""


class Key:
    """One key. Made by :meth:`hs256`, :meth:`ed25519` or :meth:`from_jwk`. Immutable.

    Attributes:
        kid: Its name, as tokens carry it.
        algorithm: The only one it is used with, whatever a token says.
        issuer: The only service whose tokens it stands for; None: any.
        active_from: From when it signs; it verifies before that, so that all know it by then. None: always.
        retired_from: From when it neither signs nor verifies; None: never.
    """

    __slots__ = (
        "_jws",
        "_sign_with",
        "_verify_with",
        "active_from",
        "algorithm",
        "issuer",
        "kid",
        "retired_from",
    )

    def __init__(
        self,
        kid: str,
        algorithm: Algorithm,
        sign_with: Any,
        verify_with: Any,
        *,
        issuer: str | None = None,
        active_from: datetime | None = None,
        retired_from: datetime | None = None,
    ) -> None:
        if not isinstance(kid, str) or not _KID.fullmatch(kid):
            raise ValueError(f"kid={kid!r}: must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
        if issuer is not None and (not isinstance(issuer, str) or not issuer):
            raise ValueError(f"key {kid!r}: issuer={issuer!r} must be the name of a service or None")
        self.kid = kid
        self.algorithm = algorithm
        self.issuer = issuer
        self.active_from = _checked_time(kid, "active_from", active_from)
        self.retired_from = _checked_time(kid, "retired_from", retired_from)
        if self.active_from and self.retired_from and self.retired_from <= self.active_from:
            raise ValueError(f"key {kid!r}: retired_from must be after active_from")
        self._sign_with = sign_with
        self._verify_with = verify_with
        self._jws = jwt.PyJWS(algorithms=[algorithm.value])  # it knows no other, and "none" is another

    @classmethod
    def hs256(cls, kid: str, secret: bytes | str, **about: Any) -> Self:
        """A shared secret.

        Args:
            kid: Its name.
            secret: At least 32 bytes, random ones; a string stands for its UTF-8 bytes.
            **about: ``issuer``, ``active_from``, ``retired_from``.

        Raises:
            TypeError: The secret is neither bytes nor a string.
            ValueError: Something is no good; a secret is never shown.
        """
        if not isinstance(secret, bytes | str):
            raise TypeError(f"key {kid!r}: the secret must be bytes or a string, not {type(secret).__name__}")
        data = secret.encode("utf-8") if isinstance(secret, str) else secret
        if len(data) < _LEAST_SECRET:
            raise ValueError(f"key {kid!r}: an HS256 secret has at least 32 bytes, this one {len(data)}")
        try:
            jwt.get_algorithm_by_name("HS256").prepare_key(data)
        except jwt.InvalidKeyError:
            raise ValueError(
                f"key {kid!r}: looks like a public key or a JWK, which is no HS256 secret"
            ) from None
        return cls(kid, Algorithm.HS256, data, data, **about)

    @classmethod
    def ed25519(cls, kid: str, pem: bytes | str, **about: Any) -> Self:
        """An Ed25519 key from PEM: a private one, which signs and verifies, or a public one, which verifies.

        Args:
            kid: Its name.
            pem: PKCS #8 without password, or SubjectPublicKeyInfo.
            **about: ``issuer``, ``active_from``, ``retired_from``.

        Raises:
            ValueError: Something is no good; the key is never shown.
        """
        data = pem.encode("utf-8") if isinstance(pem, str) else pem
        try:
            loaded: Any = (
                load_pem_private_key(data, None) if b"PRIVATE KEY" in data else load_pem_public_key(data)
            )
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError(f"key {kid!r}: cannot be read as PEM without password") from None
        return cls._of_ed25519(kid, loaded, **about)

    @classmethod
    def _of_ed25519(cls, kid: str, loaded: object, **about: Any) -> Self:
        if isinstance(loaded, Ed25519PrivateKey):
            return cls(kid, Algorithm.EDDSA, loaded, loaded.public_key(), **about)
        if isinstance(loaded, Ed25519PublicKey):
            return cls(kid, Algorithm.EDDSA, None, loaded, **about)
        raise ValueError(f"key {kid!r}: must be an Ed25519 key")

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> Self:
        """A key from a JSON Web Key: ``oct`` with HS256, or ``OKP`` with Ed25519 and EdDSA.

        Raises:
            ValueError: It is another one, or damaged; no secret part is shown.
        """
        if not isinstance(jwk, Mapping):
            raise ValueError("a key must be a JSON object")
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not _KID.fullmatch(kid):
            raise ValueError("a key must have a kid of 1 to 64 characters of A-Z a-z 0-9 . _ -")
        if jwk.get("use", "sig") != "sig":
            raise ValueError(f"key {kid!r}: use must be sig")
        kind = (jwk.get("kty"), jwk.get("alg"))
        about = {
            "issuer": jwk.get("iss"),
            "active_from": _parsed_time(kid, "active_from", jwk.get("active_from")),
            "retired_from": _parsed_time(kid, "retired_from", jwk.get("retired_from")),
        }
        if kind == ("oct", Algorithm.HS256):
            return cls.hs256(kid, _bytes_of(kid, "k", jwk.get("k")), **about)
        if kind == ("OKP", Algorithm.EDDSA) and jwk.get("crv") == "Ed25519":
            return cls._of_ed25519(kid, _ed25519_of(kid, jwk), **about)
        raise ValueError(
            f"key {kid!r}: must be kty oct with alg HS256, or kty OKP, crv Ed25519 with alg EdDSA"
        )

    @property
    def can_sign(self) -> bool:
        """Whether the part that signs is there."""
        return self._sign_with is not None

    def retired(self, now: datetime) -> bool:
        """Whether it is out of use."""
        return self.retired_from is not None and now >= self.retired_from

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The token with these claims, in this key's algorithm, with its ``kid``.

        Raises:
            TokenError: It is a public key.
        """
        if not self.can_sign:
            raise TokenError(f"key {self.kid!r} is a public one and signs nothing")
        payload = json.dumps(claims, separators=(",", ":")).encode()
        return self._jws.encode(payload, self._sign_with, self.algorithm.value, headers={"kid": self.kid})

    def read(self, token: str) -> bytes:
        """What a token says, once its signature has been found right.

        Raises:
            jwt.InvalidTokenError: It is not.
        """
        payload: bytes = self._jws.decode(token, self._verify_with, algorithms=[self.algorithm.value])
        return payload

    def __repr__(self) -> str:
        return f"<Key {self.kid!r} {self.algorithm.value}{'' if self.can_sign else ' public'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled: they do not leave the process")


def _checked_time(kid: str, what: str, value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"key {kid!r}: {what}={value!r} must be an aware datetime or None")
    return value.astimezone(UTC)


def _parsed_time(kid: str, what: str, text: object) -> datetime | None:
    if text is None:
        return None
    try:
        return _checked_time(kid, what, datetime.fromisoformat(text))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(
            f"key {kid!r}: {what}={text!r} must be a time such as 2026-11-01T00:00:00Z"
        ) from None


def _bytes_of(kid: str, member: str, text: object) -> bytes:
    try:
        if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
            raise ValueError
        return base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except (ValueError, binascii.Error):
        raise ValueError(f"key {kid!r}: {member} must be base64url") from None


def _ed25519_of(kid: str, jwk: Mapping[str, Any]) -> Ed25519PrivateKey | Ed25519PublicKey:
    public = _bytes_of(kid, "x", jwk.get("x"))
    try:
        if "d" not in jwk:
            return Ed25519PublicKey.from_public_bytes(public)
        private = Ed25519PrivateKey.from_private_bytes(_bytes_of(kid, "d", jwk["d"]))
    except ValueError:
        raise ValueError(f"key {kid!r}: x and d must be 32 bytes each, in base64url") from None
    if private.public_key().public_bytes_raw() != public:
        raise ValueError(f"key {kid!r}: x and d belong to different keys")
    return private
