"""Signed tokens: what they say, who believes them, and that nothing else is believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import pickle
import subprocess
import sys
from datetime import timedelta
from typing import Any

import jwt as pyjwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.errors import TokenError
from service_utils.integrations.jwt import (
    Claims,
    Flaw,
    Key,
    KeySet,
    SignedToken,
    TokenRefused,
    TokenVerifier,
    new_jwk,
    public_jwk,
)
from service_utils.testing import FakeClock

SECRET = "0123456789abcdef0123456789abcdef"
ED25519 = new_jwk("ed-1")
KINDS = ["HS256", "EdDSA"]


def keys(kind: str = "HS256") -> KeySet:
    """A set of one key."""
    return KeySet([Key.hs256("hs-1", SECRET) if kind == "HS256" else Key.from_jwk(ED25519)])


def token_of(provider: SignedToken, name: str = "billing") -> str:
    """The token for a service."""
    return provider.headers(name)["X-INTERNAL-TOKEN"]


def claims(clock: FakeClock, **other: Any) -> dict[str, Any]:
    """Good claims, but for those that are given; None leaves one out."""
    now = int(clock.now().timestamp())
    good = {"iss": "backend", "aud": "billing", "iat": now, "exp": now + 60, "jti": "one", **other}
    return {name: value for name, value in good.items() if value is not None}


def signed(said: Any, **headers: Any) -> str:
    """A token by PyJWT itself."""
    return pyjwt.PyJWS().encode(
        json.dumps(said).encode(), SECRET.encode(), "HS256", headers={"kid": "hs-1", **headers}
    )


def flaw_of(verifier: TokenVerifier, token: str) -> Flaw | None:
    """Why a token is refused; None for an accepted one."""
    try:
        verifier.verify(token)
    except TokenRefused as refusal:
        return refusal.flaw
    return None


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def verifier(clock: FakeClock) -> TokenVerifier:
    """Billing, which knows the shared secret."""
    return TokenVerifier(keys(), "billing", clock=clock)


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TestSigning:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_token_says_who_for_whom_and_how_long(self, kind: str, clock: FakeClock) -> None:
        """The receiver learns the sender, itself, the times and the key; nothing else is in there."""
        token = token_of(SignedToken(keys(kind), "backend", clock=clock, lifetime=60))
        now = clock.now().timestamp()
        said = TokenVerifier(keys(kind), "billing", clock=clock).verify(token)
        kid = "hs-1" if kind == "HS256" else "ed-1"
        assert said == Claims("backend", "billing", kid, said.token_id, now, now + 60)
        assert len(said.token_id) == 32
        raw = pyjwt.decode(token, options={"verify_signature": False, "verify_exp": False})
        assert raw.keys() == {"iss", "aud", "iat", "exp", "jti"}
        assert pyjwt.get_unverified_header(token) == {"alg": kind, "kid": kid, "typ": "JWT"}

    def test_a_token_is_used_until_shortly_before_its_end(self, clock: FakeClock) -> None:
        """Each service gets a token of its own, and a new one when a quarter of its time is left."""
        provider = SignedToken(keys(), "backend", clock=clock, lifetime=60)
        first = token_of(provider)
        assert token_of(provider, "git") != first
        clock.advance(44)
        assert token_of(provider) == first
        clock.advance(1)
        assert token_of(provider) != first

    @pytest.mark.parametrize("jump", [timedelta(hours=2), timedelta(hours=-2)])
    def test_a_clock_that_jumps_makes_a_new_token(self, clock: FakeClock, jump: timedelta) -> None:
        """When the time of day has been set, a token with the times of before is not sent any more."""
        provider = SignedToken(keys(), "backend", clock=clock)
        first = token_of(provider)
        clock.set_now(clock.now() + jump)
        assert token_of(provider) != first
        assert flaw_of(TokenVerifier(keys(), "billing", clock=clock), token_of(provider)) is None

    def test_a_clock_that_is_set_back_again_and_again_makes_no_token_live_on(self, clock: FakeClock) -> None:
        """A token is used for no longer than its time, whatever the time of day says."""
        provider = SignedToken(keys(), "backend", clock=clock, lifetime=60)
        first, start = token_of(provider), clock.now()
        clock.advance(45)
        clock.set_now(start)
        assert token_of(provider) != first

    def test_a_bearer_token_travels_in_authorization(self, clock: FakeClock) -> None:
        """Where the header is Authorization, both sides speak of Bearer."""
        sent = SignedToken(keys(), "backend", header="Authorization", clock=clock).headers("billing")
        assert sent["Authorization"].startswith("Bearer ey")

    def test_what_is_handed_out_can_be_changed_without_harm(self, clock: FakeClock) -> None:
        """A caller that adds a header of its own to those it got adds it to nobody else's."""
        provider = SignedToken(keys(), "backend", clock=clock)
        provider.headers("billing")["X-Mine"] = "1"
        assert provider.headers("billing").keys() == {"X-INTERNAL-TOKEN"}

    def test_a_public_key_signs_nothing(self, clock: FakeClock) -> None:
        """A service that can only verify cannot call with signed tokens."""
        only_public = KeySet([Key.from_jwk(public_jwk(ED25519))])
        with pytest.raises(TokenError, match="no key"):
            SignedToken(only_public, "backend", clock=clock).headers("billing")

    def test_a_token_needs_somebody_to_be_for(self, clock: FakeClock) -> None:
        """A token for nobody in particular would be one for everybody."""
        with pytest.raises(TokenError, match="name of the service"):
            SignedToken(keys(), "backend", clock=clock).headers("")

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"keys": SECRET}, TypeError),
            ({"issuer": ""}, ValueError),
            ({"issuer": None}, TypeError),
            ({"lifetime": 0}, ValueError),
            ({"lifetime": 301}, ValueError),
            ({"lifetime": "60"}, TypeError),
            ({"header": "X Token"}, ValueError),
        ],
    )
    def test_bad_arguments_are_refused(self, arguments: dict[str, Any], error: type[Exception]) -> None:
        """A provider that could never work is found where it is made, and no secret is quoted."""
        with pytest.raises(error) as raised:
            SignedToken(**{"keys": keys(), "issuer": "backend", **arguments})
        assert SECRET not in str(raised.value)


