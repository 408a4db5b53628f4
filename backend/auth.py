"""Who is asking: the user out of ``Authorization: Bearer <JWT>``."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from backend.config import Settings
from backend.services.common import Refusal
from service_utils.profiles import Profile

__all__ = ["DEVELOPMENT_USER", "Authenticate", "TokenVerifier", "authenticator", "issue_token"]

logger = logging.getLogger(__name__)

DEVELOPMENT_USER = "dev"

Authenticate = Callable[[str | None], str]
"""From the Authorization header (or None) to the user's name; raises a 401 Refusal."""

# . and .. would be steps in the paths of services, not names.
_USER = re.compile(r"(?!\.\.?\Z)[A-Za-z0-9._@-]{1,64}")
_SCHEME = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_SHORTEST_SECRET = 32
_SMALLEST_RSA_KEY = 2048
_CLOCK_SKEW = timedelta(seconds=5)


def authenticator(settings: Settings, profile: Profile) -> Authenticate:
    """The way users are known under these settings.

    Raises:
        ValueError: The key is no good, two kinds of key are set, or the profile asks for one and there is
            none.
    """
    secret, public_key = settings.auth_jwt_secret, settings.auth_jwt_public_key
    if secret is not None and public_key is not None:
        raise ValueError("AUTH_JWT_SECRET and AUTH_JWT_PUBLIC_KEY are both set: choose one")
    if secret is not None:
        return TokenVerifier(_checked_secret(secret, profile), "HS256", settings)
    if public_key is not None:
        return TokenVerifier(*_public_key(public_key), settings)
    if profile.secrets_required:
        raise ValueError(
            f"profile {profile.name} needs AUTH_JWT_SECRET or AUTH_JWT_PUBLIC_KEY: neither is set"
        )
    logger.warning("No AUTH_JWT_SECRET is set: every request is answered as user %r", DEVELOPMENT_USER)
    return _development_user


def _development_user(_authorization: str | None) -> str:
    return DEVELOPMENT_USER


def _checked_secret(secret: str, profile: Profile) -> str:
    _refuse_unusable(secret)
    if len(secret.encode()) < _SHORTEST_SECRET:
        complaint = f"AUTH_JWT_SECRET: must have at least {_SHORTEST_SECRET} bytes (the value is not shown)"
        if profile.secrets_required:
            raise ValueError(complaint)
        logger.warning(complaint)
    return secret


def _refuse_unusable(secret: str) -> None:
    """Find out now what the library says only when the first token comes."""
    if not secret:
        raise ValueError("AUTH_JWT_SECRET: must not be blank")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError(
            "AUTH_JWT_SECRET: is a key or a certificate, no secret; public keys go into AUTH_JWT_PUBLIC_KEY"
        ) from None


def _public_key(text: str) -> tuple[Any, str]:
    """The key and the one algorithm that goes with its kind, so that no token can choose another."""
    pem = _pem(text)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("AUTH_JWT_PUBLIC_KEY: holds no PEM public key") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _SMALLEST_RSA_KEY:
        return key, "RS256"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key, "EdDSA"
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key, "ES256"
    raise ValueError("AUTH_JWT_PUBLIC_KEY: must be RSA with at least 2048 bits, Ed25519 or P-256")


def _pem(text: str) -> bytes:
    if "-----BEGIN" in text:
        # Environment files often hold the key on one line, with the line ends written as \n.
        return text.replace("\\n", "\n").encode()
    try:
        return Path(text).read_bytes()
    except OSError as error:
        raise ValueError(f"AUTH_JWT_PUBLIC_KEY={text!r}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True, slots=True)
class TokenVerifier:
    """Accepts tokens signed with one key by one algorithm.

    Attributes:
        key: The secret or the public key.
        algorithm: The only one accepted.
        settings: Where the expected audience and issuer stand.
    """

    key: Any = field(repr=False)
    algorithm: str
    settings: Settings = field(repr=False)

    def __call__(self, authorization: str | None) -> str:
        """The user the token was made for.

        Raises:
            Refusal: 401: there is no token, or it is not valid (any more).
        """
        if not authorization:
            raise _unauthorized("this route needs Authorization: Bearer <token>", "Bearer")
        given = _SCHEME.fullmatch(authorization.strip())
        if given is None:
            raise _unauthorized("the Authorization header is not of the form: Bearer <token>", "Bearer")
        user = self._claims(given[1])["sub"]
        if not _USER.fullmatch(user):
            raise _invalid("the token's sub is no user name")
        return str(user)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                self.key,
                algorithms=[self.algorithm],
                audience=self.settings.auth_jwt_audience,
                issuer=self.settings.auth_jwt_issuer,
                leeway=_CLOCK_SKEW,
                options={"require": ["exp", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise _invalid("the token has expired") from None
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
            # PyJWT lets a few malformed claims through to int() and datetime: those tokens are no better.
            raise _invalid("the token is not valid") from None


def _invalid(detail: str) -> Refusal:
    return _unauthorized(detail, 'Bearer error="invalid_token"')


def _unauthorized(detail: str, challenge: str) -> Refusal:
    return Refusal(401, detail, headers={"WWW-Authenticate": challenge})


def issue_token(settings: Settings, user: str, hours: float) -> str:
    """A token for a user, signed with ``AUTH_JWT_SECRET``.

    Args:
        settings: Where the secret, the audience and the issuer stand.
        user: The user's name.
        hours: How long it is valid.

    Raises:
        ValueError: There is no secret, or the name or the time is no good.
    """
    if settings.auth_jwt_secret is None:
        raise ValueError("AUTH_JWT_SECRET is not set: there is nothing to sign a token with")
    _refuse_unusable(settings.auth_jwt_secret)
    if not _USER.fullmatch(user):
        raise ValueError(f"user={user!r}: must be 1 to 64 letters, digits or any of . _ @ -")
    if not 0 < hours <= 24 * 366:
        raise ValueError(f"hours={hours!r}: must be above 0, and a year at most")
    now = datetime.now(UTC)
    claims: dict[str, Any] = {"sub": user, "iat": now, "exp": now + timedelta(hours=hours)}
    if settings.auth_jwt_audience is not None:
        claims["aud"] = settings.auth_jwt_audience
    if settings.auth_jwt_issuer is not None:
        claims["iss"] = settings.auth_jwt_issuer
    return jwt.encode(claims, settings.auth_jwt_secret, algorithm="HS256")
