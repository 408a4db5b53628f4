"""Signed service tokens: short-lived JWTs for one service each, and the keys that make and check them."""

from service_utils.integrations.jwt.key_set import KeySet
from service_utils.integrations.jwt.keys import Algorithm, Key
from service_utils.integrations.jwt.making import new_jwk, public_jwk
from service_utils.integrations.jwt.signing import SignedToken
from service_utils.integrations.jwt.sources import EnvKeys, KeyFile, KeySource
from service_utils.integrations.jwt.verifying import Claims, Flaw, TokenRefused, TokenVerifier

__all__ = [
    "Algorithm",
    "Claims",
    "EnvKeys",
    "Flaw",
    "Key",
    "KeyFile",
    "KeySet",
    "KeySource",
    "SignedToken",
    "TokenRefused",
    "TokenVerifier",
    "new_jwk",
    "public_jwk",
]
