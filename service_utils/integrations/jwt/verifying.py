"""The receiving side of signed tokens: who made this one, for whom, and is it still good."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import jwt

from service_utils.clock import Clock
from service_utils.http.tokens import INTERNAL_TOKEN_HEADER
from service_utils.integrations.jwt.keys import Key
from service_utils.integrations.jwt.signing import LONGEST_LIFETIME, checked_name, checked_source
from service_utils.integrations.jwt.sources import KeySource
from service_utils.policies.checks import checked_clock, require_seconds

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers

    from service_utils.integrations.flask.tokens import Verdict

__all__ = ["Claims", "Flaw", "TokenRefused", "TokenVerifier"]

T = TypeVar("T")

_LONGEST_TOKEN = 4096  # characters; ours have about 300
_LONGEST_LEEWAY = 60.0  # seconds
_LATEST = 253402300800  # the year 10000, in seconds since the epoch
# Any other header would be an order to us from somebody we do not know yet: which key to fetch from where, or
# how to read the payload. "typ" and "cty" are mere words.
_HEADERS = frozenset({"alg", "kid", "typ", "cty"})

_logger = logging.getLogger("service_utils")


class Flaw(StrEnum):
    """Why a token is refused."""

    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown or retired key"
    BAD_SIGNATURE = "bad signature"
    INCOMPLETE = "claims are missing or senseless"
    TOO_LONG = "made for too long a time"
    NOT_YET = "from the future"
    EXPIRED = "expired"
    WRONG_ISSUER = "issuer not admitted"
    WRONG_AUDIENCE = "meant for another service"


class TokenRefused(Exception):
    """A token is not accepted. Nothing of it is in the message.

    Attributes:
        flaw: Why.
    """

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


@dataclass(frozen=True, slots=True)
class Claims:
    """What an accepted token says. Times are seconds since the epoch.

    Attributes:
        issuer: The service that made it.
        audience: The name under which it called us.
        kid: The key it was signed with.
        token_id: Its ``jti``.
        issued_at: When it was made.
        expires_at: Until when it is good.
    """

    issuer: str
    audience: str
    kid: str
    token_id: str
    issued_at: float
    expires_at: float


class TokenVerifier:
    """Checks signed tokens. Fits ``ServiceUtils(token_verifiers=[verify_plain_token, TokenVerifier(...)])``.

    The key is the one that the token names, its algorithm is the key's and nothing else. A token has to have
    ``iss``, ``aud``, ``iat``, ``exp`` and ``jti``, and to be made for no longer than ``max_lifetime``: a
    caller that makes tokens for ever is refused, whatever key it has. For any number of threads.

    Args:
        keys: Where the keys come from.
        audience: The name of this service, or the names it is called by.
        issuers: The services that may call; None: all that have a key.
        leeway: Seconds by which the clocks of two services may differ; 0 to 60.
        max_lifetime: Seconds a token may be made for at most; up to 300.
        header: The header it comes in; in ``Authorization`` as ``Bearer``.
        clock: Whose time of day counts.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is no good.
    """

    has_keys = True  # where it is asked, nobody passes without a token, in whatever profile

    def __init__(
        self,
        keys: KeySource,
        audience: str | Collection[str],
        *,
        issuers: Collection[str] | None = None,
        leeway: float = 10.0,
        max_lifetime: float = LONGEST_LIFETIME,
        header: str = INTERNAL_TOKEN_HEADER,
        clock: Clock | None = None,
    ) -> None:
        self._keys = checked_source(keys)
        self._audiences = _checked_names("audience", (audience,) if isinstance(audience, str) else audience)
        self._issuers = None if issuers is None else _checked_names("issuers", issuers)
        require_seconds("leeway", leeway)
        if leeway > _LONGEST_LEEWAY:
            raise ValueError(f"leeway={leeway!r}: must be at most {_LONGEST_LEEWAY:g} seconds")
        require_seconds("max_lifetime", max_lifetime, zero=False)
        if max_lifetime > LONGEST_LIFETIME:
            raise ValueError(f"max_lifetime={max_lifetime!r}: must be at most {LONGEST_LIFETIME:g} seconds")
        self._leeway = leeway
        self._max_lifetime = max_lifetime
        self._header = checked_name("header", header)
        self._clock = checked_clock(clock)

    def verify(self, token: str) -> Claims:
        """What a token says, if it is to be believed.

        Raises:
            TokenRefused: It is not.
            TokenError: Our own keys are not to be had.
        """
        key = self._key_of(token)
        try:
            said = json.loads(key.read(token))
        except jwt.InvalidSignatureError:
            raise TokenRefused(Flaw.BAD_SIGNATURE) from None
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            raise TokenRefused(Flaw.MALFORMED) from None
        if not isinstance(said, dict):
            raise TokenRefused(Flaw.MALFORMED)
        claims = _claims_of(said, key.kid)
        self._check_times(claims, said.get("nbf", claims.issued_at))
        if key.issuer not in (None, claims.issuer) or not (
            self._issuers is None or claims.issuer in self._issuers
        ):
            raise TokenRefused(Flaw.WRONG_ISSUER)
        if claims.audience not in self._audiences:
            raise TokenRefused(Flaw.WRONG_AUDIENCE)
        return claims

    def _key_of(self, token: str) -> Key:
        """The key a token names, if it may be used in the way the token says."""
        if not isinstance(token, str) or not token.isascii() or len(token) > _LONGEST_TOKEN:
            raise TokenRefused(Flaw.MALFORMED)
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            raise TokenRefused(Flaw.MALFORMED) from None
        kid = header.get("kid")
        if not isinstance(kid, str) or not header.keys() <= _HEADERS:
            raise TokenRefused(Flaw.MALFORMED)
        key = self._keys.current().find(kid, self._clock.now())
        if key is None:
            raise TokenRefused(Flaw.UNKNOWN_KEY)
        if header.get("alg") != key.algorithm.value:
            raise TokenRefused(Flaw.BAD_SIGNATURE)
        return key

    def _check_times(self, claims: Claims, not_before: object) -> None:
        now = self._clock.now().timestamp()
        if not 0 < claims.expires_at - claims.issued_at <= self._max_lifetime:
            raise TokenRefused(Flaw.TOO_LONG)
        if max(claims.issued_at, _checked_time(not_before)) > now + self._leeway:
            raise TokenRefused(Flaw.NOT_YET)
        if now >= claims.expires_at + self._leeway:
            raise TokenRefused(Flaw.EXPIRED)

    def __call__(self, headers: Headers) -> Verdict:
        """The verdict on a request, for ``@require_internal_token``.

        Raises:
            TokenError: Our own keys are not to be had.
        """
        from service_utils.integrations.flask.tokens import Verdict

        token = self._token_in(headers)
        if token is None:
            return Verdict.ABSENT
        if token.count(".") != 2:
            return Verdict.WRONG  # a plain token, most likely, which another verifier knows
        try:
            self.verify(token)
        except TokenRefused as refusal:
            _logger.info("A signed token was refused: %s", refusal.flaw.value)
            wrong_audience = refusal.flaw is Flaw.WRONG_AUDIENCE
            return Verdict.WRONG_AUDIENCE if wrong_audience else Verdict.WRONG
        return Verdict.ACCEPTED

    def _token_in(self, headers: Headers) -> str | None:
        value = headers.get(self._header, "")
        if self._header.lower() == "authorization":
            scheme, _, value = value.partition(" ")
            if scheme.lower() != "bearer":
                return None  # somebody else's business
        return value.strip() or None

    def __repr__(self) -> str:
        return f"TokenVerifier(audience={sorted(self._audiences)!r})"


def _claims_of(said: Mapping[str, Any], kid: str) -> Claims:
    audience = said.get("aud")
    if isinstance(audience, list) and len(audience) == 1:
        # With several, each of them could use the token at the others.
        audience = audience[0]
    return Claims(
        issuer=_checked(str, said.get("iss")),
        audience=_checked(str, audience),
        kid=kid,
        token_id=_checked(str, said.get("jti")),
        issued_at=_checked_time(said.get("iat")),
        expires_at=_checked_time(said.get("exp")),
    )


def _checked(kind: type[T], value: object) -> T:
    if not isinstance(value, kind) or not value:
        raise TokenRefused(Flaw.INCOMPLETE)
    return value


def _checked_time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise TokenRefused(Flaw.INCOMPLETE)
    return value


def _checked_names(what: str, names: object) -> frozenset[str]:
    if isinstance(names, str) or not isinstance(names, Collection):
        raise TypeError(f"{what}={names!r}: must be a collection of names")
    if not names:
        raise ValueError(f"{what}={names!r}: at least one is needed")
    return frozenset(checked_name(what, each) for each in names)