class TestVerifying:
    @pytest.mark.parametrize(
        ("other", "flaw"),
        [
            ({}, None),
            ({"aud": ["billing"]}, None),
            ({"extra": {"a": 1}}, None),
            ({"aud": "git"}, Flaw.WRONG_AUDIENCE),
            ({"aud": "Billing"}, Flaw.WRONG_AUDIENCE),
            ({"aud": ["billing", "git"]}, Flaw.INCOMPLETE),
            ({"aud": None}, Flaw.INCOMPLETE),
            ({"aud": ""}, Flaw.INCOMPLETE),
            ({"iss": None}, Flaw.INCOMPLETE),
            ({"iss": 7}, Flaw.INCOMPLETE),
            ({"jti": None}, Flaw.INCOMPLETE),
            ({"exp": None}, Flaw.INCOMPLETE),
            ({"iat": None}, Flaw.INCOMPLETE),
            ({"exp": "soon"}, Flaw.INCOMPLETE),
            ({"exp": True}, Flaw.INCOMPLETE),
            ({"exp": float("nan")}, Flaw.INCOMPLETE),
            ({"exp": 10**400}, Flaw.INCOMPLETE),
            ({"iat": -1}, Flaw.INCOMPLETE),
            ({"nbf": "x"}, Flaw.INCOMPLETE),
        ],
    )
    def test_what_a_token_has_to_say(
        self, verifier: TokenVerifier, clock: FakeClock, other: dict[str, Any], flaw: Flaw | None
    ) -> None:
        """Sender, one receiver, times and an id have to be there and make sense."""
        assert flaw_of(verifier, signed(claims(clock, **other))) == flaw

    @pytest.mark.parametrize(
        ("iat", "exp", "nbf", "flaw"),
        [
            (0, 300, None, None),
            (0, 301, None, Flaw.TOO_LONG),
            (0, 0, None, Flaw.TOO_LONG),
            (10, 5, None, Flaw.TOO_LONG),
            (10, 60, None, None),
            (11, 60, None, Flaw.NOT_YET),
            (0, 60, 10, None),
            (0, 60, 11, Flaw.NOT_YET),
            (11, 60, 0, Flaw.NOT_YET),
            (-60, -9, None, None),
            (-60, -10, None, Flaw.EXPIRED),
            (-290, 10**9, None, Flaw.TOO_LONG),
        ],
    )
    def test_times_and_leeway(
        self,
        verifier: TokenVerifier,
        clock: FakeClock,
        iat: int,
        exp: int,
        nbf: int | None,
        flaw: Flaw | None,
    ) -> None:
        """Clocks may differ by ten seconds; no token is good for longer than five minutes."""
        now = int(clock.now().timestamp())
        times = {"iat": now + iat, "exp": now + exp, "nbf": None if nbf is None else now + nbf}
        assert flaw_of(verifier, signed(claims(clock, **times))) == flaw

    def test_only_admitted_issuers_are_let_in(self, clock: FakeClock) -> None:
        """A service may say who may call it, whoever else has a key."""
        verifier = TokenVerifier(keys(), "billing", issuers=["backend"], clock=clock)
        assert flaw_of(verifier, signed(claims(clock))) is None
        assert flaw_of(verifier, signed(claims(clock, iss="git"))) is Flaw.WRONG_ISSUER

    def test_a_key_of_one_service_cannot_speak_for_another(self, clock: FakeClock) -> None:
        """A compromised neighbour with a key of its own cannot pass for the backend."""
        neighbour = new_jwk("git-1", iss="git")
        known = KeySet([Key.from_jwk(public_jwk(ED25519)), Key.from_jwk(public_jwk(neighbour))])
        verifier = TokenVerifier(known, "billing", clock=clock)
        forged = Key.from_jwk(neighbour).sign(claims(clock, iss="backend"))
        assert flaw_of(verifier, forged) is Flaw.WRONG_ISSUER
        assert flaw_of(verifier, Key.from_jwk(neighbour).sign(claims(clock, iss="git"))) is None

    def test_an_unsigned_token_is_refused(self, verifier: TokenVerifier, clock: FakeClock) -> None:
        """`none` is no algorithm, however it is spelled."""
        for name in ("none", "None", "NONE", "", None, 0):
            header = b64(json.dumps({"alg": name, "kid": "hs-1", "typ": "JWT"}).encode())
            payload = b64(json.dumps(claims(clock)).encode())
            for signature in ("", b64(b"x")):
                assert flaw_of(verifier, f"{header}.{payload}.{signature}") is not None

    def test_a_public_key_is_no_shared_secret(self, clock: FakeClock) -> None:
        """A token signed with the bytes of a public key as HS256 secret is refused: the key says EdDSA."""
        public = public_jwk(ED25519)
        verifier = TokenVerifier(KeySet([Key.from_jwk(public)]), "billing", clock=clock)
        header = b64(json.dumps({"alg": "HS256", "kid": "ed-1"}).encode())
        signing_input = f"{header}.{b64(json.dumps(claims(clock)).encode())}"
        raw = base64.urlsafe_b64decode(public["x"] + "=")
        for secret in (raw, public["x"].encode(), json.dumps(public).encode()):
            signature = b64(hmac.new(secret, signing_input.encode(), hashlib.sha256).digest())
            assert flaw_of(verifier, f"{signing_input}.{signature}") is Flaw.BAD_SIGNATURE

    def test_the_same_secret_with_another_hash_is_refused(
        self, verifier: TokenVerifier, clock: FakeClock
    ) -> None:
        """A key has one algorithm, also among those that would fit it."""
        token = pyjwt.encode(claims(clock), SECRET * 2, "HS512", headers={"kid": "hs-1"})
        assert flaw_of(verifier, token) is Flaw.BAD_SIGNATURE

    @pytest.mark.parametrize(
        "headers",
        [
            {"jwk": public_jwk(ED25519)},
            {"jku": "https://evil.example/keys"},
            {"x5u": "https://evil.example/cert"},
            {"crit": ["exp"]},
            {"zip": "DEF"},
        ],
    )
    def test_headers_that_give_orders_are_refused(
        self, verifier: TokenVerifier, clock: FakeClock, headers: dict[str, Any]
    ) -> None:
        """A token names a key that we have; it cannot bring one or send us to fetch one."""
        assert flaw_of(verifier, signed(claims(clock), **headers)) is Flaw.MALFORMED

    def test_a_token_without_the_name_of_a_key_is_refused(
        self, verifier: TokenVerifier, clock: FakeClock
    ) -> None:
        """No key is guessed."""
        assert flaw_of(verifier, pyjwt.encode(claims(clock), SECRET, "HS256")) is Flaw.MALFORMED
        assert flaw_of(verifier, signed(claims(clock), kid="other")) is Flaw.UNKNOWN_KEY

    @pytest.mark.parametrize("kind", KINDS)
    def test_whatever_is_changed_in_a_token_breaks_it(self, kind: str, clock: FakeClock) -> None:
        """Each character of a token counts."""
        verifier = TokenVerifier(keys(kind), "billing", clock=clock)
        token = token_of(SignedToken(keys(kind), "backend", clock=clock))
        # Of the last character of a part only some bits count.
        ends = {token.index(".") - 1, token.rindex(".") - 1, len(token) - 1}
        for place in set(range(len(token))) - ends:
            other = "A" if token[place] != "A" else "B"
            assert flaw_of(verifier, token[:place] + other + token[place + 1 :]) is not None

    @given(
        st.text(max_size=200)
        | st.lists(st.binary(max_size=60), max_size=4).map(lambda x: ".".join(map(b64, x)))
    )
    def test_nonsense_is_refused_and_nothing_worse(self, text: str) -> None:
        """No text whatever gets in or breaks the verifier."""
        assert flaw_of(TokenVerifier(keys(), "billing", clock=FakeClock()), text) is not None

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
            lambda x: (
                st.lists(x, max_size=3)
                | st.dictionaries(st.sampled_from(["iss", "aud", "exp", "iat", "nbf", "jti"]), x, max_size=6)
            ),
            max_leaves=8,
        )
    )
    def test_odd_claims_are_refused_and_nothing_worse(self, said: Any) -> None:
        """Whoever has a key and a bug is refused like anybody else."""
        assert flaw_of(TokenVerifier(keys(), "billing", clock=FakeClock()), signed(said)) is not None

    def test_a_token_as_long_as_a_book_is_not_read(self, verifier: TokenVerifier, clock: FakeClock) -> None:
        """What is too long costs no work."""
        assert flaw_of(verifier, signed(claims(clock, extra="x" * 5000))) is Flaw.MALFORMED

    def test_deeply_nested_json_is_refused(self, verifier: TokenVerifier) -> None:
        """A payload that would exhaust the stack is malformed."""
        nested = b"[" * 1400 + b"]" * 1400
        token = pyjwt.PyJWS().encode(nested, SECRET.encode(), "HS256", headers={"kid": "hs-1"})
        assert flaw_of(verifier, token) is Flaw.MALFORMED

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"keys": keys}, TypeError),
            ({"audience": ""}, ValueError),
            ({"audience": []}, ValueError),
            ({"audience": 5}, TypeError),
            ({"issuers": "backend"}, TypeError),
            ({"issuers": []}, ValueError),
            ({"leeway": -1}, ValueError),
            ({"leeway": 61}, ValueError),
            ({"max_lifetime": 0}, ValueError),
            ({"max_lifetime": 301}, ValueError),
        ],
    )
    def test_bad_arguments_are_refused(self, arguments: dict[str, Any], error: type[Exception]) -> None:
        """A verifier that would let in too many or nobody is found where it is made."""
        with pytest.raises(error):
            TokenVerifier(**{"keys": keys(), "audience": "billing", **arguments})


