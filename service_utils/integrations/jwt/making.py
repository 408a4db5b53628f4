"""Making keys: new ones in JSON, and the part of them that others may see."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service_utils.integrations.jwt.keys import Algorithm, Key

__all__ = ["new_jwk", "public_jwk"]

_SECRET_BYTES = 32
_PRIVATE = ("d", "k")


def new_jwk(kid: str, algorithm: Algorithm | str = Algorithm.EDDSA, **members: str) -> dict[str, str]:
    """A new random key as a JSON Web Key, secret part included.

    Args:
        kid: Its name; the day it was made is a good one.
        algorithm: ``EdDSA`` or ``HS256``.
        **members: Further ones: ``iss``, ``active_from``, ``retired_from``.

    Raises:
        ValueError: An argument is no good.
    """
    if algorithm not in tuple(Algorithm):
        raise ValueError(f"algorithm={algorithm!r}: must be one of {', '.join(Algorithm)}")
    jwk = {"kid": kid, "alg": str(algorithm), **members}
    if algorithm == Algorithm.HS256:
        jwk |= {"kty": "oct", "k": _text(os.urandom(_SECRET_BYTES))}
    else:
        key = Ed25519PrivateKey.generate()
        jwk |= {"kty": "OKP", "crv": "Ed25519"}
        jwk |= {"x": _text(key.public_key().public_bytes_raw()), "d": _text(key.private_bytes_raw())}
    Key.from_jwk(jwk)
    return jwk


def public_jwk(jwk: Mapping[str, str]) -> dict[str, str]:
    """The part of an EdDSA key that verifiers get.

    Raises:
        ValueError: It is an HS256 key, which has no such part.
    """
    if jwk.get("kty") != "OKP":
        raise ValueError(f"key {jwk.get('kid')!r}: a shared secret has no public part")
    return {name: value for name, value in jwk.items() if name not in _PRIVATE}


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
