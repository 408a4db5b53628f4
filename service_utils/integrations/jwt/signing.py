"""The token provider: a short-lived JWT for each service that is called."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from service_utils.clock import Clock
from service_utils.errors import TokenError
from service_utils.http.tokens import INTERNAL_TOKEN_HEADER
from service_utils.integrations.jwt.key_set import KeySet
from service_utils.integrations.jwt.keys import Key
from service_utils.integrations.jwt.sources import KeySource
from service_utils.policies.checks import checked_clock, require_seconds

__all__ = ["LONGEST_LIFETIME", "SignedToken", "checked_name"]

LONGEST_LIFETIME = 300.0  # seconds
_USED_FOR = 0.75  # of its lifetime: what is left is for clocks that differ and requests that travel


@dataclass(frozen=True, slots=True)
class _Made:
    """A token that was made, and when."""

    headers: dict[str, str] = field(repr=False)
    keys: KeySet
    lifetime: float
    at: float  # seconds since the epoch
    at_monotonic: float

    def fresh(self, now: float, monotonic: float) -> bool:
        """Whether it may be used on, by both clocks: the time of day can jump, and receivers go by theirs."""
        usable = self.lifetime * _USED_FOR
        return 0 <= now - self.at < usable and 0 <= monotonic - self.at_monotonic < usable


class SignedToken:
    """Proves who we are by a JWT that is good for one service and a short time.

    Its claims are ``iss`` (us), ``aud`` (the name of the client that asks), ``iat``, ``exp`` and a random
    ``jti``; its header names the key. A token is used for three quarters of its lifetime, or until the keys
    change. After a 401 the client has it made anew, once for all its threads, with keys read anew.

    For any number of threads and clients; forks do no harm.

    Args:
        keys: Where the keys come from.
        issuer: The name of this service.
        lifetime: Seconds a token is good for: 1 to 300.
        header: The header it travels in; in ``Authorization`` it does as ``Bearer``.
        clock: What times and lifetimes are measured with.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is no good.
    """

    def __init__(
        self,
        keys: KeySource,
        issuer: str,
        *,
        lifetime: float = 60.0,
        header: str = INTERNAL_TOKEN_HEADER,
        clock: Clock | None = None,
    ) -> None:
        self._keys = checked_source(keys)
        self._issuer = checked_name("issuer", issuer)
        require_seconds("lifetime", lifetime)
        if not 1 <= lifetime <= LONGEST_LIFETIME:
            raise ValueError(f"lifetime={lifetime!r}: must be 1 to {LONGEST_LIFETIME:g} seconds")
        self._lifetime = lifetime
        self._header = checked_name("header", header)
        self._clock = checked_clock(clock)
        self._made: dict[str, _Made] = {}  # by the name of the called service; replaced item by item

    def headers(self, name: str) -> dict[str, str]:
        """The header with a token for the service ``name``.

        Raises:
            TokenError: There is no key to sign with.
        """
        keys, made = self._keys.current(), self._made.get(name)
        if (
            made is None
            or made.keys is not keys
            or not made.fresh(self._clock.now().timestamp(), self._clock.monotonic())
        ):
            made = self._make(name, keys)
        return dict(made.headers)

    def refresh(self, name: str) -> bool:
        """Make a new token, with keys read anew.

        Raises:
            TokenError: There is no key to sign with.
        """
        self._make(name, self._keys.reload())
        return True

    def _make(self, name: str, keys: KeySet) -> _Made:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        key = keys.signing_key(self._issuer, now)
        issued_at = math.floor(now.timestamp())
        expires_at = issued_at + math.ceil(self._lifetime)
        if key.retired_from is not None:  # nobody would believe it any longer
            expires_at = min(expires_at, math.floor(key.retired_from.timestamp()))
        token = self._sign(key, name, issued_at, expires_at)
        value = f"Bearer {token}" if self._header.lower() == "authorization" else token
        lifetime = expires_at - now.timestamp()
        made = _Made({self._header: value}, keys, lifetime, now.timestamp(), monotonic)
        self._made[name] = made
        return made

    def _sign(self, key: Key, name: str, issued_at: int, expires_at: int) -> str:
        if not name:
            raise TokenError("a signed token needs the name of the service it is for")
        return key.sign(
            {
                "iss": self._issuer,
                "aud": name,
                "iat": issued_at,
                "exp": expires_at,
                "jti": os.urandom(16).hex(),
            }
        )

    def __repr__(self) -> str:
        return f"SignedToken(issuer={self._issuer!r})"


def checked_source(keys: object) -> KeySource:
    """A source of keys.

    Raises:
        TypeError: It is something else, such as a key itself.
    """
    if not callable(getattr(keys, "current", None)) or not callable(getattr(keys, "reload", None)):
        raise TypeError(f"keys: must be a KeySet, KeyFile or EnvKeys, not {type(keys).__name__}")
    return keys  # type: ignore[return-value]


def checked_name(what: str, name: object) -> str:
    """A name that can travel in a claim or as a header.

    Raises:
        TypeError: It is no string.
        ValueError: It is empty, longer than 128 characters or not visible ASCII.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what}={name!r}: must be a string")
    if not 1 <= len(name) <= 128 or not all("!" <= each <= "~" for each in name):
        raise ValueError(f"{what}={name!r}: must be 1 to 128 visible ASCII characters")
    return name