class TestSecrecy:
    @pytest.mark.parametrize("kind", KINDS)
    def test_nothing_shows_a_secret(self, kind: str, clock: FakeClock) -> None:
        """Keys, providers and verifiers print without secrets and tokens, and keys are not pickled."""
        known = keys(kind)
        provider = SignedToken(known, "backend", clock=clock)
        token = token_of(provider)
        shown = repr(
            [known, list(known._keys.values()), provider, provider._made, TokenVerifier(known, "billing")]
        )
        for secret in (SECRET, ED25519["d"], token, token.rpartition(".")[2]):
            assert secret not in shown
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(next(iter(known._keys.values())))

    def test_the_log_tells_why_and_nothing_of_the_token(
        self, verifier: TokenVerifier, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An operator reads the reason of a refusal; a reader of leaked logs gains nothing."""
        from werkzeug.datastructures import Headers

        token = signed(claims(clock, aud="git"))
        with caplog.at_level(logging.DEBUG):
            verifier(Headers({"X-INTERNAL-TOKEN": token}))
        assert "meant for another service" in caplog.text
        assert not any(part in caplog.text for part in token.split("."))

    def test_importing_the_package_loads_no_jwt(self) -> None:
        """Whoever does not sign tokens needs no PyJWT; and signing needs no Flask."""
        code = (
            "import sys, service_utils; assert 'jwt' not in sys.modules;"
            "import service_utils.integrations.flask; assert 'jwt' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
        code = "import sys, service_utils.integrations.jwt; assert 'flask' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
